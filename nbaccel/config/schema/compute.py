"""The keys of `parallelism_config`, `fp8_config` and `dynamo_config`: how the arithmetic is laid out and compiled."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from nbaccel.config.schema.key import Section, key

Size = Annotated[int, Field(ge=1)]


def _mesh(default: Any, text: str, env: str, **more: Any) -> Any:
    return key(default, text, env=f"PARALLELISM_CONFIG_{env}", **more)


class ParallelismConfig(Section):
    """Sizes of the mesh's dimensions; their product is the number of processes."""

    parallelism_config_dp_replicate_size: Size = _mesh(1, "Replicas.", "DP_REPLICATE_SIZE")
    parallelism_config_dp_shard_size: Size = _mesh(1, "Shards of a replica.", "DP_SHARD_SIZE")
    parallelism_config_tp_size: Size = _mesh(1, "Tensor parallel ranks.", "TP_SIZE")
    parallelism_config_cp_size: Size = _mesh(1, "Context parallel ranks.", "CP_SIZE")
    parallelism_config_sp_size: Size = _mesh(1, "Sequence parallel ranks.", "SP_SIZE")
    parallelism_config_cp_backend: Literal["torch"] = _mesh("torch", "Who splits contexts.", "CP_BACKEND")
    parallelism_config_cp_comm_strategy: Literal["allgather", "alltoall"] = _mesh(
        "allgather", "How context parallel ranks exchange keys and values.", "CP_COMM_STRATEGY"
    )
    parallelism_config_sp_backend: Literal["deepspeed"] = _mesh("deepspeed", "Who splits sequences.", "SP_BACKEND")
    parallelism_config_sp_seq_length: Size | None = _mesh(
        None, "Length of sequences.", "SP_SEQ_LENGTH", possible="a whole number from 1"
    )
    parallelism_config_sp_seq_length_is_variable: bool = _mesh(True, "Whether it changes.", "SP_SEQ_LENGTH_IS_VARIABLE")
    parallelism_config_sp_attn_implementation: str = _mesh("sdpa", "Attention's kernel.", "SP_ATTN_IMPLEMENTATION")


def _fp8(default: Any, text: str, env: str, **more: Any) -> Any:
    flag = f"--fp8-{env.lower().replace('_', '-')}"
    return key(default, text, env=f"ACCELERATE_FP8_{env}", flag=flag, **more)


def _three(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.strip("()[] ").split(",") if part.strip())
    return (value, value, value) if isinstance(value, bool) else value


class Fp8Config(Section):
    """Arithmetic in 8-bit floats."""

    backend: Literal["ao", "te", "msamp"] | None = _fp8(
        None, "torchao, Transformer Engine or MS-AMP; left out: the first that is installed.", "BACKEND"
    )
    use_autocast_during_eval: bool = _fp8(False, "Also when evaluating.", "USE_AUTOCAST_DURING_EVAL")
    margin: int = _fp8(0, "Margin of the scaling factor.", "MARGIN")
    interval: Size = _fp8(1, "Steps between two scaling factors.", "INTERVAL")
    fp8_format: Literal["HYBRID", "E4M3", "E5M2"] = _fp8("HYBRID", "Number formats.", "FORMAT")
    amax_history_len: Size = _fp8(1024, "Steps that a scaling factor looks back.", "AMAX_HISTORY_LEN")
    amax_compute_algo: Literal["max", "most_recent"] = _fp8("most_recent", "How it looks.", "AMAX_COMPUTE_ALGO")
    override_linear_precision: Annotated[tuple[bool, bool, bool], BeforeValidator(_three)] = _fp8(
        (False, False, False),
        "Leave out forward, input gradient, weight gradient.",
        "OVERRIDE_LINEAR_PRECISION",
        possible="three times true or false",
    )
    opt_level: Literal["O1", "O2"] = _fp8("O2", "MS-AMP's level.", "OPT_LEVEL")
    enable_fsdp_float8_all_gather: bool = _fp8(True, "FSDP gathers 8-bit weights.", "ENABLE_FSDP_FLOAT8_ALL_GATHER")
    pad_inner_dim: bool = _fp8(True, "Pad matrices.", "PAD_INNER_DIM")
    use_mxfp8_block_scaling: bool = _fp8(False, "Scale in blocks.", "USE_MXFP8_BLOCK_SCALING")


def _dynamo(default: Any, text: str, env: str) -> Any:
    return key(default, text, env=f"ACCELERATE_DYNAMO_{env}")


def _backend(value: object) -> object:
    """An empty word and null are how Accelerate's files say that nothing is compiled; one word its flag misspells."""
    if value is None or value == "":
        return "no"
    return "torchxla_trace_once" if str(value).lower() == "torhchxla_trace_once" else value


Backend = Literal[
    "no", "eager", "aot_eager", "inductor", "aot_ts_nvfuser", "nvprims_nvfuser", "cudagraphs", "ofi", "fx2trt",
    "onnxrt", "tensorrt", "aot_torchxla_trace_once", "torchxla_trace_once", "ipex", "tvm",
    "hpu_backend", "neuron",
]  # fmt: skip


class DynamoConfig(Section):
    """torch.compile."""

    dynamo_backend: Annotated[Backend, BeforeValidator(_backend)] = _dynamo(
        "no", "What compiles models; no: nothing does.", "BACKEND"
    )
    dynamo_mode: Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] = _dynamo(
        "default", "What the compiler aims at.", "MODE"
    )
    dynamo_use_fullgraph: bool = _dynamo(False, "Refuse graph breaks.", "USE_FULLGRAPH")
    dynamo_use_dynamic: bool | None = _dynamo(None, "Expect changing shapes; left out: torch decides.", "USE_DYNAMIC")
    dynamo_use_regional_compilation: bool = _dynamo(False, "Compile a repeated block once.", "USE_REGIONAL_COMPILATION")
