"""The plugin that says how FSDP shards; Accelerate's name, fields and defaults."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from typing_extensions import Self

from nbaccel.errors import CallError
from nbaccel.runtime.remembering import Remembering

Held = tuple[str, object, str]
"""A key of the configuration, its value, and the place that says so."""


@dataclass
class FullyShardedDataParallelPlugin(Remembering):
    """How FSDP shards; fields that are left out come from the configuration.

    Attributes:
        fsdp_version: 1 or 2; both are carried out by `torch.distributed.fsdp.fully_shard`.
        sharding_strategy: a word, or torch's `ShardingStrategy`.
        reshard_after_forward: free a unit's full parameters after its forward pass; version 1: a sharding strategy.
        backward_prefetch: a word, or torch's `BackwardPrefetch`.
        mixed_precision_policy: number formats: a mapping, or torch's `MixedPrecisionPolicy` or `MixedPrecision`.
        auto_wrap_policy: a word, or a function that says of a module whether it is a unit.
        cpu_offload: keep parameters in the CPU's memory: true, or torch's `CPUOffload` or `CPUOffloadPolicy`.
        ignored_modules: modules that are not sharded, or names and patterns.
        state_dict_type: a word, or torch's `StateDictType`.
        state_dict_config: torch's `FullStateDictConfig` or `ShardedStateDictConfig`; says the type, too. Whole weights
            always go to the CPU's memory of rank 0.
        optim_state_dict_config: the same of optimizer states.
        limit_all_gathers: true; fully_shard always does.
        use_orig_params: true; fully_shard always does.
        param_init_fn: gives a module on the meta device its first weights.
        sync_module_states: start from rank 0's weights.
        forward_prefetch: gather the next unit during the forward pass.
        activation_checkpointing: compute activations again in the backward pass.
        activation_checkpointing_offload: keep what that needs in the CPU's memory.
        cpu_ram_efficient_loading: only rank 0 reads the weights.
        transformer_cls_names_to_wrap: classes of layers that are units.
        min_num_params: parameters from which a module is a unit.
    """

    fsdp_version: int | None = None
    sharding_strategy: Any = None
    reshard_after_forward: Any = None
    backward_prefetch: Any = None
    mixed_precision_policy: Any = None
    auto_wrap_policy: Any = None
    cpu_offload: Any = None
    ignored_modules: Iterable[nn.Module | str] | str | None = None
    state_dict_type: Any = None
    state_dict_config: Any = None
    optim_state_dict_config: Any = None
    limit_all_gathers: bool = True
    use_orig_params: bool | None = None
    param_init_fn: Callable[[nn.Module], Any] | None = None
    sync_module_states: bool | None = None
    forward_prefetch: bool | None = None
    activation_checkpointing: bool | None = None
    cpu_ram_efficient_loading: bool | None = None
    transformer_cls_names_to_wrap: Iterable[str] | str | None = None
    min_num_params: int | None = None
    activation_checkpointing_offload: bool | None = None

    def settings(self) -> Iterator[Held]:
        """What it says in the words of the configuration; FSDP itself, first of all.

        Raises:
            CallError: a configuration of states is of another type than `state_dict_type`.
        """
        place = "the argument fsdp_plugin="
        yield "distributed_type", "FSDP", place
        for name, key in _FSDP_KEYS.items():
            value = self.state_dict_word if name == "state_dict_type" else _word(getattr(self, name))
            if value is not None and not callable(value):
                yield f"fsdp_config.{key}", value, f"{place} ({type(self).__name__}.{name})"
        names = tuple(one for one in self._ignored() if isinstance(one, str))
        if names:
            yield "fsdp_config.fsdp_ignored_modules", names, f"{place} ({type(self).__name__}.ignored_modules)"

    def _ignored(self) -> tuple[nn.Module | str, ...]:
        given = self.ignored_modules
        return (given,) if isinstance(given, str) else tuple(given or ())

    def modules_to_ignore(self) -> tuple[nn.Module, ...]:
        """The modules among `ignored_modules`; names go through the configuration."""
        return tuple(one for one in self._ignored() if isinstance(one, nn.Module))

    @property
    def state_dict_word(self) -> str | None:
        """The type of state dicts, as a file would say it; None if it is left open.

        Raises:
            CallError: a configuration of states is of another type, or no configuration.
        """
        word = _word(self.state_dict_type)
        said = None if word is None else str(word).strip().upper()
        for name in ("state_dict_config", "optim_state_dict_config"):
            found = _form_of(name, getattr(self, name))
            if found and said and found != said:
                raise CallError(
                    f"FullyShardedDataParallelPlugin({name}={type(getattr(self, name)).__name__}(...)) belongs to "
                    f"{found}, and the type of states is {said}. Leave one of the two out."
                )
            said = said or found
        return said

    def set_state_dict_type(self, state_dict_type: Any = None) -> None:
        """Choose what the next checkpoints are; on `accelerator.state.fsdp_plugin` it takes effect at once.

        Raises:
            CallError: it is neither whole nor in shards.
        """
        word = _word(self.state_dict_type if state_dict_type is None else state_dict_type)
        word = "FULL_STATE_DICT" if word is None else str(word).strip().upper()
        if word not in _FORMS.values():
            raise CallError(f"set_state_dict_type({state_dict_type!r}): possible are {', '.join(_FORMS.values())}.")
        self.state_dict_type, self.state_dict_config, self.optim_state_dict_config = word, None, None

    def completed(self, config: Any, form: str) -> Self:
        """A copy whose fields that are left out are the configuration's.

        Args:
            config: the section `fsdp_config`.
            form: the type of states that is in force.
        """
        made = copy.copy(self)
        for name, key in _FSDP_KEYS.items():
            if getattr(made, name) is None:
                setattr(made, name, getattr(config, key))
        made.state_dict_type = form
        return made

    @property
    def pins_memory(self) -> bool:
        """Whether what is offloaded lies in page-locked memory."""
        return bool(getattr(self.cpu_offload, "pin_memory", True))

    def notes(self) -> list[str]:
        """What it says that fully_shard does otherwise, with the same training result."""
        said = []
        if not self.limit_all_gathers:
            said.append("limit_all_gathers=False changes nothing: fully_shard always limits how far it gathers ahead")
        ignored = [name for name, usual in _ONLY_FSDP1.items() if _part(self.mixed_precision_policy, name) not in usual]
        if ignored:
            said.append(
                f"mixed_precision_policy: {', '.join(ignored)} of FSDP1 changes nothing: fully_shard leaves buffers in "
                "their own number format, and casts inputs of all units or none (cast_forward_inputs)"
            )
        said += [
            f"{name}.{part}={value} changes nothing: whole states always go to the CPU's memory of rank 0"
            for name in ("state_dict_config", "optim_state_dict_config")
            for part in ("offload_to_cpu", "rank0_only")
            if (value := getattr(getattr(self, name), part, None)) is False and _is_full(getattr(self, name))
        ]
        return said

    def mixed_precision(self) -> Mapping[str, Any]:
        """The policy's fields that are given, by the names of torch's `MixedPrecisionPolicy`.

        Raises:
            CallError: it is neither a word, a mapping nor one of torch's policies.
        """
        policy = self.mixed_precision_policy
        if policy is None:
            return {}
        names = ("param_dtype", "reduce_dtype", "output_dtype", "cast_forward_inputs")
        if isinstance(policy, str) and policy in _DTYPES:
            return dict.fromkeys(names[:3], _DTYPES[policy])
        if isinstance(policy, Mapping):
            given = {name: value for name, value in policy.items() if name not in _ONLY_FSDP1}
        elif hasattr(policy, "param_dtype") and hasattr(policy, "reduce_dtype"):
            given = {name: getattr(policy, name) for name in names if hasattr(policy, name)}
        else:
            given = {"mixed_precision_policy": policy}
        for name, value in given.items():
            if name not in names or not isinstance(value, bool | torch.dtype | None):
                raise CallError(
                    f"FullyShardedDataParallelPlugin(mixed_precision_policy=...) with {name}={value!r}: possible are "
                    f"{', '.join(names)} with dtypes of torch, in a mapping or a MixedPrecisionPolicy, or one word: "
                    f"{', '.join(_DTYPES)}."
                )
        return given

    def chooser(self) -> Callable[[nn.Module, str], bool] | None:
        """The user's own function that says which modules are units; None for the configuration's words.

        torch's `ModuleWrapPolicy` and its policies in `functools.partial` are asked as they expect.

        Raises:
            CallError: it is nothing that can be asked.
        """
        policy = self.auto_wrap_policy
        if policy is None or isinstance(policy, str):
            return None
        classes = getattr(policy, "_module_classes", None)
        if classes:
            return lambda module, name: isinstance(module, tuple(classes))
        if not callable(policy) or hasattr(policy, "_run_policy"):
            raise CallError(
                f"FullyShardedDataParallelPlugin(auto_wrap_policy={policy!r}): possible are TRANSFORMER_BASED_WRAP, "
                "SIZE_BASED_WRAP, NO_WRAP, or a function of a module that says whether it is a unit."
            )
        if "recurse" in _parameters(policy):
            return lambda module, name: bool(policy(module=module, recurse=False, nonwrapped_numel=_size(module)))
        return lambda module, name: bool(policy(module))


def _parameters(function: Callable[..., Any]) -> Iterable[str]:
    inner = function.func if isinstance(function, functools.partial) else function
    return inspect.signature(inner).parameters


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


_FSDP_KEYS = {
    "fsdp_version": "fsdp_version",
    "sharding_strategy": "fsdp_sharding_strategy",
    "reshard_after_forward": "fsdp_reshard_after_forward",
    "backward_prefetch": "fsdp_backward_prefetch",
    "auto_wrap_policy": "fsdp_auto_wrap_policy",
    "cpu_offload": "fsdp_offload_params",
    "state_dict_type": "fsdp_state_dict_type",
    "use_orig_params": "fsdp_use_orig_params",
    "sync_module_states": "fsdp_sync_module_states",
    "forward_prefetch": "fsdp_forward_prefetch",
    "activation_checkpointing": "fsdp_activation_checkpointing",
    "activation_checkpointing_offload": "fsdp_activation_checkpointing_offload",
    "cpu_ram_efficient_loading": "fsdp_cpu_ram_efficient_loading",
    "transformer_cls_names_to_wrap": "fsdp_transformer_layer_cls_to_wrap",
    "min_num_params": "fsdp_min_num_params",
}


def _word(value: Any) -> Any:
    """A value as a file would say it: torch's enumerations by name, its offloading objects as a truth value."""
    kind = type(value).__name__
    if kind in ("ShardingStrategy", "BackwardPrefetch", "StateDictType"):
        return _OTHER_NAMES.get(value.name, value.name)
    if kind == "CPUOffload":
        return bool(value.offload_params)
    if kind == "CPUOffloadPolicy":
        return True
    if kind == "OffloadPolicy":
        return False
    return tuple(value) if isinstance(value, list | set | frozenset) else value


def _form_of(name: str, config: Any) -> str | None:
    """The type of states that a configuration of them belongs to."""
    if config is None:
        return None
    form = _FORMS.get(type(config).__name__.replace("Optim", "").removesuffix("StateDictConfig"))
    if form is None:
        raise CallError(
            f"FullyShardedDataParallelPlugin({name}={config!r}): possible are torch's configurations of whole or of "
            "sharded states (FullStateDictConfig, ShardedStateDictConfig, and those with Optim in them), or None."
        )
    return form


def _is_full(config: Any) -> bool:
    return type(config).__name__.startswith("Full")


def _part(policy: Any, name: str) -> Any:
    return policy.get(name) if isinstance(policy, Mapping) else getattr(policy, name, None)


_FORMS = {"Full": "FULL_STATE_DICT", "Sharded": "SHARDED_STATE_DICT"}
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_ONLY_FSDP1: Mapping[str, tuple[Any, ...]] = {
    "buffer_dtype": (None, torch.float32),
    "keep_low_precision_grads": (None, False),
    "cast_root_forward_inputs": (None, True),
}
"""Fields of FSDP1's policy, and the values with which they ask for nothing."""
_OTHER_NAMES = {"_HYBRID_SHARD_ZERO2": "HYBRID_SHARD_ZERO2"}
