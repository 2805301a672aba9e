"""Settings of arithmetic that nbaccel does not have: they can be made and compared; to use them is one error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from nbaccel.errors import PlanError
from nbaccel.runtime.remembering import KwargsHandler, Remembering


class NotCarriedOut:
    """Mark of settings that nothing carries out.

    Attributes:
        reason: a sentence.
        remedy: what to use.
    """

    reason: ClassVar[str]
    remedy: ClassVar[str]

    def refusal(self, place: str) -> PlanError:
        """The error for whoever uses them.

        Args:
            place: what they were given to.
        """
        return PlanError(f"{place} with {type(self).__name__}(...)", self.reason, self.remedy)


@dataclass
class _Fp8(KwargsHandler, NotCarriedOut):
    reason = "nbaccel has no fp8 arithmetic."
    remedy = "Use mixed_precision='bf16', and leave the recipe out."


@dataclass
class AORecipeKwargs(_Fp8):
    """torchao's fp8 arithmetic.

    Attributes:
        config: torchao's `Float8LinearConfig`.
        module_filter_func: says of a module and its name whether it is converted.
        pad_inner_dim: pad matrices.
        enable_fsdp_float8_all_gather: FSDP gathers 8-bit weights.
    """

    config: Any = None
    module_filter_func: Callable[..., bool] | None = None
    pad_inner_dim: bool | None = None
    enable_fsdp_float8_all_gather: bool | None = None


@dataclass
class TERecipeKwargs(_Fp8):
    """Transformer Engine's fp8 arithmetic.

    Attributes:
        use_autocast_during_eval: also when evaluating.
        margin: margin of the scaling factor.
        interval: steps between two scaling factors.
        fp8_format: `HYBRID`, `E4M3` or `E5M2`.
        amax_history_len: steps that a scaling factor looks back.
        amax_compute_algo: `max` or `most_recent`.
        override_linear_precision: leave out forward, input gradient, weight gradient.
        use_mxfp8_block_scaling: scale in blocks.
    """

    use_autocast_during_eval: bool | None = None
    margin: int | None = None
    interval: int | None = None
    fp8_format: str | None = None
    amax_history_len: int | None = None
    amax_compute_algo: str | None = None
    override_linear_precision: tuple[bool, bool, bool] | None = None
    use_mxfp8_block_scaling: bool | None = None


@dataclass
class MSAMPRecipeKwargs(_Fp8):
    """MS-AMP's fp8 arithmetic.

    Attributes:
        opt_level: `O1` or `O2`.
    """

    opt_level: str | None = None


@dataclass
class FP8RecipeKwargs(TERecipeKwargs, MSAMPRecipeKwargs):
    """fp8 arithmetic of either library.

    Attributes:
        backend: `te`, `msamp` or `ao`.
        use_autocast: compute in fp8 in the forward pass.
    """

    backend: str | None = None
    use_autocast: bool | None = None


@dataclass
class BnbQuantizationConfig(Remembering, NotCarriedOut):
    """bitsandbytes' quantized weights.

    Attributes:
        load_in_8bit: weights of 8 bits.
        llm_int8_threshold: size of activations from which they are computed in 16 bits.
        load_in_4bit: weights of 4 bits.
        bnb_4bit_quant_type: `fp4` or `nf4`.
        bnb_4bit_use_double_quant: quantize the scaling factors, too.
        bnb_4bit_compute_dtype: number format of computation.
        torch_dtype: number format of all other weights.
        skip_modules: names of modules that stay as they are.
        keep_in_fp32_modules: names of modules that stay in float32.
        llm_int8_skip_modules: as `skip_modules`.
        llm_int8_enable_fp32_cpu_offload: keep what does not fit in the CPU's memory, in float32.
        llm_int8_has_fp16_weight: keep 16-bit weights beside.
        bnb_4bit_quant_storage: number format in which packed weights are stored.
    """

    reason = "nbaccel does not quantize models."
    remedy = "Use transformers' quantization_config= on loading."

    load_in_8bit: bool = False
    llm_int8_threshold: float = 6.0
    load_in_4bit: bool = False
    bnb_4bit_quant_type: str = "fp4"
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_compute_dtype: str | torch.dtype = "fp16"
    torch_dtype: torch.dtype | None = None
    skip_modules: list[str] | None = None
    keep_in_fp32_modules: list[str] | None = None
    llm_int8_skip_modules: list[str] | None = None
    llm_int8_enable_fp32_cpu_offload: bool = False
    llm_int8_has_fp16_weight: bool = False
    bnb_4bit_quant_storage: str | torch.dtype | None = None
