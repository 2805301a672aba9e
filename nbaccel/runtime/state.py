"""The states that training code may ask for anywhere: the processes, the precision, the gradients.

Each is shared: every object of a class sees the same values, those of the `Accelerator` that was built last.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.distributed as dist

from nbaccel.config import Resolved, table
from nbaccel.runtime.enums import BaseEnum
from nbaccel.runtime.environment import get_current_device_type, parse_flag_from_env
from nbaccel.runtime.groups import leave_group
from nbaccel.runtime.handlers import GradientAccumulationPlugin, InitProcessGroupKwargs
from nbaccel.runtime.split import share_of
from nbaccel.runtime.world import World, configure, current_world, forget_world, join_world, parts_for, rejoin_world


class DistributedType(BaseEnum):
    """How processes train together; Accelerate's names."""

    NO = "NO"
    MULTI_CPU = "MULTI_CPU"
    MULTI_GPU = "MULTI_GPU"
    MULTI_XPU = "MULTI_XPU"
    DEEPSPEED = "DEEPSPEED"
    FSDP = "FSDP"
    XLA = "XLA"
    MEGATRON_LM = "MEGATRON_LM"


_SEVERAL = {
    "cpu": DistributedType.MULTI_CPU,
    "cuda": DistributedType.MULTI_GPU,
    "xpu": DistributedType.MULTI_XPU,
    "xla": DistributedType.XLA,
    "tpu": DistributedType.XLA,
}


class PartialState:
    """Which process this is, among how many, on which device.

    Args:
        cpu: True stays on the CPU, False uses the best device; left out: as configured, or as it is already.
        process_group: fields of `InitProcessGroupKwargs`, for the group that joins the processes.

    Raises:
        PlanError: this machine cannot do what the configuration asks for.
    """

    _shared_state: ClassVar[dict[str, Any]] = {}
    world: World

    def __init__(self, cpu: bool | None = None, **process_group: Any) -> None:
        self.__dict__ = self._shared_state
        if cpu is not None or process_group:
            config = configure({} if cpu is None else {"use_cpu": cpu})
            parts, topology = parts_for(config)
            self.world = join_world(parts, topology, InitProcessGroupKwargs(**process_group).options())
        else:
            self.world = current_world()

    def __getattr__(self, name: str) -> Any:
        if not self._shared_state and not name.startswith("__"):
            raise AttributeError(
                f"{type(self).__name__}.{name}: this state has ended, by accelerator.close() or a reset. Build a new "
                "Accelerator or state object."
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def initialized(self) -> bool:
        return bool(self._shared_state)

    @property
    def debug(self) -> bool:
        """Whether collectives check that all processes send alike."""
        return configure({}).debug

    @property
    def fork_launched(self) -> bool:
        """Whether a launcher that forks says so, by the variable FORK_LAUNCHED."""
        return parse_flag_from_env("FORK_LAUNCHED")

    @property
    def default_device(self) -> torch.device:
        """Kind of the best device of this machine, whatever the configuration says."""
        return torch.device(get_current_device_type()[0])

    def set_device(self) -> None:
        """Make this process's GPU the one that torch uses where none is named."""
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)

    @property
    def device(self) -> torch.device:
        """The device that this process trains on."""
        return self.world.device

    @property
    def backend(self) -> str | None:
        """torch.distributed's backend, None for one process."""
        return self.world.backend

    @property
    def num_processes(self) -> int:
        return self.world.size

    @property
    def process_index(self) -> int:
        """Rank of this process among all."""
        return self.world.rank

    @property
    def local_process_index(self) -> int:
        """Rank of this process on its machine."""
        return self.world.local_rank

    @property
    def distributed_type(self) -> DistributedType:
        return _SEVERAL[self.device.type] if self.use_distributed else DistributedType.NO

    @property
    def use_distributed(self) -> bool:
        """True with more than one process."""
        return self.world.size > 1

    @property
    def is_main_process(self) -> bool:
        return self.world.rank == 0

    @property
    def is_local_main_process(self) -> bool:
        """True for the first process of each machine."""
        return self.world.local_rank == 0

    @property
    def is_last_process(self) -> bool:
        return self.world.rank == self.world.size - 1

    def wait_for_everyone(self) -> None:
        """Block until every process is here."""
        self.world.barrier()

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print once per machine."""
        if self.is_local_main_process:
            print(*args, **kwargs)

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """Let the main process run the block before all others, as for a download."""
        with self._ahead(self.is_main_process):
            yield

    @contextmanager
    def local_main_process_first(self) -> Iterator[None]:
        """Let the first process of each machine run the block before its neighbours."""
        with self._ahead(self.is_local_main_process):
            yield

    @contextmanager
    def _ahead(self, first: bool) -> Iterator[None]:
        if not first:
            self.wait_for_everyone()
        try:
            yield
        finally:  # an error in the first must not leave the others waiting
            if first:
                self.wait_for_everyone()

    @contextmanager
    def split_between_processes(self, inputs: Any, apply_padding: bool = False) -> Iterator[Any]:
        """Give this process its share of the inputs.

        Args:
            inputs: a list, tuple, tensor, `datasets.Dataset`, or a dict of such, all of one length.
            apply_padding: repeat the last item so that all shares have the same length.

        Raises:
            CallError: the values of the dict differ in length.
        """
        yield share_of(inputs, self.world.rank, self.world.size, apply_padding)

    def on_main_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: only the main process runs the function, others return None."""
        return _only_if(lambda: self.is_main_process, function)

    def on_local_main_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: only the first process of each machine runs the function."""
        return _only_if(lambda: self.is_local_main_process, function)

    def on_last_process(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: only the last process runs the function."""
        return _only_if(lambda: self.is_last_process, function)

    def on_process(self, function: Callable[..., Any] | None = None, process_index: int | None = None) -> Any:
        """Decorator: only one rank runs the function."""
        if function is None:
            return functools.partial(self.on_process, process_index=process_index)
        return _only_if(lambda: self.process_index == process_index, function)

    def on_local_process(
        self, function: Callable[..., Any] | None = None, local_process_index: int | None = None
    ) -> Any:
        """Decorator: only one rank of each machine runs the function."""
        if function is None:
            return functools.partial(self.on_local_process, local_process_index=local_process_index)
        return _only_if(lambda: self.local_process_index == local_process_index, function)

    @classmethod
    def rejoin(cls) -> None:
        """The process group was formed anew: go on as before, on the new one."""
        if cls._shared_state:
            cls._shared_state["world"] = rejoin_world()

    def destroy_process_group(self, group: Any = None) -> None:
        """Take down the process group, if this runtime made it; or another one, whoever made it."""
        if group is None:
            leave_group()
        else:
            dist.destroy_process_group(group)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.distributed_type}, process {self.process_index} of {self.num_processes}, "
            f"device {self.device}, backend {self.backend})"
        )

    @classmethod
    def _reset_state(cls) -> None:
        """Forget everything; the next state object looks at configuration and environment again."""
        PartialState._shared_state.clear()
        forget_world()


class AcceleratorState(PartialState):
    """`PartialState` and the precision of the forward pass.

    Args:
        mixed_precision: `no`, `bf16` or `fp16`; left out: as configured, or as it is already.
        cpu: as in `PartialState`.
        process_group: as in `PartialState`.
    """

    mixed_precision: str

    def __init__(self, mixed_precision: str | None = None, cpu: bool | None = None, **process_group: Any) -> None:
        super().__init__(cpu, **process_group)
        if mixed_precision is not None or "mixed_precision" not in self._shared_state:
            given = {} if mixed_precision is None else {"mixed_precision": mixed_precision}
            parts, _ = parts_for(configure(given))
            self.mixed_precision = parts.precision

    @classmethod
    def _adopt(
        cls,
        mixed_precision: str,
        config: Resolved,
        distributed_type: str = "",
        device_mesh: Any = None,
        fsdp_plugin: Any = None,
        **plugins: Any,
    ) -> AcceleratorState:
        """The state for an `Accelerator` that just joined its world; a former one's values are replaced."""
        told = {"mixed_precision": mixed_precision, "config": config}
        told |= {"strategy_type": distributed_type, "device_mesh": device_mesh, "fsdp_plugin": fsdp_plugin}
        told |= {"plugins": plugins}
        cls._shared_state |= told
        return cls()

    @classmethod
    def is_of(cls, config: Resolved) -> bool:
        """Whether the state is that of the `Accelerator` with this configuration, and not of a later one."""
        return cls._shared_state.get("config") is config

    @property
    def dynamo_plugin(self) -> Any:
        """How models are compiled, with all fields; None before an `Accelerator` was built."""
        return self._plugin("dynamo_plugin")

    @property
    def parallelism_config(self) -> Any:
        """Sizes of the mesh as the constructor was given them, else None."""
        return self._plugin("parallelism_config")

    @property
    def torch_tp_plugin(self) -> Any:
        """Tensor parallelism as the constructor was given it, else None."""
        return self._plugin("torch_tp_plugin")

    def _plugin(self, name: str) -> Any:
        return self._shared_state.get("plugins", {}).get(name)

    @property
    def is_fsdp2(self) -> bool:
        """Whether FSDP trains, which is of the second kind always."""
        return self.distributed_type is DistributedType.FSDP

    @property
    def fsdp_plugin(self) -> Any:
        """What FSDP was configured by, with all its fields; None without FSDP."""
        return self._shared_state.get("fsdp_plugin")

    @property
    def distributed_type(self) -> DistributedType:
        told = self._shared_state.get("strategy_type")
        return DistributedType(told) if told else super().distributed_type

    def __repr__(self) -> str:
        """Where this process is, and the configuration that somebody has set, with its origins."""
        lines = [f"{super().__repr__()[:-1]}, mixed precision {self.mixed_precision})"]
        config: Resolved | None = self._shared_state.get("config")
        if config is not None and config.given():
            lines += [f"  {line}" for line in str(table(config, config.given())).splitlines()]
        return "\n".join(lines)

    @classmethod
    def _reset_state(cls, reset_partial_state: bool = False) -> None:
        cls._shared_state.pop("mixed_precision", None)
        cls._shared_state.pop("config", None)
        if reset_partial_state:
            super()._reset_state()


class Position:
    """How far one pass over a prepared loader has come.

    Args:
        loader: the loader; held weakly.
        remainder: samples in the last round of batches over all processes; 0 if it is full, -1 if nobody knows.

    Attributes:
        end: true from the last batch of the pass on.
    """

    __slots__ = ("end", "owner", "remainder")

    def __init__(self, loader: Any = None, remainder: int = -1) -> None:
        self.owner = None if loader is None else weakref.ref(loader)
        self.remainder = remainder
        self.end = False

    @property
    def loader(self) -> Any:
        return None if self.owner is None else self.owner()


class GradientState:
    """Whether gradients are complete, and where the loader that feeds them stands.

    Args:
        gradient_accumulation_plugin: replaces the settings shown here.
    """

    _shared_state: ClassVar[dict[str, Any]] = {}
    sync_gradients: bool
    plugin: GradientAccumulationPlugin
    position: Position
    _passes: list[Position]

    def __init__(self, gradient_accumulation_plugin: GradientAccumulationPlugin | None = None) -> None:
        self.__dict__ = self._shared_state
        if not self._shared_state:
            self.sync_gradients = True
            self.plugin = GradientAccumulationPlugin()
            self._passes = [Position()]
            self.position = self._passes[0]
        if gradient_accumulation_plugin is not None:
            self.plugin = gradient_accumulation_plugin

    @property
    def initialized(self) -> bool:
        return bool(self._shared_state)

    @property
    def num_steps(self) -> int:
        """Micro-batches per optimizer step."""
        return self.plugin.num_steps or 1

    @property
    def sync_with_dataloader(self) -> bool:
        """Whether the last batch of a loader ends a window."""
        return self.plugin.sync_with_dataloader

    @property
    def adjust_scheduler(self) -> bool:
        return self.plugin.adjust_scheduler

    @property
    def plugin_kwargs(self) -> dict[str, Any]:
        """The settings that differ from their defaults; transformers' Trainer asks for them."""
        return self.plugin.to_kwargs()

    def _set_sync_gradients(self, sync_gradients: bool) -> None:
        """Say whether gradients are complete, for loops that count for themselves (transformers' Trainer)."""
        self.sync_gradients = sync_gradients

    @property
    def end_of_dataloader(self) -> bool:
        """True while the last batch of the innermost prepared loader is in use."""
        return self.position.end

    @property
    def remainder(self) -> int:
        """Samples in the last round of batches over all processes; 0 if it is full, -1 if nobody knows."""
        return self.position.remainder

    @property
    def in_dataloader(self) -> bool:
        return self.position.loader is not None

    @property
    def active_dataloader(self) -> Any:
        """The innermost prepared loader that is being iterated, None outside."""
        return self.position.loader

    @property
    def dataloader_references(self) -> list[Any]:
        return [position.loader for position in self._passes]

    def begin_pass(self, position: Position) -> None:
        """A pass over a loader begins; a finished one of the same loader that a traceback kept alive is dropped."""
        self._passes[:] = [old for old in self._passes if not (old.end and old.owner is position.owner)]
        self._passes.append(position)
        self.position = position

    def finish_pass(self, position: Position) -> None:
        """A pass ended, or was given up."""
        self._passes[:] = [old for old in self._passes if old is not position]
        self.position = self._passes[-1]

    def __repr__(self) -> str:
        return (
            f"GradientState(sync_gradients={self.sync_gradients}, num_steps={self.num_steps}, "
            f"end_of_dataloader={self.end_of_dataloader}, remainder={self.remainder})"
        )

    @classmethod
    def _reset_state(cls) -> None:
        cls._shared_state.clear()


def _only_if(holds: Callable[[], bool], function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs) if holds() else None

    return guarded
