"""The environment that a worker finds. Pure: nothing here touches `os.environ`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from nbaccel.config import Resolved
from nbaccel.config.launched import LAUNCHED, as_variable, variables_of, without_ours
from nbaccel.plan import Plan
from nbaccel.plan.chips import Meeting, own_environ, shared_environ, without_leftovers

WORKER_VARIABLE = "NBACCEL_WORKER"
"""Set in workers, so that a launch inside a launch is recognised."""

_RUN_ID = "none"
"""As torchrun's own default; that it is there at all tells libraries that somebody else has started the ranks."""


def worker_environ(
    base: Mapping[str, str],
    plan: Plan,
    resolved: Resolved,
    local_rank: int,
    address: tuple[str, int],
    attempt: int,
    meeting: Meeting | None = None,
) -> dict[str, str]:
    """The whole environment of one worker.

    Args:
        base: the kernel's environment.
        plan: what the launch does.
        resolved: the configuration; what somebody has set is handed on in Accelerate's variables.
        local_rank: which of this machine's workers.
        address: host and port of the rendezvous store.
        attempt: how often the run was started before.
        meeting: where the workers share TPU chips, if they do.
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
    environ |= plan.gpu_environ(environ)
    if plan.device == "cpu":
        environ["ACCELERATE_USE_CPU"] = "true"
    return _on_chips(environ | handed_on(resolved), plan, local_rank, meeting)


def _on_chips(environ: dict[str, str], plan: Plan, local_rank: int, meeting: Meeting | None) -> dict[str, str]:
    if plan.chips is None or meeting is None:
        return environ
    shared = shared_environ(plan.device, plan.chips, meeting)
    own = own_environ(plan.device, plan.chips, local_rank, plan.local_world_size, meeting)
    if plan.device == "xla" and environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # torch_xla's own choice
        own["TF_CPP_MIN_LOG_LEVEL"] = "2"  # else each compilation says that its partitioner will be replaced one day
    return without_leftovers(environ) | shared | own


def _one_machine(base: Mapping[str, str]) -> dict[str, str]:
    """The store is already served on a socket of the kernel's choice, and nothing needs to leave the machine."""
    loopback = "lo" if sys.platform == "linux" else "lo0"
    chosen = {name: base.get(name, loopback) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")}
    return {"TORCHELASTIC_USE_AGENT_STORE": "True", **chosen}


def handed_on(resolved: Resolved) -> dict[str, str]:
    """What was configured, in variables: those that Accelerate's code reads, and all settings with their places."""
    return {**variables_of(resolved), LAUNCHED: as_variable(resolved)}
