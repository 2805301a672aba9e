"""The questionnaire of `nbaccel config`, as data: which questions, in which order, and what their answers set.

It asks in text alone, so any function that returns a line can answer: `input` in a notebook's cell too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nbaccel.config.check import checked
from nbaccel.config.schema import KEYS
from nbaccel.errors import ConfigError, nearest

Answers = Mapping[str, Any]
"""Answers by the names of their questions; None where something is left out."""

SAVE_TO = "save_to"
"""The last question: in which layer's file the answers are kept."""

BACK, HELP, LEAVE_OUT = "<", "?", "-"
_YES, _NO = ("yes", "y", "true", "t", "on"), ("no", "n", "false", "f", "off")
_PLACE = "your answer"


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        name: the key that it sets; a name of its own where its answer only leads to other questions.
        text: what is asked.
        choices: words to choose from, empty for a free answer.
        default: what an empty answer means; None to leave the key out.
        when: whether it is asked, by the answers so far.
        note: what must be said first: why the last answer was wrong, or the help.
    """

    name: str
    text: str
    choices: tuple[str, ...] = ()
    default: Any = None
    when: Callable[[Answers], bool] = field(default=lambda answers: True, compare=False)
    note: str = ""

    @property
    def is_key(self) -> bool:
        """Whether the answer is the value of a key."""
        return self.name in KEYS

    @property
    def is_switch(self) -> bool:
        """Whether the answer is yes or no."""
        return self.choices == ("yes", "no")

    @property
    def prompt(self) -> str:
        """All that stands before the answer."""
        lines = ["", *([self.note] if self.note else []), self.text]
        if self.choices and not self.is_switch:
            lines.append("  " + "  ".join(f"{number}) {word}" for number, word in enumerate(self.choices, start=1)))
        words = "yes/no, " if self.is_switch else ""
        return "\n".join([*lines, f"{self.name} [{words}{self._shown_default()}]: "])

    @property
    def help(self) -> str:
        """What is worth knowing before one answers."""
        lines = []
        if self.is_key:
            key = KEYS[self.name]
            lines = [f"Possible: {key.possible}.", f"Also set by the variable {key.env} and the flag {key.flags[0]}."]
            lines += [f"Honoured by: {', '.join(key.honoured_by)}."] if key.honoured_by else []
        how = f"Enter takes what stands in brackets; {BACK} goes back to the question before"
        return "\n".join([*lines, f"{how}{f'; {LEAVE_OUT} leaves the key out' if self.is_key else ''}."])

    def read(self, text: str) -> Any:
        """The value that an answer means. Raises ConfigError if it means none."""
        word = text.strip()
        if word in ("", LEAVE_OUT):
            return self.default if not word or not self.is_key else None
        if self.is_switch and word.lower() in (*_YES, *_NO):
            return word.lower() in _YES
        if self.choices:
            word = self._chosen(word)
            if self.is_switch or not self.is_key:
                return word == "yes" if self.is_switch else word
        return checked(self.name, word, _PLACE)

    def _chosen(self, word: str) -> str:
        by_lower = {choice.lower(): choice for choice in self.choices}
        if word.lower() in by_lower:
            return by_lower[word.lower()]
        if word.isdecimal() and len(word) < 4 and 1 <= int(word) <= len(self.choices):
            return self.choices[int(word) - 1]
        possible = f"{', '.join(self.choices)}, or a number from 1 to {len(self.choices)}"
        raise ConfigError(f"{self.name}={word!r}", _PLACE, possible, nearest(word, self.choices))

    def _shown_default(self) -> str:
        if self.default is None:
            return "left out"
        if isinstance(self.default, bool):
            return "yes" if self.default else "no"
        return ",".join(map(str, self.default)) if isinstance(self.default, tuple | list) else str(self.default)


# --- when a question is asked ---


def _here(answers: Answers) -> bool:
    return bool(answers.get("compute_environment") != "AMAZON_SAGEMAKER")


def _type(answers: Answers) -> Any:
    return answers.get("distributed_type")


def _parallel(answers: Answers) -> bool:
    return _here(answers) and _type(answers) != "NO"


def _on_tpu(answers: Answers) -> bool:
    return bool(_type(answers) == "XLA")


def _on_gpus(answers: Answers) -> bool:
    return _here(answers) and _type(answers) in (None, "NO", "MULTI_GPU") and not answers.get("use_cpu")


def _shards(answers: Answers) -> bool:
    """Whether DeepSpeed, FSDP or Megatron-LM may be wanted."""
    others = ("use_deepspeed", "use_fsdp", "use_megatron_lm")
    return _here(answers) and not _on_tpu(answers) and not any(answers.get(name) for name in others)


def _fsdp(version: int) -> Callable[[Answers], bool]:
    return lambda a: bool(a.get("use_fsdp") and a.get("fsdp_config.fsdp_version") == version)


def _says(name: str, *words: object) -> Callable[[Answers], bool]:
    return lambda answers: answers.get(name) in words


def _above_one(name: str) -> Callable[[Answers], bool]:
    return lambda answers: (answers.get(name) or 1) > 1


def _both(*conditions: Callable[[Answers], bool]) -> Callable[[Answers], bool]:
    return lambda answers: all(condition(answers) for condition in conditions)


# --- the questions ---


def _key(name: str, when: Callable[[Answers], bool], choices: tuple[str, ...] | None = None) -> Question:
    """A question made from the schema."""
    known = KEYS[name]
    offered = known.choices if choices is None else choices
    default = None if known.default == () else known.default
    return Question(name, known.text, ("yes", "no") if known.is_switch else offered, default, when)


def _keys(section: str, names: str, when: Callable[[Answers], bool]) -> list[Question]:
    return [_key(f"{section}.{name}" if section else name, when) for name in names.split()]


def _gate(name: str, text: str, when: Callable[[Answers], bool]) -> Question:
    return Question(name, text, ("yes", "no"), False, when)


_MACHINES = (
    "NO", "MULTI_CPU", "MULTI_XPU", "MULTI_HPU", "MULTI_GPU", "MULTI_NPU", "MULTI_MLU", "MULTI_SDAA", "MULTI_MUSA",
    "MULTI_NEURON", "XLA",
)  # fmt: skip
_AT_SAGEMAKER = ("NO", "DATA_PARALLEL", "MODEL_PARALLEL")
_COMPILERS = tuple(word for word in KEYS["dynamo_config.dynamo_backend"].choices if word != "no")


def _of_place() -> list[Question]:
    several = _both(_parallel, _above_one("num_machines"))
    at_sagemaker = _says("compute_environment", "AMAZON_SAGEMAKER")
    of_sagemaker = [name for name, key in KEYS.items() if key.group == "SageMaker" and not key.is_secret]
    return [
        _key("compute_environment", lambda answers: True),
        *(_key(name, at_sagemaker) for name in of_sagemaker if name != "additional_args"),
        _key("distributed_type", at_sagemaker, _AT_SAGEMAKER),
        _key("distributed_type", _here, _MACHINES),
        _key("num_machines", _parallel),
        *_keys("", "machine_rank main_process_ip main_process_port same_network", several),
        _key("rdzv_backend", _both(several, _says("same_network", False))),
        _key("debug", _parallel),
        _key("use_cpu", _both(_here, _says("distributed_type", None, "NO"))),
        _key("mpirun_config.mpirun_hostfile", _says("distributed_type", "MULTI_CPU")),
        _key("process_group_config.backend", _both(_parallel, lambda answers: not _on_tpu(answers))),
    ]


def _of_compilation() -> list[Question]:
    wanted, custom = _says("use_dynamo", True), _says("customize_dynamo", True)
    return [
        _gate("use_dynamo", "Compile models with torch.compile?", lambda answers: True),
        replace(_key("dynamo_config.dynamo_backend", wanted, _COMPILERS), default="inductor"),
        _gate("customize_dynamo", "Change how it compiles?", wanted),
        *_keys(
            "dynamo_config",
            "dynamo_mode dynamo_use_fullgraph dynamo_use_dynamic dynamo_use_regional_compilation",
            custom,
        ),
    ]


def _of_deepspeed() -> list[Question]:
    section = "deepspeed_config"
    wanted = _says("use_deepspeed", True)
    without_file = _both(wanted, _says(f"{section}.deepspeed_config_file", None))
    stage_3 = _both(without_file, _says(f"{section}.zero_stage", 3))
    several = _both(wanted, _above_one("num_machines"))
    return [
        _gate("use_deepspeed", "Use DeepSpeed?", _both(_shards, lambda a: _type(a) != "MULTI_CPU")),
        _key(f"{section}.deepspeed_config_file", wanted),
        *_keys(section, "zero_stage offload_optimizer_device", without_file),
        _key(
            f"{section}.offload_optimizer_nvme_path",
            _both(without_file, _says(f"{section}.offload_optimizer_device", "nvme")),
        ),
        _key(f"{section}.offload_param_device", stage_3),
        _key(f"{section}.offload_param_nvme_path", _both(stage_3, _says(f"{section}.offload_param_device", "nvme"))),
        *_keys(section, "gradient_accumulation_steps gradient_clipping", without_file),
        _key(f"{section}.zero3_save_16bit_model", stage_3),
        _key(f"{section}.zero3_init_flag", stage_3),
        _key(f"{section}.deepspeed_moe_layer_cls_names", wanted),
        *_keys(
            section,
            "deepspeed_multinode_launcher deepspeed_hostfile deepspeed_exclusion_filter deepspeed_inclusion_filter",
            several,
        ),
    ]


def _of_fsdp() -> list[Question]:
    section, wanted = "fsdp_config", _says("use_fsdp", True)
    policy = f"{section}.fsdp_auto_wrap_policy"
    return [
        _gate("use_fsdp", "Shard the model with FSDP?", _both(_shards, _parallel)),
        replace(_key(f"{section}.fsdp_version", wanted), default=2),
        _key(f"{section}.fsdp_sharding_strategy", _fsdp(1)),
        _key(f"{section}.fsdp_reshard_after_forward", _fsdp(2)),
        *_keys(section, "fsdp_offload_params fsdp_auto_wrap_policy", wanted),
        _key(f"{section}.fsdp_transformer_layer_cls_to_wrap", _both(wanted, _says(policy, "TRANSFORMER_BASED_WRAP"))),
        _key(f"{section}.fsdp_min_num_params", _both(wanted, _says(policy, "SIZE_BASED_WRAP"))),
        _key(f"{section}.fsdp_backward_prefetch", _fsdp(1)),
        _key(f"{section}.fsdp_state_dict_type", wanted),
        *_keys(section, "fsdp_forward_prefetch fsdp_use_orig_params", _fsdp(1)),
        _key(f"{section}.fsdp_cpu_ram_efficient_loading", wanted),
        _key(f"{section}.fsdp_sync_module_states", _fsdp(1)),
        _key(f"{section}.fsdp_activation_checkpointing", wanted),
    ]


def _of_mesh() -> list[Question]:
    section, wanted = "parallelism_config", _says("use_parallelism_config", True)
    sizes = " ".join(f"parallelism_config_{name}_size" for name in ("dp_replicate", "dp_shard", "tp", "cp"))
    return [
        _gate("use_parallelism_config", "Lay the processes out in a mesh of several dimensions?", _fsdp(2)),
        *_keys(section, sizes, wanted),
        _key(
            f"{section}.parallelism_config_cp_comm_strategy",
            _both(wanted, _above_one(f"{section}.parallelism_config_cp_size")),
        ),
    ]


def _of_megatron() -> list[Question]:
    section, wanted = "megatron_lm_config", _says("use_megatron_lm", True)
    return [
        _gate("use_megatron_lm", "Use Megatron-LM?", _both(_shards, _says("distributed_type", None, "MULTI_GPU"))),
        _key(f"{section}.megatron_lm_tp_degree", wanted),
        _key(
            f"{section}.megatron_lm_sequence_parallelism",
            _both(wanted, _above_one(f"{section}.megatron_lm_tp_degree")),
        ),
        _key(f"{section}.megatron_lm_pp_degree", wanted),
        _key(
            f"{section}.megatron_lm_num_micro_batches",
            _both(wanted, _above_one(f"{section}.megatron_lm_pp_degree")),
        ),
        *_keys(
            section,
            "megatron_lm_recompute_activations megatron_lm_use_distributed_optimizer megatron_lm_gradient_clipping",
            wanted,
        ),
    ]


def _of_devices() -> list[Question]:
    on_pod = _both(_on_tpu, _says("tpu_use_cluster", True))
    return [
        _key("num_processes", _parallel),
        _key("gpu_ids", _both(_on_gpus, lambda answers: not _above_one("num_machines")(answers))),
        _key("enable_cpu_affinity", _both(_parallel, _on_gpus)),
        *_keys("", "main_training_function tpu_use_cluster", _on_tpu),
        *_keys("", "tpu_name tpu_zone tpu_use_sudo command_file commands tpu_vm tpu_env", on_pod),
    ]


def _of_training() -> list[Question]:
    section, fp8 = "fp8_config", _says("mixed_precision", "fp8")
    backend = f"{section}.backend"
    by_te, by_msamp, by_ao = (_both(fp8, _says(backend, name)) for name in ("te", "msamp", "ao"))
    engine = "use_autocast_during_eval margin interval fp8_format amax_history_len amax_compute_algo"
    own_file = "deepspeed_config.deepspeed_config_file"
    return [
        _key("mixed_precision", lambda answers: answers.get(own_file) is None),
        _key(backend, fp8),
        *_keys(section, f"{engine} override_linear_precision", by_te),
        _key(f"{section}.opt_level", by_msamp),
        *_keys(section, "enable_fsdp_float8_all_gather pad_inner_dim", by_ao),
        _key("downcast_bf16", _both(_on_tpu, _says("mixed_precision", "bf16"))),
        _key("gradient_accumulation_steps", lambda answers: not answers.get("use_deepspeed")),
        *_keys("", "project_dir log_with", lambda answers: True),
    ]


_QUESTIONS = (
    *_of_place(),
    *_of_compilation(),
    *_of_deepspeed(),
    *_of_fsdp(),
    *_of_mesh(),
    *_of_megatron(),
    *_of_devices(),
    *_of_training(),
)
_SAVE = Question(
    SAVE_TO,
    "Where to keep this: in this project (./.accelerate/default_config.yaml), or in your own file for all projects?",
    ("project", "user"),
    "project",
)
_TYPES = {"use_deepspeed": "DEEPSPEED", "use_fsdp": "FSDP", "use_megatron_lm": "MEGATRON_LM"}
"""What a yes makes of the kind of the run."""


def questions(held: Mapping[str, Any] | None = None, *, asks_where: bool = True) -> tuple[Question, ...]:
    """The questions, in the order in which Accelerate asks them, then nbaccel's own.

    Args:
        held: values by key that are already there, which become what an empty answer means.
        asks_where: whether the last question is in which file the answers are kept.
    """
    known = dict(held or {})
    kind = known.get("distributed_type")
    known |= {gate: kind == name for gate, name in _TYPES.items()}
    if kind in _TYPES.values():
        del known["distributed_type"]
    known["use_dynamo"] = known.get("dynamo_config.dynamo_backend", "no") != "no"
    sizes = [name for name in known if name.startswith("parallelism_config.")]
    known["use_parallelism_config"] = bool(sizes)
    asked = [replace(one, default=known[one.name]) if _is_kept(one, known) else one for one in _QUESTIONS]
    return (*asked, _SAVE) if asks_where else tuple(asked)


def _is_kept(question: Question, known: Mapping[str, Any]) -> bool:
    """Whether what is there already is an answer to the question."""
    if question.name not in known:
        return False
    value = known[question.name]
    return not question.choices or question.is_switch or value in question.choices


def ask(asked: Sequence[Question], answer: Callable[[Question], str]) -> dict[str, Any]:
    """Put the questions.

    Args:
        asked: the questions, in their order.
        answer: returns a line for a question, such as `lambda question: input(question.prompt)`. A word or its number
            chooses, an empty line takes the default, `<` goes back, `?` asks for help. A wrong line is asked for again,
            with what was wrong in the question's `note`. Errors that it raises end the questionnaire.

    Returns:
        The answers by the names of the questions that were put; None where a key is left out.
    """
    answers: dict[str, Any] = {}
    earlier: dict[str, Any] = {}
    path: list[int] = []
    number, note = 0, ""
    while number < len(asked):
        question = asked[number]
        if not question.when(answers):
            number += 1
            continue
        default = earlier.get(question.name, question.default)
        question = replace(question, default=default, note=note)
        note = ""
        line = answer(question).strip()
        if line == HELP:
            note = question.help
        elif line == BACK:
            number, note = (path.pop(), "") if path else (number, "This is the first question.")
            answers.pop(asked[number].name, None)
        else:
            try:
                answers[question.name] = earlier[question.name] = question.read(line)
            except ConfigError as error:
                note = str(error)
                continue
            path.append(number)
            number += 1
    return answers


def settings_of(answers: Answers) -> dict[str, Any]:
    """The keys that answers set; those that are left out are absent."""
    found = {name: value for name, value in answers.items() if name in KEYS and value is not None}
    for gate, kind in _TYPES.items():
        if answers.get(gate):
            found["distributed_type"] = kind
    return found


def keys_asked(asked: Iterable[Question]) -> frozenset[str]:
    """All keys that questions may set."""
    return frozenset(question.name for question in asked if question.is_key)
