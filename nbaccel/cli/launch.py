"""`nbaccel launch`: a script on all devices, by torch's own launcher in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping, Sequence

import click

from nbaccel.cli.child import run_to_end
from nbaccel.config import RunConfig, call_layer, resolve
from nbaccel.config.schema import KEYS, Key
from nbaccel.errors import MissingExtraError
from nbaccel.machine import probe
from nbaccel.plan import Plan, decide

NOTEBOOK_ONLY = ("start_method", "sync_models", "output", "seed")
"""Keys without a flag: they steer how a notebook starts workers and shows them; a script calls `set_seed` itself."""

READ_BY_SCRIPTS = ("mixed_precision", "gradient_accumulation_steps", "use_cpu")
"""Keys that `Accelerator()` in the script reads from its environment."""


def _with_flags(function: Callable[..., None]) -> Callable[..., None]:
    for key in reversed(list(KEYS.values())):
        if key.name not in NOTEBOOK_ONLY:
            function = _option(key)(function)
    return function


def _option(key: Key) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The flag of a key. Its value stays text: the schema checks it, and its error says what is possible."""
    flags = [f"{flag}/--no-{flag[2:]}" for flag in key.flags] if key.is_switch else key.flags
    metavar = None if key.is_switch else "|".join(key.choices) or "VALUE"
    return click.option(key.name.replace(".", "__"), *flags, default=None, metavar=metavar, help=key.text)


@click.command(
    "launch",
    context_settings={
        "allow_interspersed_args": False,  # what follows the script belongs to the script
        "token_normalize_func": lambda flag: flag.replace("_", "-"),  # Accelerate's spelling, --num_processes
    },
)
@_with_flags
@click.argument("script", type=click.Path(exists=True, dir_okay=False))
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(script: str, arguments: Sequence[str], **flags: object) -> None:
    """Run SCRIPT with its ARGUMENTS in one process per device.

    Flags come before SCRIPT. What no flag gives comes from the environment, then from the defaults.
    """
    given = {name.replace("__", "."): value for name, value in flags.items() if value is not None}
    by_flag = call_layer(given, place=lambda name: f"the flag {KEYS[name].flags[0]}")
    by_command = call_layer({"start_method": "spawn"}, place=lambda _: "nbaccel launch")
    config = resolve(by_flag, by_command).config
    plan = decide(config, probe())
    if importlib.util.find_spec("torch") is None:
        raise MissingExtraError("torch", "nbaccel launch", "pip install 'nbaccel[torch]'")
    environ = environment_for(config, plan, os.environ)
    sys.exit(run_to_end(torchrun_command(config, plan, [script, *arguments]), environ, config.timeout))


def torchrun_command(config: RunConfig, plan: Plan, script: Sequence[str]) -> list[str]:
    """The command line of `torch.distributed.run` for a plan; `script` is the script and its arguments."""
    meeting = ["--standalone", "--local-addr", "127.0.0.1"]
    if plan.rendezvous is not None:
        host, port = plan.rendezvous.host, plan.rendezvous.port
        nodes = ["--nnodes", str(config.num_machines), "--node-rank", str(plan.machine_rank)]
        meeting = [*nodes, "--master-addr", host, "--master-port", str(port)]
    workers = ["--nproc-per-node", str(plan.local_world_size), "--max-restarts", str(config.max_restarts)]
    return [sys.executable, "-m", "torch.distributed.run", *workers, *meeting, *script]


def environment_for(config: RunConfig, plan: Plan, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of the workers: `environ`, with what was resolved and planned in the variables that they read."""
    resolved = {KEYS[name].env: getattr(config, name) for name in READ_BY_SCRIPTS}
    result = {"OMP_NUM_THREADS": str(plan.threads_per_worker), **environ}
    result.update({name: str(value).lower() for name, value in resolved.items() if value is not None})
    if plan.visible_gpus is not None:
        result["CUDA_VISIBLE_DEVICES"] = plan.visible_gpus
    return result
