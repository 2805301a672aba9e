"""The environment that a worker finds. Pure: nothing here touches `os.environ`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from nbaccel.config import Resolved
from nbaccel.config.launched import LAUNCHED, as_variable, variables_of, without_ours
from nbaccel.plan import Plan

WORKER_VARIABLE = "NBACCEL_WORKER"
"""Set in workers, so that a launch inside a launch is recognised."""

_RUN_ID = "none"
"""As torchrun's own default; that it is there at all tells libraries that somebody else has started the ranks."""


def worker_environ(
    base: Mapping[str, str], plan: Plan, resolved: Resolved, local_rank: int, address: tuple[str, int], attempt: int
) -> dict[str, str]:
    """The whole environment of one worker.

    Args:
        base: the kernel's environment.
        plan: what the launch does.
        resolved: the configuration; what somebody has set is handed on in Accelerate's variables.
        local_rank: which of this machine's workers.
        address: host and port of the rendezvous store.
        attempt: how often the run was started before.
    """
    place = plan.topology(local_rank)
    environ = {**resolved.dotenv, **without_ours(base)}
    environ |= {
        WORKER_VARIABLE: "1",
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.world_size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_world_size),
        "GROUP_RANK": str(plan.machine_rank),
        "MASTER_ADDR": address[0],
        "MASTER_PORT": str(address[1]),
        "TORCHELASTIC_RESTART_COUNT": str(attempt),
        "TORCHELASTIC_RUN_ID": _RUN_ID,
        "OMP_NUM_THREADS": str(plan.threads_per_worker),
        # connections are cut on purpose after an interrupt: its warnings would be pages of C++ frames
        "TORCH_CPP_LOG_LEVEL": base.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
    }
    if plan.rendezvous is None:
        environ |= _one_machine(base)
    if plan.visible_gpus is not None:
        environ["CUDA_VISIBLE_DEVICES"] = plan.visible_gpus
    if plan.device == "cpu":
        environ["ACCELERATE_USE_CPU"] = "true"
    return environ | handed_on(resolved)


def _one_machine(base: Mapping[str, str]) -> dict[str, str]:
    """The store is already served on a socket of the kernel's choice, and nothing needs to leave the machine."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    chosen = {name: base.get(name, loopback) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    return {"TORCHELASTIC_USE_AGENT_STORE": "True", **chosen}


def handed_on(resolved: Resolved) -> dict[str, str]:
    """What was configured, in variables: those that Accelerate's code reads, and all settings with their places."""
    return {**variables_of(resolved), LAUNCHED: as_variable(resolved)}
