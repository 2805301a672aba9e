"""Loops in the style of libraries that use Accelerate: the name is written for the other, all else stays as it is.

The same launch gives the same losses, rates, gathered values and files with both.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runtime_ranks import run_ranks, with_library

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = Path(__file__).parent / "library_loops.py"
LOOPS = [
    "diffusion", "diffusion resumed", "reinforcement", "language", "language resumed in an epoch",
    "language resumed after an epoch",
]  # fmt: skip
NOISE = {"rtol": 2e-5, "atol": 2e-6}
"""Several processes add gradients in another order: some units in the last place of float32."""
BF16_NOISE = {"rtol": 2e-2, "atol": 2e-3}
"""A last place of float32 can turn over a rounding to bf16, whose last place is 2**-8 of the value."""

OUT_OF_ORDER = [
    ("language resumed in an epoch", 1), ("language resumed in an epoch", 2), ("language resumed after an epoch", 1),
    ("language resumed after an epoch", 2), ("diffusion resumed", 2),
]  # fmt: skip
"""Accelerate saves no loader's pass, and on two processes `set_epoch` does not reach the sampler: it resumes with the
order of the first pass, and ends elsewhere than its own whole run."""

NotesOf = Callable[[str, int], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def notes_of(tmp_path_factory: pytest.TempPathFactory) -> NotesOf:
    """The notes of a library on a number of processes; each is launched once."""
    known: dict[tuple[str, int], list[dict[str, Any]]] = {}

    def of(library: str, size: int) -> list[dict[str, Any]]:
        if (library, size) not in known:
            folder = tmp_path_factory.mktemp(f"{library}{size}")
            run_ranks(size, with_library(SCRIPT, library, folder), str(folder))
            known[library, size] = [torch.load(folder / f"notes-{rank}.pt") for rank in range(size)]
        return known[library, size]

    return of


def assert_close(found: Any, expected: Any, noise: dict[str, float], place: str) -> None:
    """Numbers with a fraction within the noise, all else equal; through lists and dicts."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), place
        for key in expected:
            assert_close(found[key], expected[key], noise, f"{place}/{key}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), place
        for number, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_close(one, other, noise, f"{place}/{number}")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=noise["rtol"], abs=noise["atol"]), place
    else:
        assert found == expected, place


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("loop", LOOPS)
def test_same_as_with_accelerate(loop: str, size: int, notes_of: NotesOf) -> None:
    noise = BF16_NOISE if loop.startswith("diffusion") else NOISE
    pairs = zip(notes_of("nbaccel", size), notes_of("accelerate", size), strict=True)
    for rank, (found, expected) in enumerate(pairs):
        compared = found[loop].keys() & {"done", "names", "saved", "steps"}
        for key in compared if (loop, size) in OUT_OF_ORDER else found[loop]:
            assert_close(found[loop][key], expected[loop][key], noise, f"rank {rank}/{key}")


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("loop", [loop for loop in LOOPS if "resumed" in loop])
def test_resuming_ends_where_the_whole_run_ends(loop: str, size: int, notes_of: NotesOf) -> None:
    """To the bit: weights, random states and the order of the data all come back."""
    whole = loop.partition(" resumed")[0]
    for found in notes_of("nbaccel", size):
        rest = found[loop]["losses"]
        assert rest == found[whole]["losses"][-len(rest) :]
        assert found[loop]["weights"] == found[whole]["weights"]
