"""The configuration form: how long it takes to open, and from an edit to the refreshed preview, in the kernel.

    python benchmarks/config_form.py

Medians and the slowest. The form reads all layers from real files at each edit; the budget of a refresh is 30 ms.
Messages to the front end are made and dropped, as there is none.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from config import layers_in

from nbaccel.config import KEYS, NOTEBOOK
from nbaccel.machine import Gpu, Machine
from nbaccel_widgets import ConfigForm

_MACHINE = Machine(usable_cores=8, physical_cores=4, gpus=tuple(Gpu(number, str(number)) for number in range(2)))
_LONG = "\n".join(f"  name_{number}: {number}  # of the project's own" for number in range(200))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        layers_in(folder)
        with (folder / ".accelerate/default_config.yaml").open("a") as file:
            file.write(_LONG + "\n")
        os.chdir(folder)
        environ = {"HF_HOME": str(folder / "home"), "ACCELERATE_MIXED_PRECISION": "fp16", "BATCH_SIZE": "8"}

        def opened() -> ConfigForm:
            return ConfigForm(_MACHINE, environ)

        row("open the form", [timed(opened) for _ in range(15)])
        form = opened()
        row("an edit of this notebook, tab Common", list(edits(form, ("seed", "timeout"))))
        form.row("distributed_type").control.value = "DEEPSPEED"
        row("open the longest tab, 60 keys", [timed(lambda: form.body.open("Parallel"))])
        row("an edit with that tab open", list(edits(form, ("deepspeed_config.zero_stage",), ("1", "2"))))
        row("a search by one more letter", list(searches(form)))
        form.head.target.value = "project"
        form.body.open("Common")
        row("an edit of a project file of 200 lines, with its diff", list(edits(form, ("seed", "timeout"))))
        form.body.open("Parameters")
        row("the same with its 200 parameters open", list(edits(form, ("params.name_7",), ("x", "y"))))
        form.head.target.value = "notebook"
        form.body.open("Common")
        row("every key once", list(every_key(form)))
    NOTEBOOK.unset()


def edits(form: ConfigForm, keys: tuple[str, ...], values: tuple[str, ...] = ("3", "4")) -> Iterator[float]:
    for _ in range(8):
        for key in keys:
            for value in values:
                yield edit(form, key, value)


def edit(form: ConfigForm, key: str, text: str) -> float:
    control = form.row(key).control
    return timed(lambda: setattr(control, "value", text))


def searches(form: ConfigForm) -> Iterator[float]:
    for end in range(1, 10):
        yield timed(lambda end=end: setattr(form.head.search, "value", "precision"[:end]))  # type: ignore[misc]
    form.head.search.value = ""


def every_key(form: ConfigForm) -> Iterator[float]:
    for key in KEYS.values():
        if key.name in ("params", "profile"):
            continue
        words = [*key.choices, "true"] if key.choices or key.is_switch else ["1"]
        yield edit(form, key.name, words[0])
        form.undo()


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return (time.perf_counter() - started) * 1000


def row(what: str, milliseconds: list[float]) -> None:
    print(f"{what:<54} {statistics.median(milliseconds):7.1f} ms   slowest {max(milliseconds):7.1f} ms", flush=True)


if __name__ == "__main__":
    sys.exit(main())
