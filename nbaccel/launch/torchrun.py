"""How torch's own launcher is called for a plan. Pure: nothing here starts a process or touches `os.environ`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from nbaccel.config import Resolved
from nbaccel.config.launched import without_ours
from nbaccel.config.resolve import wrong_value
from nbaccel.launch.environment import handed_on
from nbaccel.plan import Plan, Rendezvous
from nbaccel.plan.chips import Meeting, shared_environ, without_leftovers

_FIRST_PORT = 8070
"""Where processes agree on their TPU chips; the one that torch_tpu takes for several machines."""
_STREAMS = re.compile(r"[0-3]|\d+:[0-3](,\d+:[0-3])*")
_SETTINGS = re.compile(r"\s*[^=,\s]+\s*=[^=,]+(,\s*[^=,\s]+\s*=[^=,]+)*")


@dataclass(frozen=True)
class Target:
    """What the workers run.

    Attributes:
        words: a script, a module's name or a program, and its arguments.
        is_module: run it as `python -m` does.
        is_program: run it as it is, without Python.
    """

    words: tuple[str, ...]
    is_module: bool = False
    is_program: bool = False


def command_line(resolved: Resolved, plan: Plan, target: Target) -> list[str]:
    """The command line of `torch.distributed.run`, with all that the configuration says of its ways.

    Args:
        resolved: the configuration.
        plan: what was decided on it.
        target: what the workers run.

    Raises:
        ConfigError: `tee` or `rdzv_conf` is not in torch's form.
    """
    return _torchrun(resolved, plan, [*_supervision(resolved), *_logging(resolved)], target)


def plain_command_line(resolved: Resolved, plan: Plan, target: Target) -> list[str]:
    """The same without restarts and logs: each worker is started once. Raises ConfigError as `command_line`."""
    return _torchrun(resolved, plan, ["--max-restarts", "0"], target)


def _torchrun(resolved: Resolved, plan: Plan, ways: list[str], target: Target) -> list[str]:
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(plan.local_world_size), *ways]
    if plan.rendezvous is None:
        line += ["--standalone", "--local-addr", "127.0.0.1"]
    else:
        line += ["--nnodes", str(resolved.config.num_machines), *_meeting(resolved, plan, plan.rendezvous)]
    line += ["--module"] * target.is_module + ["--no-python"] * target.is_program
    return [*line, *target.words]


def _supervision(resolved: Resolved) -> list[str]:
    line = ["--max-restarts", str(resolved.config.max_restarts)]
    if _is_given(resolved, "monitor_interval"):
        line += ["--monitor-interval", str(resolved.config.monitor_interval)]
    if _is_given(resolved, "role"):
        line += ["--role", resolved.config.role]
    return line


def _logging(resolved: Resolved) -> list[str]:
    line = []
    if resolved.config.tee is not None:
        line += ["--tee", _in_form(resolved, "tee", resolved.config.tee, _STREAMS)]
    if resolved.config.log_dir is not None:
        line += ["--log-dir", os.path.expanduser(resolved.config.log_dir)]
    return line


def _meeting(resolved: Resolved, plan: Plan, place: Rendezvous) -> list[str]:
    """How several machines find each other.

    With the static backend each machine has its number; the others are told where to meet, and who is who is settled
    there.
    """
    config = resolved.config
    conf = _in_form(resolved, "rdzv_conf", config.rdzv_conf, _SETTINGS) if config.rdzv_conf else ""
    if config.rdzv_backend == "static":
        address = ["--master-addr", place.host, "--master-port", str(place.port)]
        line = ["--node-rank", str(plan.machine_rank), *address]
    else:
        host = f"[{place.host}]" if ":" in place.host else place.host
        line = ["--rdzv-backend", config.rdzv_backend, "--rdzv-endpoint", f"{host}:{place.port}"]
        if config.rdzv_backend == "c10d" and not config.same_network:
            conf = _with_host(conf, plan)
    return [*line, "--rdzv-conf", conf] if conf else line


def _with_host(conf: str, plan: Plan) -> str:
    """Across networks the address of machine 0 is none of its own, by which torch would know who serves the meeting."""
    if re.search(r"(^|,)\s*is_host\s*=", conf):
        return conf
    return ",".join(filter(None, [conf, f"is_host={'true' if plan.machine_rank == 0 else 'false'}"]))


def _in_form(resolved: Resolved, key: str, text: str, form: re.Pattern[str]) -> str:
    """torch would say it in a traceback of its own."""
    if form.fullmatch(text) is None:
        raise wrong_value(key, resolved.origin(key))
    return text


def _is_given(resolved: Resolved, key: str) -> bool:
    return resolved.origin(key).layer != "default"


def environment(resolved: Resolved, plan: Plan, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of torch's launcher, which its workers inherit.

    Args:
        resolved: the configuration; it is handed on, with its places.
        plan: what was decided on it.
        environ: the environment that the launch was asked for in.
    """
    found = without_ours({**environ, **resolved.dotenv})
    if "OMP_NUM_THREADS" not in found or _is_given(resolved, "num_cpu_threads_per_process"):
        found["OMP_NUM_THREADS"] = str(plan.threads_per_worker)
    if plan.rendezvous is None:
        found = {**_loopback(), **found}
    found |= plan.gpu_environ(found)
    if plan.device == "cpu":
        found["ACCELERATE_USE_CPU"] = "true"
    found |= handed_on(resolved)
    if plan.chips is None:
        return found
    meeting = Meeting(range(_FIRST_PORT, _FIRST_PORT + plan.local_world_size), "0")
    return without_leftovers(found) | shared_environ(plan.device, plan.chips, meeting)


def _loopback() -> dict[str, str]:
    """Nothing needs to leave the machine, and its host name need not lead anywhere."""
    interface = "lo" if sys.platform == "linux" else "lo0"
    return {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": interface}


def variables_set(resolved: Resolved, plan: Plan, environ: Mapping[str, str]) -> dict[str, str]:
    """The part of the workers' environment that the launch sets or changes."""
    made = environment(resolved, plan, environ)
    return {name: value for name, value in sorted(made.items()) if environ.get(name) != value}
