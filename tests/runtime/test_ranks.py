"""The runtime on real process groups."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from runtime_ranks import CHECKS, Verdicts

NAMES: list[str] = re.findall(r"^def (check_\w+)\(\)", CHECKS.read_text(), re.MULTILINE)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_on_ranks(name: str, size: int, verdicts: Callable[[int], Verdicts]) -> None:
    troubles = verdicts(size)[name]
    assert len(troubles) == size
    assert not any(troubles), "\n".join(filter(None, troubles))
