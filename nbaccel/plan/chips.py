"""TPUs: which software drives them, how many processes, and what each process is told. Pure tables and rules.

Two ways lead to all chips. One process per chip, which average their gradients; or SPMD: one process holds the model as
if there were one large device, and the compiler cuts the work among the chips (https://arxiv.org/abs/2105.04663). The
two cores of a v2 or v3 chip would be two threads of one process, with one random state and one environment: these
chips are always driven by SPMD.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nbaccel.config import RunConfig
from nbaccel.errors import MissingExtraError, PlanError
from nbaccel.machine import Machine, TpuSoftware

TPU_DEVICES = ("xla", "tpu")
"""Kinds of device that the chips have in torch: by torch_xla, and by torch_tpu."""

BOUNDS: Mapping[str, Mapping[int, str]] = {
    "v2": {4: "2,2,1"},
    "v3": {4: "2,2,1"},
    "v4": {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,2,2"},
    "v5p": {1: "1,1,1", 2: "1,2,1", 4: "2,2,1", 8: "2,2,2"},
    "v5e": {1: "1,1,1", 4: "2,2,1", 8: "2,4,1"},
    "v6e": {1: "1,1,1", 4: "2,2,1", 8: "2,4,1"},
    "v7x": {2: "1,1,1,2", 4: "1,2,1,2", 8: "2,2,1,2"},
}
"""How the chips of one machine are wired, by their kind and number; of v7x the last axis is the halves of a chip."""

CORES: Mapping[str, int] = {"v2": 2, "v3": 2}
"""Devices per chip, where it is not one."""

_ONE = "1,1,1"
_POPPED = frozenset({"TPU_PROCESS_ADDRESSES", "CLOUD_TPU_TASK_ID"})
"""Kaggle's images set them for one process that owns all chips; a worker that finds them waits for others for ever."""

_TORCH_FOR_TORCH_TPU = ((2, 11), (2, 15))


@dataclass(frozen=True)
class Chips:
    """The TPU chips of a launch on this machine.

    Attributes:
        kind: `v2`, `v3`, `v4`, ...; empty where torch_xla computes on the CPU.
        count: chips of this machine; for the CPU the devices that it is made into.
        spmd: one process drives all of them, and cuts tensors among them.
    """

    kind: str
    count: int
    spmd: bool = False

    @property
    def devices(self) -> int:
        """Devices of this machine, as torch sees them."""
        return self.count * CORES.get(self.kind, 1)

    def describe(self, processes: int) -> str:
        """What the processes of this machine have of them, in words."""
        what = f"TPU {self.kind}" if self.kind else "computed by the CPU"
        if self.spmd:
            return f"{what}, SPMD over {self.devices} device{'s' if self.devices > 1 else ''}"
        return f"{what}, {'one device' if processes == 1 else 'one chip each'}"


@dataclass(frozen=True)
class Meeting:
    """Where the processes of one machine meet to share its chips.

    Attributes:
        ports: free ports of this machine, one per process.
        session: what names this launch in profiles.
    """

    ports: Sequence[int]
    session: str


def choose_tpu(config: RunConfig, machine: Machine) -> str | None:
    """`xla` or `tpu` if the training belongs on TPU chips, else None.

    Raises:
        PlanError: it was asked for, and there is no chip, or its software does not fit.
        MissingExtraError: neither torch_xla nor torch_tpu is installed.
    """
    software, asked = machine.tpu_software, config.distributed_type == "XLA" or bool(config.xla_spmd)
    if asked and software.pjrt_device == "CPU":
        return _checked_xla(software, needs_libtpu=False)
    if asked and not machine.tpu_chips:
        raise _no_chip(config, software)
    if not asked and not _is_natural(machine):
        return None
    if _fits_torch_tpu(machine):
        return _checked_tpu(software)
    return _checked_xla(software, needs_libtpu=True)


def _is_natural(machine: Machine) -> bool:
    """Whether the chips are what to train on if nobody says anything."""
    software = machine.tpu_software
    has_software = bool(software.torch_xla or software.torch_tpu) and software.pjrt_device in ("", "TPU")
    return bool(machine.tpu_chips) and has_software and not machine.gpus


def _wish(config: RunConfig) -> tuple[str, str]:
    """How it was asked for: in words, and the key."""
    if config.distributed_type == "XLA":
        return "distributed_type='XLA'", "distributed_type"
    return "xla_spmd=True", "xla_spmd"


def _no_chip(config: RunConfig, software: TpuSoftware) -> PlanError:
    wish, key = _wish(config)
    trial = "" if not software.torch_xla else " PJRT_DEVICE=CPU in the environment lets torch_xla compute on the CPU."
    return PlanError(
        wish,
        "this machine has no TPU chip (no PCI device of Google's kinds).",
        f"Choose a TPU runtime, or leave it out.{trial}",
        key,
    )


def _fits_torch_tpu(machine: Machine) -> bool:
    software = machine.tpu_software
    if not software.torch_tpu or machine.tpu_kind in CORES:
        return False
    low, high = _TORCH_FOR_TORCH_TPU
    return not software.torch_xla or low <= _release(software.torch) <= high


def _release(version: str) -> tuple[int, int]:
    """Major and minor number; `(0, 0)` if nobody knows."""
    numbers = version.split("+")[0].split(".")[:2]
    return (int(numbers[0]), int(numbers[1])) if len(numbers) == 2 and all(map(str.isdecimal, numbers)) else (0, 0)


def _checked_tpu(software: TpuSoftware) -> str:
    low, high = _TORCH_FOR_TORCH_TPU
    if not low <= _release(software.torch) <= high:
        raise PlanError(
            f"torch_tpu {software.torch_tpu} with torch {software.torch}",
            f"it is built for torch {low[0]}.{low[1]} to {high[0]}.{high[1]}.",
            f"Install one of these (pip install 'torch>={low[0]}.{low[1]},<{high[0]}.{high[1] + 1}'), then restart.",
        )
    _need_libtpu(software, "torch_tpu")
    return "tpu"


def _checked_xla(software: TpuSoftware, needs_libtpu: bool) -> str:
    if not software.torch_xla:
        raise MissingExtraError("torch_xla", "training on a TPU", "pip install 'nbaccel[xla]'")
    torch, xla = _release(software.torch), _release(software.torch_xla)
    if (0, 0) not in (torch, xla) and torch != xla:
        raise PlanError(
            f"torch {software.torch} with torch_xla {software.torch_xla}",
            "torch_xla works with the torch of the same number alone.",
            f"Install a pair (pip install torch=={xla[0]}.{xla[1]}.* torch_xla=={xla[0]}.{xla[1]}.*), then restart.",
        )
    if needs_libtpu:
        _need_libtpu(software, "torch_xla")
    return "xla"


def _need_libtpu(software: TpuSoftware, package: str) -> None:
    if not software.has_libtpu:
        raise PlanError(
            f"{package} {software.torch_xla if package == 'torch_xla' else software.torch_tpu} on a TPU",
            "libtpu, the library that drives the chips, is missing.",
            f"Run pip install {'torch_xla[tpu]' if package == 'torch_xla' else 'libtpu'}, "
            "or name its file in TPU_LIBRARY_PATH; then restart.",
        )


def refuse_held(machine: Machine, start_method: str) -> None:
    """Raises PlanError if this process itself has opened the chips: its workers could not, for a chip has one owner."""
    holder = machine.tpu_software.held_by
    if holder and machine.tpu_chips and start_method != "inline":
        raise PlanError(
            "a launch on the TPU",
            f"the notebook's own process has opened the chips, by {holder}, and a chip has one owner.",
            "Restart the kernel, and touch the TPU only in the functions and cells that you launch "
            "(or use start_method='inline' for one process here).",
        )


def choose_chips(config: RunConfig, machine: Machine, device: str) -> tuple[Chips, int]:
    """The chips of this machine, and how many processes drive them.

    Raises:
        PlanError: a number of processes that the chips cannot be shared by, or SPMD where it is not possible.
    """
    on_host = machine.tpu_software.pjrt_device == "CPU"
    found = Chips(
        "" if on_host else machine.tpu_kind, machine.tpu_software.host_devices if on_host else machine.tpu_chips
    )
    alone = config.start_method == "inline" or config.distributed_type == "NO"
    here = _asked_processes(config, found)
    if not _is_spmd(config, found, device, here, alone):
        return found, here or (1 if alone else found.count)
    if config.num_machines > 1:
        raise PlanError(
            _spmd_wish(config, found)[0],
            f"SPMD over the chips of {config.num_machines} machines is not supported; on one machine it is.",
            "Use one machine, or leave it out: one process per chip.",
            _spmd_wish(config, found)[1],
        )
    return Chips(found.kind, found.count, spmd=True), 1


def _asked_processes(config: RunConfig, found: Chips) -> int | None:
    """The number of processes on this machine that was asked for; all devices of v2 and v3 count as all chips."""
    if config.num_processes is None:
        return None
    here, rest = divmod(config.num_processes, config.num_machines)
    if rest or here not in (1, found.count, found.devices):
        several = f" times {config.num_machines} machines" if config.num_machines > 1 else ""
        every = f"{found.count * config.num_machines}"
        what = f"{found.kind} chip{'s' if found.count > 1 else ''}" if found.kind else "devices of the CPU"
        choice = f"Possible: 1, or {every} (all; also if left out)" if found.count > 1 else "Possible: 1"
        raise PlanError(
            f"num_processes={config.num_processes}",
            f"there {'is' if found.count == 1 else 'are'} {found.count} {what}{several}, which are driven one or all.",
            f"{choice}{'' if found.kind else '; CPU_NUM_DEVICES says how many devices the CPU is made into'}.",
            "num_processes",
        )
    return found.count if here == found.devices else here


def _is_spmd(config: RunConfig, found: Chips, device: str, here: int | None, alone: bool) -> bool:
    wish, key = _spmd_wish(config, found)
    if device == "tpu":
        if config.xla_spmd:
            raise PlanError(
                wish,
                "torch_tpu drives each chip by a process of its own.",
                "Leave it out; FSDP shards there, too.",
                key,
            )
        return False
    if config.xla_spmd or config.distributed_type == "FSDP":
        return True
    return found.kind in CORES and not alone and here != 1


def _spmd_wish(config: RunConfig, found: Chips) -> tuple[str, str]:
    if config.xla_spmd:
        return "xla_spmd=True", "xla_spmd"
    if config.distributed_type == "FSDP":
        return "distributed_type='FSDP' on a TPU", "distributed_type"
    return f"all cores of {found.kind} chips", "num_machines"


def shared_environ(device: str, chips: Chips, meeting: Meeting) -> dict[str, str]:
    """Variables that all processes of a launch on these chips have in common."""
    if device == "tpu":
        return _torch_tpu_environ(chips, meeting)
    if not chips.kind:
        return {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": str(chips.count if chips.spmd else 1)} | _spmd(chips)
    return {"PJRT_DEVICE": "TPU"} | _spmd(chips)


def _spmd(chips: Chips) -> dict[str, str]:
    return {"NBACCEL_XLA_SPMD": "true"} if chips.spmd else {}


def _torch_tpu_environ(chips: Chips, meeting: Meeting) -> dict[str, str]:
    """What `torch.tpu.distributed.set_tpu_launch_env` sets in the process that launches."""
    told = {
        "TORCH_TPU_SLICEBUILDER_ADDRESSES": ",".join(f"localhost:{port}" for port in meeting.ports),
        "TORCH_TPU_XPROF_SESSION_ID": meeting.session,
    }
    bounds = BOUNDS.get(chips.kind, {}).get(len(meeting.ports))
    return told if bounds is None else told | {"TORCH_TPU_TOPOLOGY": bounds}


def own_environ(device: str, chips: Chips, local_rank: int, processes: int, meeting: Meeting) -> dict[str, str]:
    """Variables of one process: which chip is its own, and where the others are.

    Where nobody knows how the chips are wired, those are left out that torch_xla then asks the cloud for.
    """
    if device == "tpu" or not chips.kind or chips.spmd:
        return {}
    place = {"PJRT_LOCAL_PROCESS_RANK": str(local_rank), "PJRT_LOCAL_PROCESS_COUNT": str(processes)}
    mine = {"TPU_VISIBLE_CHIPS": str(local_rank), "TPU_CHIPS_PER_PROCESS_BOUNDS": _ONE}
    if processes == 1:
        return {**place, **mine, "TPU_PROCESS_BOUNDS": _ONE}
    bounds = BOUNDS.get(chips.kind, {}).get(processes)
    if bounds is None:
        return place
    return {
        **place,
        **mine,
        "TPU_PROCESS_BOUNDS": bounds,
        "TPU_PROCESS_ADDRESSES": ",".join(f"localhost:{port}" for port in meeting.ports),
        "TPU_PROCESS_PORT": str(meeting.ports[local_rank]),
        "CLOUD_TPU_TASK_ID": str(local_rank),
    }


def without_leftovers(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment without what notebook images set for a single process that owns all chips."""
    return {name: value for name, value in environ.items() if name not in _POPPED}
