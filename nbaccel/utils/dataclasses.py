"""What training code may import from `nbaccel.utils.dataclasses`; nothing inside nbaccel does."""

from nbaccel.runtime.batches import TensorInformation
from nbaccel.runtime.compiling import TorchDynamoPlugin
from nbaccel.runtime.constants import (
    BETA_CP_AVAILABLE_PYTORCH_VERSION,
    BETA_TP_AVAILABLE_PYTORCH_VERSION,
    BETA_TP_AVAILABLE_TRANSFORMERS_VERSION,
    FSDP2_PYTORCH_VERSION,
    FSDP_AUTO_WRAP_POLICY,
    FSDP_BACKWARD_PREFETCH,
    FSDP_SHARDING_STRATEGY,
    MITA_PROFILING_AVAILABLE_PYTORCH_VERSION,
    XPU_PROFILING_AVAILABLE_PYTORCH_VERSION,
)
from nbaccel.runtime.enums import (
    BaseEnum,
    ComputeEnvironment,
    CustomDtype,
    DDPCommunicationHookType,
    DynamoBackend,
    EnumWithContains,
    FP8BackendType,
    PrecisionType,
    RNGType,
    SageMakerDistributedType,
)
from nbaccel.runtime.handlers import (
    AutocastKwargs,
    DataLoaderConfiguration,
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    GradScalerKwargs,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from nbaccel.runtime.later import DeepSpeedPlugin, MegatronLMPlugin, add_model_config_to_megatron_parser
from nbaccel.runtime.plugins import (
    DeepSpeedSequenceParallelConfig,
    FullyShardedDataParallelPlugin,
    TorchContextParallelConfig,
    TorchTensorParallelConfig,
    TorchTensorParallelPlugin,
)
from nbaccel.runtime.profiling import ProfileKwargs
from nbaccel.runtime.recipes import (
    AORecipeKwargs,
    BnbQuantizationConfig,
    FP8RecipeKwargs,
    MSAMPRecipeKwargs,
    TERecipeKwargs,
)
from nbaccel.runtime.remembering import KwargsHandler
from nbaccel.runtime.state import DistributedType
from nbaccel.runtime.tracking.choosing import LoggerType

__all__ = [
    "AORecipeKwargs",
    "AutocastKwargs",
    "BETA_CP_AVAILABLE_PYTORCH_VERSION",
    "BETA_TP_AVAILABLE_PYTORCH_VERSION",
    "BETA_TP_AVAILABLE_TRANSFORMERS_VERSION",
    "BaseEnum",
    "BnbQuantizationConfig",
    "ComputeEnvironment",
    "CustomDtype",
    "DDPCommunicationHookType",
    "DataLoaderConfiguration",
    "DeepSpeedPlugin",
    "DeepSpeedSequenceParallelConfig",
    "DistributedDataParallelKwargs",
    "DistributedType",
    "DynamoBackend",
    "EnumWithContains",
    "FP8BackendType",
    "FP8RecipeKwargs",
    "FSDP2_PYTORCH_VERSION",
    "FSDP_AUTO_WRAP_POLICY",
    "FSDP_BACKWARD_PREFETCH",
    "FSDP_SHARDING_STRATEGY",
    "FullyShardedDataParallelPlugin",
    "GradScalerKwargs",
    "GradientAccumulationPlugin",
    "InitProcessGroupKwargs",
    "KwargsHandler",
    "LoggerType",
    "MITA_PROFILING_AVAILABLE_PYTORCH_VERSION",
    "MSAMPRecipeKwargs",
    "MegatronLMPlugin",
    "PrecisionType",
    "ProfileKwargs",
    "ProjectConfiguration",
    "RNGType",
    "SageMakerDistributedType",
    "TERecipeKwargs",
    "TensorInformation",
    "TorchContextParallelConfig",
    "TorchDynamoPlugin",
    "TorchTensorParallelConfig",
    "TorchTensorParallelPlugin",
    "XPU_PROFILING_AVAILABLE_PYTORCH_VERSION",
    "add_model_config_to_megatron_parser",
]
