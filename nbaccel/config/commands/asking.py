"""The questionnaire: questions, the file that the answers make, and whether to write it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nbaccel.config.commands.change import keep_answers, target_file, values_of_file
from nbaccel.config.files.find import shown
from nbaccel.config.questions import BACK, HELP, SAVE_TO, Question, ask, questions


def questionnaire(
    line: Callable[[str], str],
    say: Callable[[str], object],
    show_diff: Callable[[Sequence[str]], object],
    config_file: str | None = None,
) -> bool:
    """Ask, show and write.

    Args:
        line: reads one line from the user, after a prompt.
        say: tells the user something.
        show_diff: shows the lines of a diff.
        config_file: the file to write; left out: the user is asked which.

    Returns:
        Whether something was written.

    Raises:
        ConfigError: the file cannot be read or changed. EOFError, KeyboardInterrupt: as `line`; nothing is written.
    """
    project = target_file("file", config_file) if config_file else target_file("project")
    held = values_of_file(project)
    if not held and config_file is None:
        held = values_of_file(target_file("user"))
    say(f"Enter takes what stands in brackets, {BACK} goes back, {HELP} explains; an interrupt ends without writing.")
    answers = ask(questions(held, asks_where=config_file is None), lambda question: line(question.prompt))
    path = project if config_file else target_file(answers[SAVE_TO])
    planned = keep_answers(answers, path, values_of_file(path), dry_run=True)
    show_diff(planned.diff)
    for note in planned.notes:
        say(note)
    if not planned:
        say(f"{shown(path)} says so already")
        return False
    consent = Question("write", f"Write this to {shown(path)}?", ("yes", "no"), True)
    if not ask([consent], lambda question: line(question.prompt))["write"]:
        say("nothing was written")
        return False
    keep_answers(answers, path, values_of_file(path))
    say(f"written: {shown(path)}")
    return True
