"""Names of Accelerate that nbaccel does not fill: importing them works, using them is one clear error.

A script imports much and uses little of it; what it only tests with `isinstance` keeps working.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from nbaccel.errors import PlanError

_HOMES = ("nbaccel.runtime.handlers", "nbaccel.runtime.plugins")


class _StandInMeta(type):
    wish: str
    reason: str
    remedy: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        raise PlanError(f"{cls.__name__}()", cls.reason, cls.remedy)


def stand_in(name: str, reason: str, remedy: str) -> Any:
    """Something that can be imported under a name, and says why it cannot be used.

    Args:
        name: the name.
        reason: a sentence.
        remedy: what to use.
    """
    return _StandInMeta(name, (), {"reason": reason, "remedy": remedy, "__doc__": f"Not here: {reason} {remedy}"})


def is_stand_in(value: object) -> bool:
    """Whether something only says that it is not there."""
    return isinstance(value, _StandInMeta)


def late(name: str, reason: str, remedy: str) -> Any:
    """A class of settings, once there is one of this name; until then something that says why not."""
    for home in _HOMES:
        found = getattr(import_module(home), name, None)
        if found is not None:
            return found
    return stand_in(name, reason, remedy)


_DDP = "Use data parallel training (DDP) or FSDP."
_LEAVE = "Leave it out."


def _deepspeed(name: str) -> Any:
    return late(name, "nbaccel does not support DeepSpeed yet.", "Use FSDP: Accelerator(fsdp_plugin=...).")


def _megatron(name: str) -> Any:
    return late(name, "nbaccel does not support Megatron-LM.", _DDP)


def _fp8(name: str) -> Any:
    return late(name, "nbaccel has no fp8 arithmetic yet.", "Use mixed_precision='bf16'.")


def _bnb(name: str) -> Any:
    return late(name, "nbaccel does not quantize models.", "Use transformers' quantization_config= on loading.")


def _launch(name: str) -> Any:
    remedy = "Use notebook_launcher, submit, or the command nbaccel launch."
    return stand_in(name, "it builds the command line of Accelerate's own launcher.", remedy)


def _fsdp(name: str, remedy: str) -> Any:
    return stand_in(name, "it is a step inside Accelerate's FSDP; nbaccel's own is made of other steps.", remedy)


_PREPARE = "Use accelerator.prepare(model)."

DeepSpeedPlugin = _deepspeed("DeepSpeedPlugin")
DeepSpeedEngineWrapper = _deepspeed("DeepSpeedEngineWrapper")
DeepSpeedOptimizerWrapper = _deepspeed("DeepSpeedOptimizerWrapper")
DeepSpeedSchedulerWrapper = _deepspeed("DeepSpeedSchedulerWrapper")
DummyOptim = _deepspeed("DummyOptim")
DummyScheduler = _deepspeed("DummyScheduler")
HfDeepSpeedConfig = _deepspeed("HfDeepSpeedConfig")
get_active_deepspeed_plugin = _deepspeed("get_active_deepspeed_plugin")
map_pytorch_optim_to_deepspeed = _deepspeed("map_pytorch_optim_to_deepspeed")

MegatronLMPlugin = _megatron("MegatronLMPlugin")
MegatronLMDummyDataLoader = _megatron("MegatronLMDummyDataLoader")
MegatronLMDummyScheduler = _megatron("MegatronLMDummyScheduler")
MegatronLMOptimizerWrapper = _megatron("MegatronLMOptimizerWrapper")
MegatronLMSchedulerWrapper = _megatron("MegatronLMSchedulerWrapper")
MegatronEngine = _megatron("MegatronEngine")
AbstractTrainStep = _megatron("AbstractTrainStep")
BertTrainStep = _megatron("BertTrainStep")
GPTTrainStep = _megatron("GPTTrainStep")
T5TrainStep = _megatron("T5TrainStep")
add_model_config_to_megatron_parser = _megatron("add_model_config_to_megatron_parser")
avg_losses_across_data_parallel_group = _megatron("avg_losses_across_data_parallel_group")
gather_across_data_parallel_groups = _megatron("gather_across_data_parallel_groups")

apply_fp8_autowrap = _fp8("apply_fp8_autowrap")
contextual_fp8_autocast = _fp8("contextual_fp8_autocast")
convert_model = _fp8("convert_model")
convert_model_to_fp8_ao = _fp8("convert_model_to_fp8_ao")
filter_first_and_last_linear_layers = _fp8("filter_first_and_last_linear_layers")
filter_linear_layers = _fp8("filter_linear_layers")
find_first_last_linear_layers = _fp8("find_first_last_linear_layers")

load_and_quantize_model = _bnb("load_and_quantize_model")


PrepareForLaunch = _launch("PrepareForLaunch")
prepare_deepspeed_cmd_env = _launch("prepare_deepspeed_cmd_env")
prepare_multi_gpu_env = _launch("prepare_multi_gpu_env")
prepare_sagemager_args_inputs = _launch("prepare_sagemager_args_inputs")
prepare_simple_launcher_cmd_env = _launch("prepare_simple_launcher_cmd_env")
prepare_tpu = _launch("prepare_tpu")

ensure_weights_retied = _fsdp("ensure_weights_retied", _PREPARE)
fsdp2_apply_ac = _fsdp("fsdp2_apply_ac", _PREPARE)
fsdp2_canonicalize_names = _fsdp("fsdp2_canonicalize_names", _PREPARE)
fsdp2_prepare_auto_wrap_policy = _fsdp("fsdp2_prepare_auto_wrap_policy", _PREPARE)
fsdp2_switch_optimizer_parameters = _fsdp("fsdp2_switch_optimizer_parameters", _PREPARE)

install_xla = stand_in("install_xla", "nbaccel installs no packages.", "Run: pip install nbaccel[xla]")
prepare_pippy = stand_in("prepare_pippy", "pipelines over several devices come next.", "Use dispatch_model, which runs "
                         "the parts one after the other.")  # fmt: skip
