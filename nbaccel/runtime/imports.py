"""Which optional packages and devices are there: the questions `is_..._available()` of Accelerate.

Those about a package look for it without importing it; those about a device ask torch.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from typing import Any

import torch
from packaging.version import parse

from nbaccel.errors import MissingExtraError
from nbaccel.runtime.environment import parse_flag_from_env

USE_TORCH_XLA = True


def _has(module: str) -> bool:
    """Whether a module can be found; what stands in for a missing one, as tests do, counts as missing."""
    if module in sys.modules:
        return sys.modules[module] is not None
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _is_new(package: str, least: str) -> bool:
    version = _version_of(package)
    return version is not None and parse(version) >= parse(least)


def _package(module: str) -> Callable[[], bool]:
    def is_available() -> bool:
        return _has(module)

    is_available.__doc__ = f"Whether the package {module} is installed."
    return is_available


is_aim_available = _package("aim")
is_amdsmi_available = _package("amdsmi")
is_boto3_available = _package("boto3")
is_clearml_available = _package("clearml")
is_comet_ml_available = _package("comet_ml")
is_datasets_available = _package("datasets")
is_deepspeed_available = _package("deepspeed")
is_dvclive_available = _package("dvclive")
is_import_timer_available = _package("import_timer")
is_lomo_available = _package("lomo_optim")
is_matplotlib_available = _package("matplotlib")
is_megatron_lm_available = _package("megatron")
is_msamp_available = _package("msamp")
is_pandas_available = _package("pandas")
is_peft_available = _package("peft")
is_pynvml_available = _package("pynvml")
is_pytest_available = _package("pytest")
is_sagemaker_available = _package("sagemaker")
is_schedulefree_available = _package("schedulefree")
is_swanlab_available = _package("swanlab")
is_timm_available = _package("timm")
is_torchdata_available = _package("torchdata")
is_torchvision_available = _package("torchvision")
is_tqdm_available = _package("tqdm")
is_trackio_available = _package("trackio")
is_transformer_engine_available = _package("transformer_engine")
is_transformers_available = _package("transformers")
is_triton_available = _package("triton")
is_wandb_available = _package("wandb")


def is_tensorboard_available() -> bool:
    """Whether tensorboard or tensorboardX is installed."""
    return _has("tensorboard") or _has("tensorboardX")


def is_rich_available() -> bool:
    """Whether rich is installed, and wanted: the variable ACCELERATE_ENABLE_RICH is true."""
    return _has("rich") and parse_flag_from_env("ACCELERATE_ENABLE_RICH")


def is_mlflow_available() -> bool:
    """Whether mlflow, or its small variant mlflow-skinny, is installed."""
    return _has("mlflow") and (_version_of("mlflow") or _version_of("mlflow-skinny")) is not None


def is_bnb_available(min_version: str | None = None) -> bool:
    """Whether bitsandbytes is installed, in a version from `min_version`."""
    return _has("bitsandbytes") and (min_version is None or _is_new("bitsandbytes", min_version))


def is_8bit_bnb_available() -> bool:
    """Whether bitsandbytes can quantize to 8 bits."""
    return is_bnb_available("0.37.2")


def is_4bit_bnb_available() -> bool:
    """Whether bitsandbytes can quantize to 4 bits."""
    return is_bnb_available("0.39.0")


def is_bitsandbytes_multi_backend_available() -> bool:
    """Whether bitsandbytes runs on more than CUDA."""
    return is_bnb_available("0.45.0")


def is_numpy_available(min_version: str = "1.25.0") -> bool:
    """Whether numpy is installed, in a version from `min_version`."""
    return _is_new("numpy", min_version)


def is_torchao_available() -> bool:
    """Whether torchao is installed, in a version with fp8 training."""
    return _has("torchao") and _is_new("torchao", "0.6.1")


def is_torchdata_stateful_dataloader_available() -> bool:
    """Whether torchdata is installed, in a version with `StatefulDataLoader`."""
    return _has("torchdata") and _is_new("torchdata", "0.8.0")


def is_transformer_engine_mxfp8_available() -> bool:
    """Whether Transformer Engine can compute in MXFP8: its version, and a GPU of capability 10.0."""
    if not is_transformer_engine_available() or not _is_new("transformer_engine", "2.1.0"):
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (10, 0)


def is_pippy_available() -> bool:
    """Whether torch has pipelines."""
    return _has("torch.distributed.pipelining")


def is_torch_distributed_available() -> bool:
    """Whether this torch was built with torch.distributed."""
    return torch.distributed.is_available()


def is_weights_only_available() -> bool:
    """Whether `torch.load(weights_only=True)` is safe and complete: torch from 2.4."""
    return True


def is_cuda_available() -> bool:
    """Whether torch can use a CUDA GPU; asks the driver, so that processes can still be forked afterwards."""
    return torch.cuda.is_available()


def is_rocm_available() -> bool:
    """Whether this torch was built for AMD's GPUs."""
    return torch.version.hip is not None


def is_mps_available(min_version: str = "1.12") -> bool:
    """Whether torch can use an Apple GPU."""
    return torch.backends.mps.is_available() and torch.backends.mps.is_built()


def is_xpu_available(check_device: bool = False) -> bool:
    """Whether torch can use an Intel GPU."""
    return torch.xpu.is_available()


def is_xccl_available() -> bool:
    """Whether torch can talk between Intel GPUs."""
    return bool(getattr(torch.distributed, "is_xccl_available", lambda: False)())


def _device(kind: str, plugin: str) -> Callable[[bool], bool]:
    def is_available(check_device: bool = False) -> bool:
        module = getattr(torch, kind, None)
        return _has(plugin) and module is not None and bool(module.is_available())

    is_available.__doc__ = f"Whether the plugin {plugin} gives torch a device of the kind {kind}."
    return is_available


is_npu_available = _device("npu", "torch_npu")
is_mlu_available = _device("mlu", "torch_mlu")
is_musa_available = _device("musa", "torch_musa")
is_sdaa_available = _device("sdaa", "torch_sdaa")
is_neuron_available = _device("neuron", "torch_neuronx")
is_hpu_available = _device("hpu", "habana_frameworks")


def is_habana_gaudi1() -> bool:
    """Whether the HPU is of the first generation; nbaccel does not train on HPUs."""
    return False


def is_torch_xla_available(check_is_tpu: bool = False, check_is_gpu: bool = False) -> bool:
    """Whether torch_xla is installed.

    Args:
        check_is_tpu: and runs on a TPU.
        check_is_gpu: and runs on a GPU.
    """
    if not _has("torch_xla"):
        return False
    if not (check_is_tpu or check_is_gpu):
        return True
    from torch_xla import runtime  # type: ignore[import-not-found, unused-ignore]

    kind = runtime.device_type()
    return (check_is_tpu and kind == "TPU") or (check_is_gpu and kind in ("GPU", "CUDA", "ROCM"))


def is_bf16_available(ignore_tpu: bool = False) -> bool:
    """Whether the best device computes in bfloat16.

    Args:
        ignore_tpu: False where a TPU is the device.
    """
    if is_torch_xla_available(check_is_tpu=True):
        return not ignore_tpu
    return torch.cuda.is_bf16_supported() if torch.cuda.is_available() else True


def is_fp16_available() -> bool:
    """Whether the device computes in float16."""
    return True


def is_fp8_available() -> bool:
    """Whether a library for fp8 arithmetic is installed."""
    return is_msamp_available() or is_transformer_engine_available() or is_torchao_available()


def _required(package: str, is_there: Callable[[], bool]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def decorate(func: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(func)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if not is_there():
                raise MissingExtraError(package, f"{func.__name__}()", f"pip install {package}")
            return func(*args, **kwargs)

        return checked

    return decorate


deepspeed_required = _required("deepspeed", is_deepspeed_available)
torchao_required = _required("torchao", is_torchao_available)
