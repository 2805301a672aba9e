"""A check-up as text: what was found, what a launch does and why, what stands in its way."""

from __future__ import annotations

import html
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbaccel.config import Layer, Resolved, table
from nbaccel.launch.checkup.findings import Findings, gather
from nbaccel.launch.checkup.problems import Problem, problems
from nbaccel.machine import Machine
from nbaccel.machine.words import describe_devices, in_gib
from nbaccel.plan import Plan


@dataclass(frozen=True, repr=False)
class Checkup:
    """A check-up; prints as text.

    Attributes:
        findings: the facts.
        problems: what stands in the way of a launch, the worst first.
    """

    findings: Findings
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        sections = [
            ("Machine", _machine(self.findings)),
            ("Versions", _versions(self.findings)),
            ("Configuration files", _files(self.findings)),
            ("What somebody has set", _settings(self.findings)),
            ("What a launch does", _decision(self.findings)),
            ("Problems", _problems(self.problems)),
        ]
        return "\n\n".join("\n".join([heading, *(f"  {line}" for line in lines)]) for heading, lines in sections)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def check_up(*layers: Layer, machine: Machine | None = None, folder: Path | None = None, **given: Any) -> Checkup:
    """Look at machine, installation and configuration; nothing is started, and torch is not imported.

    Args:
        layers: what the caller gives, highest first.
        machine: what exists; left out: probed now.
        folder: where the search for the project file begins; left out: the working folder.
        given: `config_file`, `environ` and `launcher`, as `findings.gather` takes them.
    """
    found = gather(*layers, machine=machine, folder=folder, **given)
    return Checkup(found, tuple(problems(found)))


def _machine(found: Findings) -> Iterator[str]:
    machine = found.machine
    yield f"platform  {machine.platform}"
    yield f"cores     {machine.usable_cores} usable, {machine.physical_cores} of them physical"
    yield f"memory    {in_gib(machine.memory_bytes)}, {in_gib(found.free_memory_bytes)} free"
    if found.shared_memory_bytes is not None:
        yield f"/dev/shm  {in_gib(found.shared_memory_bytes)} free"
    for device in describe_devices(machine):
        yield f"device    {device}"


def _versions(found: Findings) -> Iterator[str]:
    for package, installed in found.versions.items():
        made_for = f" (made {f'for CUDA {found.torch_cuda}' if found.torch_cuda else 'without CUDA'})"
        if package == "torch" and installed:
            yield f"{package:<12} {installed}{made_for}"
        elif installed or package not in ("torch_xla", "torch-tpu"):
            yield f"{package:<12} {installed or 'not installed'}"


def _files(found: Findings) -> Iterator[str]:
    for kind, path, is_there in found.files:
        yield f"{'found' if is_there else 'not there':<10} {kind:<13} {path}"
    for note in found.resolved.notes if found.resolved is not None else ():
        yield f"note: {note}"


def _settings(found: Findings) -> list[str]:
    if found.resolved is None:
        return ["the configuration is not valid, see below"]
    of_notebooks = ("start_method",) if found.plan is not None and found.plan.launcher == "torchrun" else ()
    keys = [key for key in found.resolved.given() if key not in of_notebooks]
    return str(table(found.resolved, keys)).splitlines()


def _decision(found: Findings) -> list[str]:
    if found.plan is None or found.resolved is None:
        return ["nothing, see below"]
    return [found.plan.describe(), *reasons(found.resolved, found.plan, found.machine)]


def reasons(resolved: Resolved, plan: Plan, machine: Machine) -> Iterator[str]:
    """Why a launch does what it does, one line per decision. Pure."""
    yield f"device   {plan.device}: {_why_device(resolved, plan)}"
    count = plan.world_size
    if _who(resolved, "num_processes"):
        yield f"workers  {count}: num_processes is set by {_who(resolved, 'num_processes')}"
    elif plan.device == "cpu" and count > 1:
        yield f"workers  {count}: num_processes is left out, so one per physical core, up to 4"
    else:
        yield f"workers  {count}: num_processes is left out, so one per device"
    if _who(resolved, "num_cpu_threads_per_process"):
        why = f"num_cpu_threads_per_process is set by {_who(resolved, 'num_cpu_threads_per_process')}"
    else:
        why = f"{machine.usable_cores} usable cores for {plan.local_world_size} workers here"
    yield f"threads  {plan.threads_per_worker}: {why}"


def _why_device(resolved: Resolved, plan: Plan) -> str:
    for key in ("use_cpu", "gpu_ids", "distributed_type"):
        if _who(resolved, key) and resolved.value(key) not in (None, False):
            return f"{key}={resolved.value(key)} is set by {_who(resolved, key)}"
    if plan.device == "cpu":
        return "there is no other that torch could use"
    return "the best that there is"


def _who(resolved: Resolved, key: str) -> str:
    """The place that set a key, empty for the default."""
    origin = resolved.origin(key)
    return "" if origin.layer == "default" else origin.place


def _problems(found: tuple[Problem, ...]) -> list[str]:
    if not found:
        return ["none found; `nbaccel test` tries it out"]
    return [
        line
        for number, problem in enumerate(found, start=1)
        for line in (f"{number}. {problem.text}", f"   What to do: {problem.remedy}")
    ]
