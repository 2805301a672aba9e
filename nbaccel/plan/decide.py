"""The decision about a launch: pure, made once, before any process exists."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from nbaccel.config import Resolved, RunConfig
from nbaccel.errors import PlanError
from nbaccel.machine import Gpu, Machine
from nbaccel.plan.chips import TPU_DEVICES, choose_chips, refuse_held
from nbaccel.plan.parts import check_precision, choose_device, chosen_gpus
from nbaccel.plan.plan import Plan, Rendezvous
from nbaccel.plan.support import refuse_unsupported

MOST_DEFAULT_CPU_WORKERS = 4
"""More processes rarely help on a CPU, whose operators have threads of their own."""
MEMORY_PER_CPU_WORKER = 3 * 2**28
"""768 MiB: torch with a small model, its data and its optimizer's state."""


Settled = TypeVar("Settled")


def settle(resolved: Resolved, machine: Machine) -> Plan:
    """Like `decide`, for a configuration that knows where its values come from: errors say it."""
    return with_places(resolved, lambda config: decide(config, machine))


def with_places(resolved: Resolved, decision: Callable[[RunConfig], Settled]) -> Settled:
    """Make a decision on a configuration; an error of it says where the wish came from."""
    try:
        return decision(resolved.config)
    except PlanError as error:
        origin = resolved.origin(error.key) if error.key else None
        if origin is None or origin.layer == "default":
            raise
        raise error.at(origin.place) from None


def decide(config: RunConfig, machine: Machine) -> Plan:
    """Settle launcher, device, number of workers and threads.

    Args:
        config: what was asked, checked.
        machine: what exists.

    Raises:
        PlanError: the wish cannot be carried out on this machine; says what stands in the way and what is possible.
    """
    refuse_unsupported(config)
    device = choose_device(config, machine)
    check_precision(config, device)
    gpus = chosen_gpus(config, machine) if device == "cuda" else ()
    chips = None
    if device in TPU_DEVICES:
        refuse_held(machine, config.start_method)
        chips, local = choose_chips(config, machine, device)
    else:
        local = _workers_here(config, machine, device, gpus)
    _check_machines(config)
    if config.start_method == "inline" and (local > 1 or config.num_machines > 1):
        raise PlanError(
            f"start_method='inline' with num_processes={config.num_processes}",
            "code that runs in the kernel itself is one process.",
            "Use num_processes=1, or start_method='zygote'.",
            "num_processes",
        )
    return Plan(
        launcher=config.start_method,
        device=device,
        world_size=local * config.num_machines,
        local_world_size=local,
        machine_rank=config.machine_rank,
        threads_per_worker=config.num_cpu_threads_per_process or max(1, machine.usable_cores // local),
        visible_gpus=",".join(gpu.visible_id for gpu in gpus) if gpus else None,
        rendezvous=_rendezvous(config),
        chips=chips,
    )


def _workers_here(config: RunConfig, machine: Machine, device: str, gpus: Sequence[Gpu]) -> int:
    most = {"cuda": len(gpus), "mps": 1}.get(device)
    if config.distributed_type == "NO":
        return _alone(config)
    if config.num_processes is None:
        return _default_workers(config, machine, most)
    wish = f"num_processes={config.num_processes}"
    here, rest = divmod(config.num_processes, config.num_machines)
    if rest:
        raise PlanError(
            wish, f"it cannot be split evenly over {config.num_machines} machines.", "Use a multiple.", "num_processes"
        )
    if most is not None and here > most:
        raise PlanError(
            wish,
            f"there {'is' if most == 1 else 'are'} {most} {device.upper()} device{'' if most == 1 else 's'} to use.",
            f"Use num_processes={most * config.num_machines} or less, or use_cpu=True.",
            "num_processes",
        )
    return here


def _alone(config: RunConfig) -> int:
    if config.num_processes not in (None, 1):
        raise PlanError(
            f"num_processes={config.num_processes}",
            "distributed_type: NO means one process.",
            "Leave distributed_type out, or use MULTI_GPU or MULTI_CPU.",
            "num_processes",
        )
    return 1


def _default_workers(config: RunConfig, machine: Machine, devices: int | None) -> int:
    if config.start_method == "inline":
        return 1
    return devices or _default_cpu_workers(machine)


def _default_cpu_workers(machine: Machine) -> int:
    """One per physical core up to a few, as many as the memory holds; two on Binder, to see what several do."""
    if machine.platform == "binder":
        return 2
    fitting = machine.memory_bytes // MEMORY_PER_CPU_WORKER if machine.memory_bytes else MOST_DEFAULT_CPU_WORKERS
    return max(1, min(machine.physical_cores, MOST_DEFAULT_CPU_WORKERS, fitting))


def _check_machines(config: RunConfig) -> None:
    if config.machine_rank >= config.num_machines:
        raise PlanError(
            f"machine_rank={config.machine_rank}",
            f"with num_machines={config.num_machines} there is no such machine.",
            f"Possible: 0 to {config.num_machines - 1}.",
            "machine_rank",
        )


def _rendezvous(config: RunConfig) -> Rendezvous | None:
    if config.num_machines == 1:
        return None
    if not config.main_process_ip or not config.main_process_port:
        raise PlanError(
            f"num_machines={config.num_machines}",
            "the machines must know where to meet.",
            "Give main_process_ip and main_process_port (master_addr and use_port in notebook_launcher) of machine 0.",
            "num_machines",
        )
    return Rendezvous(config.main_process_ip, config.main_process_port)
