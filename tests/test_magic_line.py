"""What the line of `%%accelerate` says."""

from __future__ import annotations

import pytest
from IPython.core.error import UsageError

from nbaccel.notebook.flags import Line, parse


@pytest.mark.parametrize(
    ("line", "name", "settings"),
    [
        ("-n 2", None, {"num_processes": "2"}),
        ("--background", "", {}),
        ("--background job", "job", {}),
        ("--background -n 2", "", {"num_processes": "2"}),
        ("--background epochs=3", "", {"params.epochs": 3}),
        ("--background trainer.epochs=3 lr=1", "", {"params.trainer.epochs": 3, "params.lr": 1}),
        ("--background seed=3", "", {"seed": "3"}),
        ("--background job epochs=3", "job", {"params.epochs": 3}),
        ("epochs=3 --background", "", {"params.epochs": 3}),
    ],
)
def test_the_handle_of_a_job_in_the_background(line: str, name: str | None, settings: dict[str, object]) -> None:
    words = parse(line)
    assert (words.background, words.settings) == (name, settings)


@pytest.mark.parametrize("word", ["2nd", "my-job", "job.one", "class", "2=3"])
def test_a_handle_that_is_no_name_is_refused(word: str) -> None:
    with pytest.raises(UsageError, match=f"--background {word}: possible is a name for the job's handle"):
        parse(f"--background {word}")


def test_a_later_line_stands_above_an_earlier_one() -> None:
    first = parse("-n 2 --seed 1 --config-file a.yaml lr=1 --ranks 0")
    assert first.joined(parse("--seed 2")) == Line(
        {"num_processes": "2", "seed": "2", "params.lr": 1}, config_file="a.yaml"
    )
    assert first.joined(parse("--config-file b.yaml")).config_file == "b.yaml"
