"""The schema: every configuration key once, with its type, choices, default, text, variable and flags.

The readers of the environment, the magics' flags and the errors are all made from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Precision = Literal["no", "fp16", "bf16", "fp8"]
StartMethod = Literal["zygote", "spawn", "fork", "inline"]
OutputMode = Literal["auto", "all", "ranks", "main"]
GpuIds = Literal["all"] | tuple[int, ...]


def _lowered(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value


def _no_is_a_word(value: object) -> object:
    """YAML reads a bare `no` as false; as a precision it is a word."""
    return "no" if value is False else _lowered(value)


def _gpu_list(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, str) and value.strip().lower() != "all":
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return _lowered(value)


def _key(default: object, text: str, *, env: str, possible: str, flags: tuple[str, ...] = ()) -> Any:
    extra: dict[str, Any] = {"env": env, "possible": possible, "flags": list(flags)}
    return Field(default=default, description=text, json_schema_extra=extra)


class RunConfig(BaseModel):
    """The configuration of a run, all layers merged and checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_processes: Annotated[int, Field(ge=1)] | None = _key(
        None,
        "Worker processes over all machines; left out: one per device, else one per physical core up to 4.",
        env="ACCELERATE_NUM_PROCESSES",
        possible="a whole number from 1",
        flags=("-n",),
    )
    mixed_precision: Annotated[Precision, BeforeValidator(_no_is_a_word)] = _key(
        "no",
        "Number format of the forward pass: no (float32), bf16, fp16 (with a loss scaler), fp8.",
        env="ACCELERATE_MIXED_PRECISION",
        possible="no, bf16, fp16, fp8",
    )
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = _key(
        1,
        "Micro-batches whose gradients are added up before the optimizer steps.",
        env="ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
        possible="a whole number from 1",
    )
    use_cpu: bool = _key(
        False,
        "Train on the CPU even if there are other devices.",
        env="ACCELERATE_USE_CPU",
        possible="true, false",
        flags=("--cpu",),
    )
    gpu_ids: Annotated[GpuIds, BeforeValidator(_gpu_list)] | None = _key(
        None,
        "GPUs to train on, by their index among the visible ones.",
        env="ACCELERATE_GPU_IDS",
        possible='all, or indices such as "0,1"',
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = _key(
        None,
        "Seed of Python's, numpy's and torch's generators in every worker; left out: as in the kernel.",
        env="NBACCEL_SEED",
        possible="a whole number from 0 to 2**32 - 1",
    )
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = _key(
        None,
        "Seconds after which the whole run is stopped; left out: never.",
        env="NBACCEL_TIMEOUT",
        possible="seconds, a number above 0",
    )
    hang_after: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _key(
        60.0,
        "Seconds in one collective operation after which the cell shows who waits for whom; 0 for never.",
        env="NBACCEL_HANG_AFTER",
        possible="seconds, a number from 0",
    )
    start_method: Annotated[StartMethod, BeforeValidator(_lowered)] = _key(
        "zygote",
        "How workers start: zygote (a warm server forks them), spawn (fresh interpreters), fork (copies of the kernel) "
        "or inline (in the kernel itself).",
        env="NBACCEL_START_METHOD",
        possible="zygote, spawn, fork, inline",
    )
    output: Annotated[OutputMode, BeforeValidator(_lowered)] = _key(
        "auto",
        "Whose text the cell shows: auto (rank 0, and what others print differently), all or ranks (labelled), main.",
        env="NBACCEL_OUTPUT",
        possible="auto, all, ranks, main",
    )
    sync_models: bool = _key(
        True,
        "Copy trained parameters and buffers back into the kernel's modules after a successful run.",
        env="NBACCEL_SYNC_MODELS",
        possible="true, false",
    )
    max_restarts: Annotated[int, Field(ge=0)] = _key(
        0,
        "How often a failed run is started again with fresh workers.",
        env="NBACCEL_MAX_RESTARTS",
        possible="a whole number from 0",
    )
    num_machines: Annotated[int, Field(ge=1)] = _key(
        1, "Machines that train together.", env="ACCELERATE_NUM_MACHINES", possible="a whole number from 1"
    )
    machine_rank: Annotated[int, Field(ge=0)] = _key(
        0, "Which of the machines this one is.", env="ACCELERATE_MACHINE_RANK", possible="a whole number from 0"
    )
    main_process_ip: str | None = _key(
        None, "Address of machine 0, for several machines.", env="NBACCEL_MAIN_PROCESS_IP", possible="a host or address"
    )
    main_process_port: Annotated[int, Field(ge=0, le=65535)] | None = _key(
        None,
        "Port on machine 0, for several machines; one machine needs none.",
        env="NBACCEL_MAIN_PROCESS_PORT",
        possible="a port from 0 to 65535",
    )


@dataclass(frozen=True)
class Key:
    """One key of the schema, as readers and faces need it."""

    name: str
    default: object
    text: str
    env: str
    possible: str
    flags: tuple[str, ...]
    choices: tuple[str, ...]
    is_switch: bool


def _choices(annotation: object) -> tuple[str, ...]:
    arguments = get_args(annotation)
    if arguments and all(isinstance(argument, str) for argument in arguments):
        return arguments
    return ()


def _describe(name: str) -> Key:
    info = RunConfig.model_fields[name]
    extra = info.json_schema_extra
    assert isinstance(extra, dict)
    return Key(
        name=name,
        default=info.default,
        text=info.description or "",
        env=str(extra["env"]),
        possible=str(extra["possible"]),
        flags=(f"--{name.replace('_', '-')}", *extra["flags"]),  # type: ignore[misc]  # JsonValue: a list of str here
        choices=_choices(info.annotation),
        is_switch=info.annotation is bool,
    )


KEYS: Mapping[str, Key] = {name: _describe(name) for name in RunConfig.model_fields}
