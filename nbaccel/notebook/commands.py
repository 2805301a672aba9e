"""`%accelerate WORD`: the session's commands, each one call of a function that is there without magics too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from IPython.core.error import UsageError

from nbaccel import launch
from nbaccel.config import KEYS, call_layer
from nbaccel.config.interpolate import nested
from nbaccel.config.layers import PARAMS
from nbaccel.errors import CallError, ConfigError, PlanError, StateError, nearest
from nbaccel.launch.checkup import check_up
from nbaccel.launch.selftest import run_test
from nbaccel.notebook import configuring
from nbaccel.notebook import session as sessions
from nbaccel.notebook.export import exporting
from nbaccel.notebook.flags import Line, help_text, parse
from nbaccel.notebook.guide import COMMANDS, command_help
from nbaccel.notebook.magics import decided, flag_of
from nbaccel.notebook.screen import screen_for

PROGRAM = "%accelerate"
_CHECK_TIMEOUT_S = 60.0


class _Started:
    """What was given for the running session, by `start` and each `restart` after it."""

    line = Line({})


def run_line(shell: Any, line: str) -> Any:
    """Carry out `%accelerate ...`; without a command: say what a cell with these flags would do, and who set what.

    Raises:
        UsageError: the line or the wish is wrong; one line that says what is possible.
    """
    if line.split(None, 1)[:1] == ["export"]:  # it has flags of its own, and a line of names after one of them
        return exporting.run_line(line.split(None, 1)[1] if " " in line.strip() else "")
    words = parse(line, commands=True)
    if words.wants_help:
        print(_help(words))
        return None
    if not words.words:
        return _describe(shell, words)
    command, *rest = words.words
    if command not in _COMMANDS:
        meant = nearest(command, COMMANDS)
        hint = f" Did you mean {meant!r}?" if meant else ""
        raise UsageError(f"{PROGRAM}: {command!r} is no command.{hint} Possible: {', '.join(COMMANDS)}.")
    try:
        return _COMMANDS[command](shell, words, rest)
    except (CallError, ConfigError, PlanError, StateError) as error:
        raise UsageError(f"{PROGRAM} {command}: {error}") from None


def _help(words: Line) -> str:
    """The help of a command, or of the flags."""
    return command_help(words.words[0]) if words.words[:1] and words.words[0] in COMMANDS else help_text(words.words)


def _describe(shell: Any, words: Line) -> None:
    if sessions.current() is not None and not words.settings and words.config_file is None:
        print(sessions.running().status().headline)
        return
    resolved, plan = decided(shell, words)
    print(plan.describe())
    for key, chain in resolved.chain.items():
        if chain[0].layer != "default":
            print(resolved.explain(key))


def _start(shell: Any, words: Line, rest: list[str]) -> None:
    _refuse_words("start", rest)
    session = sessions.start(decided(shell, words)[0])
    _Started.line = words
    print(session.status().headline)


def _stop(shell: Any, words: Line, rest: list[str]) -> None:
    _refuse_words("stop", rest)
    sessions.stop()
    print("the session has ended")


def _restart(shell: Any, words: Line, rest: list[str]) -> None:
    _refuse_words("restart", rest)
    session = sessions.running()
    joined = _Started.line.joined(words)
    resolved, plan = decided(shell, joined)
    if session.is_same(resolved, plan):
        session.restart()
    else:
        sessions.stop()
        sessions.start(resolved)
    _Started.line = joined
    print(f"{sessions.running().status().headline}; its variables are gone")


def _status(shell: Any, words: Line, rest: list[str]) -> Any:
    _refuse_words("status", rest)
    return sessions.running().status()


def _push(shell: Any, words: Line, rest: list[str]) -> None:
    sessions.running().push(*_names("push", rest), ranks=words.ranks)


def _pull(shell: Any, words: Line, rest: list[str]) -> None:
    if words.ranks is not None and len(words.ranks) > 1:
        raise CallError("a name of the notebook has one value: give one rank, or use session.pull() for several.")
    rank = words.ranks[0] if words.ranks else None
    sessions.running().bring_home(*_names("pull", rest), rank=rank)


def _stacks(shell: Any, words: Line, rest: list[str]) -> None:
    _refuse_words("stacks", rest)
    print(sessions.running().stacks().text())


def _debug(shell: Any, words: Line, rest: list[str]) -> None:
    if len(rest) > 1 or any(not word.isdecimal() for word in rest):
        raise CallError(f"{' '.join(rest)!r} is no rank.")
    debug_rank(shell, int(rest[0]) if rest else 0)


def debug_rank(shell: Any, rank: int) -> None:
    """Open the debugger on the last error of a session's rank. Raises StateError without a session, CallError."""
    session = sessions.running()
    launch.follow(session.cell_job("%debug", (), ranks=session.chosen(rank)), screen_for(shell))


def _why(shell: Any, words: Line, rest: list[str]) -> Any:
    return configuring.configure(["why", _one("why", "KEY", rest)], words.config_file, _profile(words))


def _config(shell: Any, words: Line, rest: list[str]) -> Any:
    given = [f"{key}={value}" for key, value in words.settings.items() if key != "profile"]
    if given:
        raise CallError(f"{given[0]!r} is too much: set a key with {PROGRAM} config set KEY VALUE.")
    if not rest and configuring.can_show_form(shell):
        return configuring.form(words.config_file, _profile(words))
    return configuring.configure(rest, words.config_file, _profile(words))


def _test(shell: Any, words: Line, rest: list[str]) -> None:
    _refuse_words("test", rest)
    resolved, plan = decided(shell, words)
    seconds = resolved.config.timeout or _CHECK_TIMEOUT_S
    print(run_test(resolved, plan, timeout_s=seconds, show=lambda line: print(line, flush=True)).verdict)


def _doctor(shell: Any, words: Line, rest: list[str]) -> Any:
    _refuse_words("doctor", rest)
    return check_up(call_layer(words.settings, flag_of), config_file=words.config_file)


def _form(shell: Any, words: Line, rest: list[str]) -> Any:
    from nbaccel_widgets import LaunchForm

    name = _one("form", "FUNCTION", rest)
    if name not in shell.user_ns:
        hint = nearest(name, (known for known, value in shell.user_ns.items() if callable(value)))
        raise CallError(f"the notebook has no function {name!r}.{f' Did you mean {hint!r}?' if hint else ''}")
    resolved = decided(shell, words)[0]
    layer = call_layer(words.settings, flag_of)
    values = {key: resolved.value(key) for key in layer if key in KEYS}
    keys: dict[str, Any] = {key: "none" if value is None else value for key, value in values.items()}  # None: not given
    params = nested({key: setting.value for key, setting in layer.items() if key not in KEYS}).get(PARAMS)
    function = shell.user_ns[name]
    return LaunchForm(function, namespace=shell.user_ns, params=params, config=words.config_file, **keys)


def _profile(words: Line) -> str | None:
    profile = words.settings.get("profile")
    return None if profile is None else str(profile)


def _set(shell: Any, words: Line, rest: list[str]) -> Any:
    if not rest and words.settings:  # %accelerate set mixed_precision=bf16
        rest = [word for key, value in words.settings.items() for word in (key, str(value))]
    if len(rest) != 2:
        raise CallError(f"two words are needed: {PROGRAM} set KEY VALUE.")
    if sessions.current() is not None:
        print(f"the running session keeps what it was started with; {PROGRAM} restart takes new settings over")
    return configuring.set_for_notebook(*rest)


def _unset(shell: Any, words: Line, rest: list[str]) -> None:
    print(f"forgotten: {', '.join(configuring.unset_for_notebook(*rest)) or 'nothing was set'}")


def _undo(shell: Any, words: Line, rest: list[str]) -> Any:
    _refuse_words("undo", rest)
    configuring.undo()
    return configuring.shown()


def _one(command: str, what: str, rest: list[str]) -> str:
    if len(rest) != 1:
        raise CallError(f"one word is needed: {PROGRAM} {command} {what}.")
    return rest[0]


def _names(command: str, words: list[str]) -> list[str]:
    names = [name for word in words for name in word.split(",") if name]
    if not names:
        raise CallError(f"names are missing: {PROGRAM} {command} NAME ...")
    return names


def _refuse_words(command: str, rest: list[str]) -> None:
    if rest:
        raise CallError(f"{' '.join(rest)!r} is too much; it takes flags only.")


_COMMANDS: dict[str, Callable[[Any, Line, list[str]], Any]] = {
    "start": _start,
    "stop": _stop,
    "restart": _restart,
    "status": _status,
    "push": _push,
    "pull": _pull,
    "stacks": _stacks,
    "debug": _debug,
    "config": _config,
    "test": _test,
    "doctor": _doctor,
    "why": _why,
    "set": _set,
    "unset": _unset,
    "undo": _undo,
    "form": _form,
}
