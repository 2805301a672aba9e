"""transformers' `Trainer` with nbaccel in Accelerate's place: the same losses, files and resumed runs as with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runtime_ranks import run_ranks
from test_library_loops import assert_close

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

HERE = Path(__file__).parent
JOBS = ["classifier", "accumulated", "bf16", "clever", "saved", "resumed"]
NOISE = {"rtol": 1e-4, "atol": 1e-5}
"""Losses are logged with four places; weights have gone through several steps of Adam on two processes."""
BF16_NOISE = {"rtol": 2e-2, "atol": 2e-3}

Notes = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def notes_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], list[Notes]]:
    """The notes of each rank; each library is launched once on a number of processes."""
    known: dict[tuple[str, int], list[Notes]] = {}

    def of(library: str, size: int) -> list[Notes]:
        if (library, size) not in known:
            folder = tmp_path_factory.mktemp(f"{library}{size}")
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HF_HUB_OFFLINE", "1")
                job = str(HERE / "trainer_job.py")
                run_ranks(
                    size, HERE / "library_names.py", "accelerate", library, job, library, str(folder), timeout_s=800
                )
            known[library, size] = [json.loads((folder / f"{library}-{rank}.json").read_text()) for rank in range(size)]
        return known[library, size]

    return of


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("job", JOBS)
def test_same_as_with_accelerate(job: str, size: int, notes_of: Callable[[str, int], list[Notes]]) -> None:
    noise = BF16_NOISE if job == "bf16" else NOISE
    for rank, (found, expected) in enumerate(zip(notes_of("nbaccel", size), notes_of("accelerate", size), strict=True)):
        assert_close(found[job], expected[job], noise, f"rank {rank}")


@pytest.mark.parametrize("size", [1, 2])
def test_a_resumed_run_ends_where_the_whole_run_ended(size: int, notes_of: Callable[[str, int], list[Notes]]) -> None:
    for found in notes_of("nbaccel", size):
        assert found["resumed"]["weights"] == found["saved"]["weights"]
        assert found["resumed"]["steps"] == [4, 5, 6]
