"""DDP's gradients, smaller on their way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from nbaccel.errors import CallError, PlanError

Hook = Callable[[Any, Any], Any]

_HOOKS: Mapping[str, Hook] = {
    "fp16": default_hooks.fp16_compress_hook,
    "bf16": default_hooks.bf16_compress_hook,
    "power_sgd": powerSGD_hook.powerSGD_hook,
    "batched_power_sgd": powerSGD_hook.batched_powerSGD_hook,
}
_WRAPPERS: Mapping[str, Callable[[Any], Any]] = {
    "fp16": default_hooks.fp16_compress_wrapper,
    "bf16": default_hooks.bf16_compress_wrapper,
}
_POWER_SGD = ("power_sgd", "batched_power_sgd")


def compress_gradients(
    model: DistributedDataParallel, hook: str, wrapper: str = "no", options: Mapping[str, Any] | None = None
) -> None:
    """Let a model's gradients travel in fewer bytes: in 16 bits, or by PowerSGD (https://arxiv.org/abs/1905.13727).

    Args:
        model: no pass has gone through it yet.
        hook: `fp16`, `bf16`, `power_sgd`, `batched_power_sgd`.
        wrapper: number format of what the hook sends: `no`, `fp16`, `bf16`.
        options: arguments of `PowerSGDState`.

    Raises:
        PlanError: this torch cannot do it here.
    """
    chosen: Any = _HOOKS[hook] if wrapper == "no" else _WRAPPERS[wrapper](_HOOKS[hook])
    state: Any = model.process_group
    if hook in _POWER_SGD:
        _check_power_sgd(hook, next(model.parameters()).device.type)
        state = powerSGD_hook.PowerSGDState(model.process_group, **(options or {}))
    model.register_comm_hook(state, _renamed(chosen))


def _renamed(hook: Hook) -> Hook:
    """The same hook under another name: torch refuses those for bf16 by theirs, unless there is NCCL; gloo sums bf16,
    too."""

    def compressed_gradients(state: Any, bucket: Any) -> Any:
        return hook(state, bucket)

    compressed_gradients.__annotations__.clear()  # torch compares them with types, and these are texts
    return compressed_gradients


def check_compression(hook: str, wrapper: str, options: Mapping[str, Any] | None) -> None:
    """Raises CallError for words that do not exist, or that contradict each other."""
    for name, word, possible in (("comm_hook", hook, _HOOKS), ("comm_wrapper", wrapper, _WRAPPERS)):
        if word not in ("no", *possible):
            raise CallError(
                f"DistributedDataParallelKwargs({name}={str(word)!r}): possible are no, {', '.join(possible)}."
            )
    if wrapper != "no" and hook == "no":
        raise CallError(
            f"DistributedDataParallelKwargs(comm_wrapper={str(wrapper)!r}) without comm_hook= has nothing to wrap. Use "
            f"comm_hook={str(wrapper)!r} to send gradients in this format, or name the hook that it is to wrap."
        )
    if options and hook not in _POWER_SGD:
        raise CallError(
            f"DistributedDataParallelKwargs(comm_state_option=...) with comm_hook={str(hook)!r}: these are settings of "
            f"{' and '.join(_POWER_SGD)}. Leave them out, or use one of these."
        )
    _check_options(options or {})


def _check_options(options: Mapping[str, Any]) -> None:
    try:
        powerSGD_hook.PowerSGDState(None, **options)
    except (TypeError, ValueError) as error:
        known = powerSGD_hook.PowerSGDState.__init__.__code__
        names = ", ".join(known.co_varnames[2 : known.co_argcount])
        raise CallError(
            f"DistributedDataParallelKwargs(comm_state_option={dict(options)!r}): {error}. Possible: {names}."
        ) from error


def _check_power_sgd(hook: str, device: str) -> None:
    if device == "cpu" and torch.cuda.is_available():
        raise PlanError(
            f"comm_hook={str(hook)!r} on the CPU",
            "torch's PowerSGD waits for the GPU that this machine has, whatever device it works on.",
            "Use comm_hook='bf16' or 'fp16', or hide the GPU: CUDA_VISIBLE_DEVICES=''.",
            "ddp_config.comm_hook",
        )
    if hook == "batched_power_sgd" and not _orthogonalizes_single_matrices():
        raise PlanError(
            "comm_hook='batched_power_sgd'",
            f"torch {torch.__version__} has broken this hook of its own: it ends in an AssertionError.",
            "Use comm_hook='power_sgd', which compresses each parameter for itself.",
            "ddp_config.comm_hook",
        )


def _orthogonalizes_single_matrices() -> bool:
    try:
        powerSGD_hook._orthogonalize(torch.eye(2))
    except AssertionError:
        return False
    return True
