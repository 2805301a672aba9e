"""The keys of `megatron_lm_config`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from nbaccel.config.schema.key import Section, key


def _megatron(default: Any, text: str, env: str, **more: Any) -> Any:
    return key(default, text, env=f"MEGATRON_LM_{env}", **more)


Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0, le=1)]
_COUNT = "a whole number from 1"


class MegatronLmConfig(Section):
    """Megatron-LM's settings; each name without `megatron_lm_` is Megatron's own."""

    megatron_lm_tp_degree: Count = _megatron(1, "Tensor parallel ranks.", "TP_DEGREE")
    megatron_lm_pp_degree: Count = _megatron(1, "Pipeline stages.", "PP_DEGREE")
    megatron_lm_num_micro_batches: Count | None = _megatron(
        None, "Micro-batches in the pipeline.", "NUM_MICRO_BATCHES", possible=_COUNT
    )
    megatron_lm_gradient_clipping: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _megatron(
        1.0, "Norm to which gradients are clipped.", "GRADIENT_CLIPPING"
    )
    megatron_lm_sequence_parallelism: bool | None = _megatron(
        None, "Split sequences over tensor parallel ranks.", "SEQUENCE_PARALLELISM"
    )
    megatron_lm_recompute_activations: bool | None = _megatron(
        None, "Compute activations again.", "RECOMPUTE_ACTIVATIONS"
    )
    megatron_lm_recompute_granularity: Literal["full", "selective"] | None = _megatron(
        None, "How much is computed again.", "RECOMPUTE_GRANULARITY"
    )
    megatron_lm_recompute_method: Literal["uniform", "block"] | None = _megatron(
        None, "Which layers are computed again.", "RECOMPUTE_METHOD"
    )
    megatron_lm_recompute_num_layers: Count | None = _megatron(
        None, "Layers that are computed again.", "RECOMPUTE_NUM_LAYERS", possible=_COUNT
    )
    megatron_lm_use_distributed_optimizer: bool | None = _megatron(
        None, "Shard optimizer states.", "USE_DISTRIBUTED_OPTIMIZER"
    )
    megatron_lm_use_custom_fsdp: bool = _megatron(False, "Megatron's own FSDP.", "USE_CUSTOM_FSDP")
    megatron_lm_no_load_optim: bool = _megatron(False, "Leave the optimizer out when loading.", "NO_LOAD_OPTIM")
    megatron_lm_no_save_optim: bool = _megatron(False, "Leave the optimizer out when saving.", "NO_SAVE_OPTIM")
    megatron_lm_eod_mask_loss: bool = _megatron(False, "Mask the loss at ends of documents.", "EOD_MASK_LOSS")
    megatron_lm_optimizer_cpu_offload: bool = _megatron(
        False, "Keep the optimizer in the CPU's memory.", "OPTIMIZER_CPU_OFFLOAD"
    )
    megatron_lm_overlap_cpu_optimizer_d2h_h2d: bool = _megatron(
        False, "Overlap its copies.", "OVERLAP_CPU_OPTIMIZER_D2H_H2D"
    )
    megatron_lm_use_precision_aware_optimizer: bool = _megatron(
        False, "Optimizer states in lower precision.", "USE_PRECISION_AWARE_OPTIMIZER"
    )
    megatron_lm_decoder_last_pipeline_num_layers: Count | None = _megatron(
        None, "Layers of the last stage.", "DECODER_LAST_PIPELINE_NUM_LAYERS", possible=_COUNT
    )
    megatron_lm_attention_backend: str | None = _megatron(None, "Attention's kernel.", "ATTENTION_BACKEND")
    megatron_lm_attention_dropout: Rate | None = _megatron(
        None, "Dropout of attention.", "ATTENTION_DROPOUT", possible="a number from 0 to 1"
    )
    megatron_lm_hidden_dropout: Rate | None = _megatron(
        None, "Dropout of hidden states.", "HIDDEN_DROPOUT", possible="a number from 0 to 1"
    )
    megatron_lm_attention_softmax_in_fp32: bool | None = _megatron(
        None, "Attention's softmax in float32.", "ATTENTION_SOFTMAX_IN_FP32"
    )
    megatron_lm_expert_model_parallel_size: Count | None = _megatron(
        None, "Ranks that share experts.", "EXPERT_MODEL_PARALLEL_SIZE", possible=_COUNT
    )
    megatron_lm_expert_tensor_parallel_size: Count | None = _megatron(
        None, "Ranks that share an expert.", "EXPERT_TENSOR_PARALLEL_SIZE", possible=_COUNT
    )
    megatron_lm_context_parallel_size: Count | None = _megatron(
        None, "Ranks that share a sequence.", "CONTEXT_PARALLEL_SIZE", possible=_COUNT
    )
    megatron_lm_calculate_per_token_loss: bool | None = _megatron(
        None, "Weigh the loss by tokens.", "CALCULATE_PER_TOKEN_LOSS"
    )
    megatron_lm_use_rotary_position_embeddings: bool | None = _megatron(
        None, "Rotary position embeddings.", "USE_ROTARY_POSITION_EMBEDDINGS"
    )
