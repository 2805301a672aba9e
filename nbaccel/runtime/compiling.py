"""Models compiled by `torch.compile`. The base class compiles nothing."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import nn

from nbaccel.config import RunConfig
from nbaccel.errors import CallError, PlanError
from nbaccel.runtime.enums import DynamoBackend
from nbaccel.runtime.modules import has_repeated_blocks, is_compiled_module, is_repeated_blocks
from nbaccel.runtime.remembering import KwargsHandler

Setting = tuple[str, object, str]
"""A key of the configuration, its value, and the place that says so."""


@dataclass
class TorchDynamoPlugin(KwargsHandler):
    """How models are compiled; fields that are left out come from the configuration.

    Attributes:
        backend: what compiles them, `no` for nothing. If neither this nor the configuration says it: `inductor` where
            another field says how to compile, else nothing (transformers' Trainer always gives an empty plugin).
        mode: `default`, `reduce-overhead`, `max-autotune` or `max-autotune-no-cudagraphs`.
        fullgraph: refuse graph breaks.
        dynamic: expect changing shapes; None: torch decides.
        options: the backend's own options, in place of a mode.
        disable: compile nothing.
        use_regional_compilation: compile a repeated block once, and the rest of the model in parts.

    Raises:
        CallError: a backend that does not exist, or both a mode and options.
    """

    backend: Any = None
    mode: str | None = None
    fullgraph: bool | None = None
    dynamic: bool | None = None
    options: Mapping[str, Any] | None = None
    disable: bool = False
    use_regional_compilation: bool | None = None

    def __post_init__(self) -> None:
        if self.backend is not None:
            self.backend = _word(self.backend)
        if self.options and self.mode not in (None, "default"):
            raise CallError(
                f"TorchDynamoPlugin(mode={self.mode!r}, options=...): torch takes one of them, as a mode is a set of "
                "options. Leave one out."
            )

    def settings(self) -> Iterator[Setting]:
        """What it says in the words of the configuration."""
        for name, key in _KEYS.items():
            value = getattr(self, name)
            if value is not None:
                word = str(value).lower() if name == "backend" else value
                yield f"dynamo_config.{key}", word, f"the argument dynamo_plugin= ({type(self).__name__}.{name})"

    def says_how(self) -> bool:
        """Whether a field asks for compiling in a certain way."""
        return any((self.mode, self.fullgraph, self.dynamic, self.options, self.use_regional_compilation))

    def completed(self, config: RunConfig) -> TorchDynamoPlugin:
        """The same with what the configuration says."""
        known = {name: getattr(config.dynamo_config, key) for name, key in _KEYS.items()}
        return replace(self, **known)

    def arguments(self) -> dict[str, Any]:
        """Those of `torch.compile`, once all fields are known."""
        told = {"backend": str(self.backend).lower(), "fullgraph": bool(self.fullgraph), "dynamic": self.dynamic}
        if self.options:
            return told | {"options": dict(self.options)}
        return told if self.mode in (None, "default") else told | {"mode": self.mode}


DEFAULT_BACKEND: Setting = (
    "dynamo_config.dynamo_backend",
    "inductor",
    "the argument dynamo_plugin= (a TorchDynamoPlugin without a backend)",
)
"""What a plugin means that does not say it, where nobody else does."""

_KEYS = {
    "backend": "dynamo_backend",
    "mode": "dynamo_mode",
    "fullgraph": "dynamo_use_fullgraph",
    "dynamic": "dynamo_use_dynamic",
    "use_regional_compilation": "dynamo_use_regional_compilation",
}


def _word(backend: object) -> DynamoBackend:
    written = str(backend).upper()
    if written not in DynamoBackend:
        raise CallError(
            f"TorchDynamoPlugin(backend={backend!r}): possible are {', '.join(DynamoBackend.list()).lower()}."
        )
    return DynamoBackend(written)


class Compiler:
    """Leaves models as they are."""

    def compile(self, model: nn.Module, in_place: bool) -> nn.Module:
        """Compile a model; that takes place in its first pass.

        Args:
            model: the user's own module, or one that the user has compiled.
            in_place: the object must stay the same, as hooks on it are to be called.

        Returns:
            What is to be called from now on; it has the same weights.
        """
        return model


class TorchCompiler(Compiler):
    """`torch.compile` (https://dl.acm.org/doi/10.1145/3620665.3640366).

    A model is wrapped as `torch.compile` does it; repeated blocks, and what must stay the same object, are compiled in
    place, so that names of weights are those of the user's own module.

    Args:
        settings: all fields are known.

    Raises:
        PlanError: this torch has no such backend.
        CallError: both a mode and options.
    """

    def __init__(self, settings: TorchDynamoPlugin) -> None:
        self._arguments, self._by_regions = settings.arguments(), bool(settings.use_regional_compilation)
        _check_backend(self._arguments["backend"])

    def compile(self, model: nn.Module, in_place: bool) -> nn.Module:
        if is_compiled_module(model):
            return model
        if self._by_regions and has_repeated_blocks(model):
            for part in _regions(model):
                _compile_in_place(part, self._arguments)
            return model
        if in_place:
            _compile_in_place(model, self._arguments)
            return model
        compiled: Any = torch.compile(model, **self._arguments)
        _ours.add(compiled)
        return compiled


def compiler_for(plugin: TorchDynamoPlugin | None, config: RunConfig) -> tuple[Compiler, TorchDynamoPlugin]:
    """What compiles models, and its settings with all fields.

    Raises:
        PlanError: this torch has no such backend.
        CallError: settings that contradict each other.
    """
    settings = (plugin or TorchDynamoPlugin()).completed(config)
    if settings.backend is DynamoBackend.NO or settings.disable:
        return Compiler(), settings
    return TorchCompiler(settings), settings


def own_module(model: nn.Module) -> nn.Module:
    """The user's own module of one that a `Compiler` has wrapped; what the user has compiled stays so."""
    return model._orig_mod if model in _ours else model  # type: ignore[return-value]  # an attribute of torch's wrapper


def strip_compiled(model: nn.Module) -> None:
    """Undo what a `Compiler` has done in place."""
    for part in model.modules():
        if part in _in_place:
            part._compiled_call_impl = None
            _in_place.discard(part)


_ours: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""The wrappers that were made here."""
_in_place: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""The modules that were compiled in place here."""


def _check_backend(name: str) -> None:
    known = torch.compiler.list_backends(exclude_tags=())
    if name in known:
        return
    usual = ["eager", "aot_eager", *(one for one in torch.compiler.list_backends() if "aot_eager" not in one)]
    raise PlanError(
        f"dynamo_config.dynamo_backend={name!r}",
        f"torch {torch.__version__} has no such compiler here.",
        f"Possible here: {', '.join(usual)}; or install the package that brings it.",
        "dynamo_config.dynamo_backend",
    )


def _regions(model: nn.Module) -> Iterator[nn.Module]:
    """Repeated blocks, and the greatest modules without any."""
    if is_repeated_blocks(model):
        yield from model.children()
    elif has_repeated_blocks(model):
        for child in model.children():
            yield from _regions(child)
    else:
        yield model


def _compile_in_place(module: Any, arguments: Mapping[str, Any]) -> None:
    """As `Module.compile`, which compiles nothing of torch's own classes (Sequential, Linear)."""
    owner: Any = weakref.ref(module)  # alive while it is called

    def call(*args: Any, **kwargs: Any) -> Any:
        return owner()._call_impl(*args, **kwargs)

    own = FunctionType(_code_for(type(module), call.__code__), call.__globals__, "call", None, call.__closure__)
    module._compiled_call_impl = torch.compile(own, **arguments)
    _in_place.add(module)


def _code_for(kind: type, code: CodeType) -> CodeType:
    """A code object for each class of modules: torch shares what it has compiled, and counts how often, by these."""
    if kind not in _codes:
        _codes[kind] = code.replace(co_name=f"call_{kind.__name__}")
    return _codes[kind]


_codes: weakref.WeakKeyDictionary[type, CodeType] = weakref.WeakKeyDictionary()
