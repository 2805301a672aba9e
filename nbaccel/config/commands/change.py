"""Changing configuration files: what was changed, and what is in force afterwards."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbaccel.config.check import checked
from nbaccel.config.commands.look import File
from nbaccel.config.files import find
from nbaccel.config.files.find import shown
from nbaccel.config.files.read import read_layer
from nbaccel.config.files.write import (
    UNSET,
    changed_text,
    modernized_text,
    write_changes,
    write_modernized,
)
from nbaccel.config.layers import PARAMS, Setting, plain_value
from nbaccel.config.questions import Answers, keys_asked, questions, settings_of
from nbaccel.config.resolve import Resolved, resolve
from nbaccel.config.schema import KEYS, SECTIONS
from nbaccel.config.secrets import masked, masked_line
from nbaccel.config.sources import CONFIG_FILE
from nbaccel.errors import ConfigError, ConfigFileError, NbaccelError

_ACCELERATES = frozenset(
    (
        "compute_environment", "distributed_type", "mixed_precision", "use_cpu", "debug", "num_processes",
        "machine_rank", "num_machines", "gpu_ids", "main_process_ip", "main_process_port", "rdzv_backend",
        "same_network", "main_training_function", "enable_cpu_affinity", "fp8_config", "deepspeed_config",
        "fsdp_config", "parallelism_config", "megatron_lm_config", "mpirun_config", "downcast_bf16", "tpu_name",
        "tpu_zone", "tpu_use_cluster", "tpu_use_sudo", "command_file", "commands", "tpu_vm", "tpu_env", "dynamo_config",
        "ec2_instance_type", "iam_role_name", "image_uri", "region", "base_job_name", "pytorch_version",
        "transformers_version", "py_version", "sagemaker_inputs_file", "sagemaker_metrics_file", "additional_args",
    )
)  # fmt: skip
"""The top level of Accelerate's own files; it refuses a file with any other key."""


@dataclass(frozen=True)
class Changed:
    """A change of a file, made or to be made.

    Attributes:
        path: the file.
        before: its text before.
        after: its text after.
        notes: what is worth knowing: what is in force now, what stands in the way.
    """

    path: Path
    before: str
    after: str
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.before != self.after

    @property
    def diff(self) -> list[str]:
        """The lines of a unified diff; secrets are masked."""
        name = shown(self.path)
        lines = difflib.unified_diff(
            self.before.splitlines(), self.after.splitlines(), name if self.before else "new file", name, "", "", 2, ""
        )
        return [masked_line(line) for line in lines]

    def __str__(self) -> str:
        return "\n".join([*self.diff, *self.notes])

    def __repr__(self) -> str:
        return str(self)


def target_file(layer: str | None = None, config_file: File | None = None) -> Path:
    """The file of a layer, which need not exist.

    Args:
        layer: `project`, `user` or `file`; left out: `file` if one is named, else `project`.
        config_file: the file of the layer `file`; left out: the one that ACCELERATE_CONFIG_FILE names.

    Raises:
        ConfigError: there is no such layer, or it has no file.
    """
    if config_file is not None and layer not in (None, "file"):
        raise ConfigError(f"layer={layer!r} beside a file", "asked for", "one of the two")
    if config_file is not None:
        return Path(os.path.expanduser(config_file))
    if layer in (None, "project"):
        return find.project_file(Path.cwd())
    if layer == "user":
        return find.user_file(os.environ)
    if layer == "file" and os.environ.get(CONFIG_FILE):
        return Path(os.path.expanduser(os.environ[CONFIG_FILE]))
    if layer == "file":
        raise ConfigError(
            "layer='file' without a file", "asked for", f"--config-file FILE, or the variable {CONFIG_FILE}"
        )
    raise ConfigError(f"layer={layer!r}", "asked for", "project, user, file")


def set_value(key: str, text: str, *, layer: str | None = None, config_file: File | None = None) -> Changed:
    """Set a key in a file.

    Args:
        key: its dotted name, or its last part where there is one such key; `params.<name>` for a parameter.
        text: the value, as it would stand in a flag.
        layer: whose file: `project` (the default), `user` or `file`.
        config_file: the file of the layer `file`.

    Raises:
        ConfigError: there is no such key, or the value is not legal; nothing is written.
    """
    name, path = _full_name(key), target_file(layer, config_file)
    before, after = write_changes(path, {name: _typed(name, text)})
    notes = [*for_accelerate(path, [name]), *_now(name, path, config_file)]
    return Changed(path, before, after, tuple(notes))


def unset_value(key: str, *, layer: str | None = None, config_file: File | None = None) -> Changed:
    """Remove a key, or a whole section, from a file. Arguments and errors as of `set_value`."""
    name, path = _full_name(key), target_file(layer, config_file)
    before, after = write_changes(path, {name: UNSET})
    notes = [] if before != after else [f"{shown(path)} does not set {name}"]
    return Changed(path, before, after, (*notes, *_now(name, path, config_file)))


def write_default(
    mixed_precision: str = "no", config_file: File | None = None, distributed_type: str | None = None
) -> Changed:
    """Write a first file.

    Args:
        mixed_precision: the precision.
        config_file: the file; left out: the user's.
        distributed_type: how processes train together on this machine.

    Raises:
        ConfigFileError: there is one already.
        ConfigError: a value is not legal.
    """
    path = target_file("user") if config_file is None else target_file("file", config_file)
    if os.path.lexists(path):
        remedy = f"`nbaccel config set KEY VALUE --config-file {shown(path)}` changes it."
        raise ConfigFileError(shown(path), "there is such a file already", remedy)
    kind = {} if distributed_type is None else {"distributed_type": distributed_type}
    values = {"compute_environment": "LOCAL_MACHINE", **kind, "mixed_precision": mixed_precision}
    return Changed(path, *write_changes(path, values))


def update_file(config_file: File | None = None, *, dry_run: bool = False) -> Changed:
    """Rewrite a file in today's words: old names, and old words for values.

    Args:
        config_file: the file; left out: the one that ACCELERATE_CONFIG_FILE names, else the project's, else the user's.
        dry_run: say what would change, and leave the file alone.

    Raises:
        ConfigFileError: there is no such file.
    """
    path = _existing(config_file)
    read = read_layer(path, "file")
    before, after = modernized_text(path) if dry_run else write_modernized(path)
    place = f"{shown(path)}:"
    notes = [str(note) for note in read.notes if str(note).startswith(place)]
    unknown = [f"stays, though nobody knows it: {problem}" for problem in read.unknown]
    return Changed(path, before, after, (*notes, *unknown))


def keep_answers(answers: Answers, path: Path, held: Mapping[str, Any], *, dry_run: bool = False) -> Changed:
    """Write what was answered to the questions of `nbaccel config` into a file.

    Args:
        answers: as `ask` returns them.
        path: the file.
        held: what it says so far; of this, what was asked for and left out goes.
        dry_run: say what would change, and leave the file alone.

    Raises:
        ConfigError: the file cannot be changed.
    """
    settings = settings_of(answers)
    asked = keys_asked(questions())
    changes = {name: UNSET for name in held if name in asked and name not in settings} | settings
    before, after = changed_text(path, changes) if dry_run else write_changes(path, changes)
    return Changed(path, before, after, tuple(for_accelerate(path, settings)))


def values_of_file(path: Path) -> dict[str, Any]:
    """The legal values of a file by key, none if there is no such file. Raises ConfigFileError if it is unreadable."""
    if not os.path.lexists(path):
        return {}
    settings = read_layer(path, "file").settings
    return {key: checked(key, setting.value, "") for key, setting in settings.items() if _is_legal(key, setting)}


def _is_legal(key: str, setting: Setting) -> bool:
    try:
        checked(key, setting.value, setting.place)
    except ConfigError:
        return False
    return True


def _existing(config_file: File | None) -> Path:
    if config_file is not None or os.environ.get(CONFIG_FILE):
        return target_file("file", config_file)
    candidates = [target_file("project"), target_file("user")]
    found = next((path for path in candidates if os.path.lexists(path)), None)
    if found is None:
        names = " and ".join(map(shown, candidates))
        raise ConfigFileError(names, "there is no such file", "Name one: --config-file FILE.")
    return found


def _full_name(key: str) -> str:
    """A key's whole name; one that is unknown stays as it is, since a file may hold it."""
    if key in KEYS or key in SECTIONS or key.partition(".")[0] == PARAMS:
        return key
    same = [name for name in KEYS if name.rpartition(".")[2] == key]
    if len(same) > 1:
        raise ConfigError(f"the key {key!r}", "asked for", f"one of {', '.join(same)}")
    return same[0] if same else key


def _typed(key: str, text: str) -> object:
    if key not in KEYS:
        return plain_value(text)
    if text.strip().lower() in ("null", "~") and KEYS[key].is_nullable:
        return None
    return plain_value(text) if KEYS[key].possible == "a mapping" else text


def _now(key: str, path: Path, config_file: File | None) -> Iterator[str]:
    """What is in force after a change, where that is not what the file says."""
    try:
        resolved = resolve(config_file=config_file)
    except NbaccelError as error:
        yield f"the configuration as a whole is not valid: {error}"
        return
    for name in [key] if key in resolved.chain else [name for name in resolved.given() if name.startswith(f"{key}.")]:
        yield from _outcome(name, path, resolved)


def _outcome(key: str, path: Path, resolved: Resolved) -> Iterator[str]:
    winner, name = resolved.origin(key), shown(path)
    is_said_here = any(setting.place.startswith(f"{name}:") for setting in resolved.chain[key])
    if is_said_here and not winner.place.startswith(f"{name}:"):
        value = masked(key, resolved.value(key))
        yield f"not in force: {winner.place} ({winner.layer}) is above this file and says {key} = {value!r}"
    elif not is_said_here and path.resolve() not in [file.resolve() for file in resolved.files] and path.exists():
        yield f"{name} is read only where it is named: by --config-file {name}, or by the variable {CONFIG_FILE}"
    elif not is_said_here and winner.layer != "default":
        yield f"in force now: {resolved.explain(key)}"
    effect = resolved.explain(key).effect
    if effect and is_said_here:
        yield f"{key} {effect}"


def for_accelerate(path: Path, keys: Iterable[str]) -> Iterator[str]:
    """Remarks on a change of the user's file, which is Accelerate's, too: it refuses what it does not know.

    Args:
        path: the file that is changed.
        keys: what is set in it.
    """
    if path.resolve() != find.user_file(os.environ).resolve():
        return
    unknown = [key for key in keys if key.partition(".")[0] not in _ACCELERATES]
    if unknown:
        words = f"its own commands refuse a file with {', '.join(unknown)}"
        yield f"{shown(path)} is Accelerate's file, too: {words}. If you use them, keep such keys in a project's file."
