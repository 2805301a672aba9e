"""Words that arguments and configurations take, as enums; Accelerate's names and values."""

from __future__ import annotations

from enum import Enum, EnumMeta
from typing import Any


class _WordsMeta(EnumMeta):
    def __contains__(cls, member: object) -> bool:
        words: Any = cls.__members__.values()
        return isinstance(member, cls) or member in [word.value for word in words]


class BaseEnum(str, Enum, metaclass=_WordsMeta):
    """A word: equal to its text, prints as it, and `"text" in Words` says whether it is one of them."""

    def __str__(self) -> str:
        return str(self.value)

    @classmethod
    def list(cls) -> list[Any]:
        """All words, as texts."""
        return [word.value for word in cls]


EnumWithContains = BaseEnum
"""Accelerate's other base of such enums."""


class PrecisionType(BaseEnum):
    """Precision of the forward pass."""

    NO = "no"
    FP8 = "fp8"
    FP16 = "fp16"
    BF16 = "bf16"


class RNGType(BaseEnum):
    """Random generators that can be made equal on all ranks."""

    TORCH = "torch"
    CUDA = "cuda"
    MLU = "mlu"
    SDAA = "sdaa"
    MUSA = "musa"
    NPU = "npu"
    XLA = "xla"
    XPU = "xpu"
    HPU = "hpu"
    NEURON = "neuron"
    GENERATOR = "generator"


class DDPCommunicationHookType(BaseEnum):
    """How DDP's gradients are compressed on their way."""

    NO = "no"
    FP16 = "fp16"
    BF16 = "bf16"
    POWER_SGD = "power_sgd"
    BATCHED_POWER_SGD = "batched_power_sgd"


class DynamoBackend(BaseEnum):
    """Backends of `torch.compile`."""

    NO = "NO"
    EAGER = "EAGER"
    AOT_EAGER = "AOT_EAGER"
    INDUCTOR = "INDUCTOR"
    AOT_TS_NVFUSER = "AOT_TS_NVFUSER"
    NVPRIMS_NVFUSER = "NVPRIMS_NVFUSER"
    CUDAGRAPHS = "CUDAGRAPHS"
    OFI = "OFI"
    FX2TRT = "FX2TRT"
    ONNXRT = "ONNXRT"
    TENSORRT = "TENSORRT"
    AOT_TORCHXLA_TRACE_ONCE = "AOT_TORCHXLA_TRACE_ONCE"
    TORCHXLA_TRACE_ONCE = "TORCHXLA_TRACE_ONCE"
    TVM = "TVM"
    HPU_BACKEND = "HPU_BACKEND"
    NEURON = "NEURON"


class ComputeEnvironment(BaseEnum):
    """Where a launch runs."""

    LOCAL_MACHINE = "LOCAL_MACHINE"
    AMAZON_SAGEMAKER = "AMAZON_SAGEMAKER"


class SageMakerDistributedType(BaseEnum):
    """SageMaker's own ways to distribute."""

    NO = "NO"
    DATA_PARALLEL = "DATA_PARALLEL"
    MODEL_PARALLEL = "MODEL_PARALLEL"


class FP8BackendType(BaseEnum):
    """Libraries for fp8 arithmetic."""

    NO = "NO"
    TE = "TE"
    MSAMP = "MSAMP"
    AO = "AO"


class CustomDtype(BaseEnum):
    """Number formats that are no dtypes of torch, for the sizes of weights."""

    FP8 = "fp8"
    INT4 = "int4"
    INT2 = "int2"
