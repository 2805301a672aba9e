"""What a launch would do with the configuration as it is now: the plan, the effective batch, the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbaccel.config import Resolved, RunConfig
from nbaccel.errors import PlanError
from nbaccel.look import Html, badge, bold, code, joined, quiet, told
from nbaccel.machine import Machine
from nbaccel.machine.words import in_gib
from nbaccel.plan import Plan, settle
from nbaccel.plan.parts import Parts, choose_parts, chosen_gpus
from nbaccel_widgets.config_form.reading import Picture

_BATCHES = ("batch_size", "per_device_train_batch_size", "train_batch_size", "micro_batch_size")
"""Names under which people keep the batch size among their parameters."""

_TIMES = " \N{MULTIPLICATION SIGN} "
_BYTES = 4
"""Of a float32: weights, gradients and optimizer states are kept in it under autocast, too."""

_STRATEGIES = {"single": "one process", "ddp": "DDP", "fsdp": "FSDP"}


@dataclass(frozen=True)
class Model:
    """What is known of the training beside the configuration.

    Attributes:
        parameters: how many the model has, None if unknown.
        batch: samples in a batch of the data loader, None if unknown.
    """

    parameters: float | None = None
    batch: float | None = None


def outlook(picture: Picture, machine: Machine, model: Model) -> Html:
    """What a launch would do, or why it cannot be done.

    Args:
        picture: what the layers say.
        machine: what exists.
        model: what is known of the training.
    """
    if picture.problems:
        wrong = joined((code(key) for key in picture.problems), between=", ")
        return _lines(joined([badge("cannot start", "bad"), " Not valid: ", wrong, ". See there."]))
    if picture.resolved is None or picture.trouble:
        return _lines(joined([badge("cannot start", "bad"), " ", picture.trouble]))
    try:
        plan, parts = planned(picture.resolved, machine)
    except PlanError as error:
        return _lines(joined([badge("cannot start", "bad"), " ", str(error)]))
    config = picture.resolved.config
    return _lines(
        joined([badge("can start", "good"), " ", _described(config, plan, parts)]),
        _batch(config, plan, model),
        _memory(config, plan, parts, machine, model),
    )


def planned(resolved: Resolved, machine: Machine) -> tuple[Plan, Parts]:
    """The plan and the parts of rank 0. Raises PlanError."""
    plan = settle(resolved, machine)
    return plan, choose_parts(resolved.config, machine, plan.topology(0))


def _lines(*lines: str) -> Html:
    return joined(Html(f"<div>{told(line)}</div>") for line in lines)


def _described(config: RunConfig, plan: Plan, parts: Parts) -> Html:
    several = plan.local_world_size > 1
    where = f" here, {plan.world_size} over {config.num_machines} machines" if plan.rendezvous else ""
    gpus = f" (GPUs {plan.visible_gpus})" if plan.visible_gpus else ""
    mesh = f" on {_TIMES.join(f'{name} {size}' for name, size in parts.mesh)}" if parts.mesh else ""
    threads = f"{plan.threads_per_worker} CPU thread{'s' if plan.threads_per_worker > 1 else ''} each"
    words = (
        f"{plan.local_world_size} worker{'s' if several else ''}{where} by {plan.launcher}",
        f"on {plan.device}{gpus}",
        f"{_STRATEGIES.get(parts.strategy, parts.strategy)}{mesh}",
        "float32" if parts.precision == "no" else parts.precision,
        threads,
    )
    return joined([bold(words[0]), f" {', '.join(words[1:])}."])


def _batch(config: RunConfig, plan: Plan, model: Model) -> Html:
    steps = config.gradient_accumulation_steps
    batch = model.batch or batch_in(config.params)
    is_split = config.dataloader_config.split_batches
    shares = 1 if is_split else plan.world_size
    factors = [f"{plan.world_size} workers"] if shares > 1 else []
    factors += [f"{steps} accumulated"] if steps > 1 else []
    if batch is None:
        rest = f"a loader's batch{_TIMES}{shares * steps}" if factors else "a loader's batch, as it is"
        return joined([bold("Effective batch"), f" {rest}{_in_words(factors)}."])
    total = f"{batch * shares * steps:,.0f}"
    return joined([bold("Effective batch"), f" {total} = {_TIMES.join([f'{batch:,.0f}', *factors])}."])


def _in_words(factors: list[str]) -> str:
    return f" ({_TIMES.join(factors)})" if factors else ""


def batch_in(params: Mapping[str, Any]) -> float | None:
    """The batch size among the user's own parameters, at any depth."""
    for name, value in params.items():
        if name in _BATCHES and isinstance(value, int | float) and not isinstance(value, bool) and value > 0:
            return float(value)
        if isinstance(value, Mapping):
            inner = batch_in(value)
            if inner is not None:
                return inner
    return None


def _memory(config: RunConfig, plan: Plan, parts: Parts, machine: Machine, model: Model) -> Html:
    if model.parameters is None:
        hint = quiet("say above how many parameters the model has.")
        return joined([bold("Memory per worker" if plan.device == "cpu" else "Memory per device"), " ", hint])
    needed = memory_bytes(config, parts, model.parameters)
    room = _room_bytes(config, plan, machine)
    what = "worker" if plan.device == "cpu" else "device"
    of = f" of {in_gib(room)}" if room else ""
    says = f" about {in_gib(needed)}{of} for weights, gradients and AdamW's states; activations come on top."
    sign = [" ", badge("too much", "warn")] if room and needed > room else []
    return joined([bold(f"Memory per {what}"), says, *sign])


def memory_bytes(config: RunConfig, parts: Parts, parameters: float) -> int:
    """What a worker holds before any activation: weights, gradients, two states of AdamW, and their copies.

    Sharding after https://arxiv.org/abs/1910.02054, table 1, with float32 throughout.

    Args:
        config: the configuration.
        parts: what the runtime is made of.
        parameters: how many the model has.
    """
    weights = gradients = parameters * _BYTES
    states = 2 * parameters * _BYTES
    if parts.strategy == "fsdp":
        shards = dict(parts.mesh)["dp_shard"]
        is_freed = config.fsdp_config.fsdp_reshard_after_forward is not False
        keeps = config.fsdp_config.fsdp_sharding_strategy in ("SHARD_GRAD_OP", "HYBRID_SHARD_ZERO2") or not is_freed
        return int((weights if keeps else weights / shards) + (gradients + states) / shards)
    buckets = gradients if parts.strategy == "ddp" and not config.ddp_config.gradient_as_bucket_view else 0
    cast = (
        parameters * 2 if parts.precision in ("bf16", "fp16") else 0
    )  # autocast's copies, kept through a forward pass
    return int(weights + gradients + states + buckets + cast)


def _room_bytes(config: RunConfig, plan: Plan, machine: Machine) -> int:
    """The memory of the smallest device, or a worker's share of the machine's; 0 if unknown."""
    if plan.device == "cuda":
        return min(gpu.memory_bytes for gpu in chosen_gpus(config, machine))
    return machine.memory_bytes // plan.local_world_size
