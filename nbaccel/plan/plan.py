"""The plan: what a launch will do, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nbaccel.plan.chips import Chips
from nbaccel.plan.parts import Topology


@dataclass(frozen=True)
class Rendezvous:
    """Where the ranks of several machines meet; ranks of one machine meet on a loopback socket of the kernel's choice.

    Attributes:
        host: name or address of machine 0.
        port: TCP port on machine 0.
    """

    host: str
    port: int


@dataclass(frozen=True)
class Plan:
    """What a launch will do.

    Attributes:
        launcher: `zygote`, `spawn` or `inline`.
        device: kind of the device of each worker: `cpu`, `cuda`, `mps`, `xla` or `tpu`.
        world_size: workers over all machines.
        local_world_size: workers on this machine.
        machine_rank: which machine this is.
        threads_per_worker: threads for torch's CPU operators in each worker.
        visible_gpus: the value of CUDA_VISIBLE_DEVICES for the workers, None to leave it alone.
        rendezvous: where several machines meet, None for one machine.
        chips: the TPU chips that the workers drive, None for other devices.
    """

    launcher: str
    device: str
    world_size: int
    local_world_size: int
    machine_rank: int = 0
    threads_per_worker: int = 1
    visible_gpus: str | None = None
    rendezvous: Rendezvous | None = None
    chips: Chips | None = None

    def topology(self, local_rank: int) -> Topology:
        """Position of one of this machine's workers among all."""
        return Topology(
            rank=self.machine_rank * self.local_world_size + local_rank,
            world_size=self.world_size,
            local_rank=local_rank,
            local_world_size=self.local_world_size,
        )

    def gpu_environ(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Variables that show the chosen GPUs to the workers; ROCm heeds HIP_VISIBLE_DEVICES first, if it is set."""
        names = ("CUDA_VISIBLE_DEVICES", *(["HIP_VISIBLE_DEVICES"] if "HIP_VISIBLE_DEVICES" in environ else []))
        return {} if self.visible_gpus is None else dict.fromkeys(names, self.visible_gpus)

    def describe(self) -> str:
        """The plan in one line."""
        several = self.local_world_size > 1
        machines = "" if self.rendezvous is None else f", {self.world_size} in all, meeting at {self.rendezvous.host}"
        gpus = "" if self.visible_gpus is None else f" (GPUs {self.visible_gpus})"
        gpus += "" if self.chips is None else f" ({self.chips.describe(self.local_world_size)})"
        return (
            f"{self.local_world_size} worker{'s' if several else ''} by {self.launcher} on {self.device}{gpus}, "
            f"{self.threads_per_worker} CPU thread{'s' if self.threads_per_worker > 1 else ''} each{machines}"
        )
