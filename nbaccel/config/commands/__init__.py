"""What the faces let people do with the configuration: one function per command, whose result prints itself."""

from nbaccel.config.commands.change import (
    Changed,
    keep_answers,
    set_value,
    target_file,
    unset_value,
    update_file,
    values_of_file,
    write_default,
)
from nbaccel.config.commands.look import Differences, as_json, differences, in_force, keys_to_show, show, why
from nbaccel.config.commands.replay import Snapshot, read_snapshot
from nbaccel.config.commands.validation import Report, validate

__all__ = [
    "Changed",
    "Differences",
    "Report",
    "Snapshot",
    "as_json",
    "differences",
    "in_force",
    "keep_answers",
    "keys_to_show",
    "read_snapshot",
    "set_value",
    "show",
    "target_file",
    "unset_value",
    "update_file",
    "validate",
    "values_of_file",
    "why",
    "write_default",
]
