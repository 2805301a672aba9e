"""What a test of the set-up found, as values that print."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass

from nbaccel.runtime.selftest.notes import FAILED, PASSED

START = "start"
"""The check before all others: the workers come to life."""
NOT_RUN = "not run"

_MARKS: Mapping[str, str] = {PASSED: "[ok]", FAILED: "[FAILED]", NOT_RUN: "[--]"}

REMEDIES: Mapping[str, str] = {
    START: "`nbaccel doctor` looks for causes.",
    "devices": "Compare with what nvidia-smi and `nbaccel doctor` show, or train on the CPU: --cpu.",
    "collectives": "TORCH_DISTRIBUTED_DEBUG=DETAIL and NCCL_DEBUG=INFO show more. GLOO_SOCKET_IFNAME and "
    "NCCL_SOCKET_IFNAME choose the network interface; NCCL_P2P_DISABLE=1 avoids a broken link between GPUs.",
    "precision": "`nbaccel config show` says who asked for it; --mixed-precision no is right on all hardware.",
    "training step": "Try --mixed-precision no and --gradient-accumulation-steps 1. If it still fails, the fault is "
    "nbaccel's: please report it.",
    "data loader": "`nbaccel config show` says who set dataloader_config. If nobody did, please report it.",
    "checkpoint": "Look whether the disk of the temporary folder is full; TMPDIR names another one.",
    "random numbers": "Look for what replaces a generator, such as a sitecustomize.py. Else please report it.",
}
"""What to do when a check fails."""

AFTER_A_DEATH = "The last output may say why; `nbaccel doctor` looks for causes, such as too little memory."
"""What to do when a worker ended in the middle of a check."""
AFTER_A_HANG = "On a slow machine, give it more time: --timeout 300. "
"""What to do first when a worker came to no end."""

_INDENT = " " * 36


@dataclass(frozen=True)
class Result:
    """What came of one check.

    Attributes:
        check: its name.
        state: `passed`, `failed` or `not run`.
        seconds: the slowest rank's time.
        text: what was seen, or what is wrong on which rank.
        remedy: what to do; left out: what helps for this check.
    """

    check: str
    state: str = NOT_RUN
    seconds: float = 0.0
    text: str = ""
    remedy: str = ""

    def __str__(self) -> str:
        """One line; one that failed has more, and says what to do."""
        took = NOT_RUN if self.state == NOT_RUN else f"{self.seconds:.1f} s"
        first, *more = self.text.split("\n")
        lines = [f"{_MARKS[self.state]:<8}  {self.check:<15} {took:>7}  {first}".rstrip()]
        lines += [_INDENT + line for line in more]
        if self.state == FAILED:
            lines.append(f"{_INDENT}What to do: {self.remedy or REMEDIES[self.check]}")
        return "\n".join(lines)


@dataclass(frozen=True, repr=False)
class Report:
    """What all checks say; prints as text.

    Attributes:
        headline: what was tested.
        results: what came of each check, in their order.
        seconds: how long it took altogether.
        output: the last that the workers printed, where something failed.
    """

    headline: str
    results: tuple[Result, ...]
    seconds: float
    output: str = ""

    @property
    def passed(self) -> bool:
        """Whether all is well."""
        return all(result.state == PASSED for result in self.results)

    @property
    def verdict(self) -> str:
        """One line, after the last output if something failed."""
        if self.passed:
            return f"All {len(self.results)} checks passed in {self.seconds:.1f} s."
        failed = ", ".join(result.check for result in self.results if result.state == FAILED)
        left = sum(result.state == NOT_RUN for result in self.results)
        output = f"The last output:\n{self.output}\n" if self.output else ""
        return f"{output}FAILED: {failed}{f' ({left} checks were not run)' if left else ''}."

    def __str__(self) -> str:
        return "\n".join([self.headline, *map(str, self.results), self.verdict])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"
