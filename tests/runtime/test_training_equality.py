"""The training is right: the same numbers as bare torch and as Accelerate, on one, two and three real processes.

Both libraries run the same loops (`training_loops.py`, in which the one name is written for the other); the bare
reference (`bare_ranks.py`) computes each rank's pass and gives all of them the mean gradient, as DDP does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from bare_ranks import reference
from runtime_ranks import run_ranks, with_library
from training_scenarios import Scenario, scenarios

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

HERE = Path(__file__).parent
ADVERSARIES = Scenario("adversaries")
CASES = [
    pytest.param(size, one, id=f"{size}-{one.name}") for size in (1, 2, 3) for one in [*scenarios(size), ADVERSARIES]
]
SAMPLES = ("seen", "synced", "rates")
"""What is decided, not computed: equal to the bit everywhere."""
NOISE = {"rtol": 2e-5, "atol": 2e-6}
"""Several processes add gradients in another order than the reference: some units in the last place of float32."""
BF16_NOISE = {"rtol": 2e-2, "atol": 2e-3}
"""A last place of float32 can turn over a rounding to bf16, whose last place is 2**-8 of the value."""

Notes = dict[str, dict[str, Any]]
NotesOf = Callable[[str, int], list[Notes]]


def run_loops(library: str, size: int, folder: Path) -> list[Notes]:
    """What each rank notes when `size` processes run all scenarios with a library."""
    run_ranks(size, with_library(HERE / "training_loops.py", library, folder), str(folder))
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


@pytest.fixture(scope="module")
def notes_of(tmp_path_factory: pytest.TempPathFactory) -> NotesOf:
    """The notes of a library on a number of processes; each is launched once."""
    known: dict[tuple[str, int], list[Notes]] = {}

    def of(library: str, size: int) -> list[Notes]:
        if (library, size) not in known:
            known[library, size] = run_loops(library, size, tmp_path_factory.mktemp(f"{library}{size}"))
        return known[library, size]

    return of


def assert_same(found: dict[str, Any], expected: dict[str, Any], precision: str) -> None:
    """Decisions to the bit, numbers within the noise of their precision."""
    assert found.keys() == expected.keys()
    for key in SAMPLES:
        assert found.get(key) == expected.get(key), key
    noise = BF16_NOISE if precision == "bf16" else NOISE
    for key in ("losses", "norms", "weights"):
        numbers, wanted = torch.tensor(found.get(key, [])), torch.tensor(expected.get(key, []))
        torch.testing.assert_close(numbers, wanted, **noise, msg=lambda said, key=key: f"{key}: {said}")
    pairs = zip(found.get("metrics", []), expected.get("metrics", []), strict=True)
    for (predictions, numbers), (wanted_predictions, wanted_numbers) in pairs:
        assert numbers == wanted_numbers
        torch.testing.assert_close(torch.tensor(predictions), torch.tensor(wanted_predictions), **noise)


@pytest.fixture
def one_thread() -> Any:
    """As in the ranks: another number of threads would add in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("size", "scenario"), CASES)
def test_same_numbers_as_bare_torch(size: int, scenario: Scenario, notes_of: NotesOf) -> None:
    found = [notes[scenario.name] for notes in notes_of("nbaccel", size)]
    expected = reference(scenario, size)
    if size == 1:
        assert found == expected
        return
    for own, wanted in zip(found, expected, strict=True):
        assert_same(own, wanted, scenario.precision)
        assert own["weights"] == found[0]["weights"]


@pytest.mark.parametrize(("size", "scenario"), CASES)
def test_same_numbers_as_accelerate(size: int, scenario: Scenario, notes_of: NotesOf) -> None:
    found = [notes[scenario.name] for notes in notes_of("nbaccel", size)]
    expected = [notes[scenario.name] for notes in notes_of("accelerate", size)]
    if size == 1:
        assert found == expected
        return
    for own, wanted in zip(found, expected, strict=True):
        assert_same(own, wanted, scenario.precision)
