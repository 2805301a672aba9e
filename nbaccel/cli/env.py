"""`nbaccel env`: what exists, and what is configured."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import click

from nbaccel import __version__
from nbaccel.config import COMMON, Resolved, Table, resolve, table
from nbaccel.machine import Machine, probe
from nbaccel.machine.words import describe_devices, in_gib

PACKAGES = ("torch", "ipython", "ipywidgets")


@click.command("env")
def command() -> None:
    """Show what exists on this machine, and the resolved configuration with the origin of each value."""
    for line in describe_machine(probe()):
        click.echo(line)
    click.echo(f"\npython      {platform.python_version()}\nnbaccel     {__version__}")
    for package in PACKAGES:
        click.echo(f"{package:<11} {installed_version(package)}")
    click.echo()
    click.echo(describe_configuration(resolve()))


def describe_machine(machine: Machine) -> Iterator[str]:
    """One line per fact, one per device."""
    yield f"platform    {machine.platform}"
    yield f"cores       {machine.usable_cores} usable, {machine.physical_cores} of them physical"
    yield f"memory      {in_gib(machine.memory_bytes)}"
    devices = list(describe_devices(machine))
    yield f"devices     {devices[0]}"
    for device in devices[1:]:
        yield f"            {device}"


def describe_configuration(resolved: Resolved) -> Table:
    """The keys that most people need, and all that somebody has set."""
    return table(resolved, [*COMMON, *(key for key in resolved.given() if key not in COMMON)])


def installed_version(package: str) -> str:
    """Version of a distribution by its metadata (nothing is imported), or the words `not installed`."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
