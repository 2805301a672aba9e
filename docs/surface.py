"""Writes `docs/accelerate.md`: each public name of the installed Accelerate, and what it is in nbaccel.

    python docs/surface.py            writes the page
    python docs/surface.py --check    says what is out of date, and exits with 1 if anything is

Only reasons are written by hand. Whether a name works is asked of the installed packages: it does if it is there, and
does not say of itself that it cannot be used. That it does the same is what the tests compare.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pkgutil
import re
import sys
import types
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PAGE = Path(__file__).with_name("accelerate.md")
WORKS, ERROR, ABSENT = "works", "one clear error", "not here"
NO_REASON = "NO REASON GIVEN"


@dataclass(frozen=True)
class Row:
    """One line of the page.

    Attributes:
        section: its heading.
        name: the name in Accelerate.
        state: what it is here.
        note: why, and what to use instead; empty for what works as there.
    """

    section: str
    name: str
    state: str
    note: str = ""

    def text(self) -> str:
        return f"| `{self.name}` | {self.state} | {self.note} |"


# Why names are not there: the first pattern that fits "module.name" or "Class.member" counts.
REASONS: tuple[tuple[str, str], ...] = (
    (r"^(commands|test_utils)\b", "Accelerate's own commands and tests; here: the command `nbaccel`"),
    (r"utils\.megatron_lm\.", "Megatron-LM: use DDP or FSDP"),
    (r"\.parse_\w+_config$|MODEL_CONFIGS_TO_MEGATRON|get_module_class_from_name", "a step inside Megatron-LM or FSDP"),
    (r"utils\.bnb\.", "quantization: use transformers' `quantization_config=`"),
    (r"utils\.(launch|rich)\.|^launchers\.test_launch", "a step inside Accelerate's launcher"),
    (r"utils\.operations\.", "a step inside Accelerate's collectives"),
    (r"utils\.modeling\.", "a step inside Accelerate's device maps"),
    (r"utils\.(fsdp_utils|deepspeed|torch_xla|ao|transformer_engine)\.", "a step inside Accelerate's strategies"),
    (r"utils\.other\.", "a constant inside Accelerate"),
    (r"^inference\.", "a step inside `prepare_pippy`, which comes next"),
    (r"^(optimizer|state|scheduler)\.", "a step inside Accelerate's class"),
    (r"^accelerator\.", "a table inside Accelerate; see `nbaccel.tracking`"),
    (r"^checkpointing\.", "a step inside `save_state` and `load_state`, which do it"),
    (r"^data_loader\.", "a step inside Accelerate's loaders; here `prepare` does it"),
    (r"^tracking\.", "a step inside Accelerate's trackers"),
    (r"^parallelism_config\.", "a step inside `ParallelismConfig`"),
    (r"^Accelerator\.(lomo|has_lomo)", "LOMO is not supported: use any optimizer of torch"),
    (r"^Accelerator\.(deepspeed_|.*ulysses)", "DeepSpeed comes next: use FSDP"),
    (r"^Accelerator\.(pipeline_|context_|maybe_context)", "pipelines and context parallelism come next"),
    (r"^Accelerator\.flag_tensor", "a step inside `set_trigger` and `check_trigger`, which do it"),
    (r"^GradientState\.is_xla_gradients_synced", "a step inside Accelerate's optimizer; here `step` does it"),
    (r"^Accelerator\.", "comes next"),
    (r"^(AcceleratorState|PartialState)\.(deepspeed\w*|get_deepspeed\w*|select_deepspeed\w*)", "DeepSpeed comes next"),
    (r"^(AcceleratorState|PartialState|GradientState)\.", "comes next"),
    (r"\(.*\)$", "comes next"),
    (r"^(DeepSpeedPlugin|MegatronLMPlugin|BnbQuantizationConfig|\w*RecipeKwargs)\.", "the class is one clear error"),
    (r"^\w+(Kwargs|Plugin|Configuration|Config)\.", "comes next"),
    (r"^\w+$", "not at the top level so far: import it from its module, as `nbaccel.utils` or `nbaccel.big_modeling`"),
)  # fmt: skip

# What works, but not quite as there.
NOTES = {
    "AcceleratedScheduler": "made by `prepare`; its constructor differs",
    "AcceleratedOptimizer": "made by `prepare`; its constructor differs",
    "get_logger": "needs no state object, and leaves the root logger's level alone",
    "DistributedOperationException": "names the rank that differs, and in what",
    "tqdm": "drawn by the notebook for workers",
    "should_reduce_batch_size": "knows every `OutOfMemoryError` of torch, and `MemoryError`",
    "find_executable_batch_size": "the decorator keeps `reduce_batch_size_fn`",
    "init_empty_weights": "tied weights stay tied",
    "set_module_tensor_to_device": "`clear_cache` has no effect: nothing is left to clear",
    "get_gpu_info": "no GPUs where there is no driver, instead of an error",
    "get_current_device_type": "`cpu` where there is nothing else",
    "check_cuda_fp8_capability": "False without CUDA, instead of an error",
    "GatheredParameters": "does nothing: there are no weights of DeepSpeed",
    "enable_fsdp_ram_efficient_loading": "sets variables that transformers reads",
    "disable_fsdp_ram_efficient_loading": "sets a variable that transformers reads",
    "pad_input_tensors": "along every dimension",
    "reduce": "all tensors of a dtype in one message; an unknown `reduction` is an error",
    "gather": "all small tensors in one message",
}


def rows() -> list[Row]:
    """The whole surface."""
    os.environ.setdefault("ACCELERATE_USE_CPU", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import accelerate

        return [
            *_top_level(accelerate),
            *(row for name in _modules(accelerate) for row in _module(name)),
            *_arguments(),
            *_members(),
            *_fields(),
        ]


def _reason(name: str) -> str:
    return next((reason for pattern, reason in REASONS if re.search(pattern, name)), NO_REASON)


def _row(section: str, name: str, home: Any, full: str) -> Row:
    last = name.rpartition(".")[2]
    try:
        value = getattr(home, last)
    except (AttributeError, ImportError):
        return Row(section, name, ABSENT, _reason(full))
    if _says_no(value):
        return Row(section, name, ERROR, f"{value.reason} {value.remedy}")
    return Row(section, name, WORKS, NOTES.get(last, ""))


def _says_no(value: Any) -> bool:
    """Whether something can be imported, and its use is an error."""
    from nbaccel.runtime.later import is_stand_in
    from nbaccel.runtime.recipes import NotCarriedOut

    return is_stand_in(value) or (inspect.isclass(value) and issubclass(value, NotCarriedOut))


def _top_level(accelerate: Any) -> Iterator[Row]:
    import nbaccel

    names = [name for name, value in vars(accelerate).items() if _is_public(name, value)]
    for name in sorted([*names, "__version__"]):
        yield _row("accelerate", name, nbaccel, name)


def _is_public(name: str, value: object) -> bool:
    return not name.startswith("_") and not isinstance(value, types.ModuleType) and not _is_foreign(value)


def _is_foreign(value: object) -> bool:
    """What a module only imports from elsewhere."""
    home = getattr(value, "__module__", None)
    return isinstance(home, str) and home.split(".")[0] not in ("accelerate", "nbaccel")


def _modules(accelerate: Any) -> list[str]:
    found = [module.name for module in pkgutil.walk_packages(accelerate.__path__, "accelerate.")]
    own = [name.removeprefix("accelerate.") for name in found]
    return sorted(name for name in own if not name.startswith(("commands", "test_utils")) and name != "utils.rich")


def _module(name: str) -> Iterator[Row]:
    theirs = importlib.import_module(f"accelerate.{name}")
    try:
        ours: Any = importlib.import_module(f"nbaccel.{name}")
    except ImportError:
        ours = None
    for found, value in sorted(vars(theirs).items()):
        if _is_public(found, value) and _is_own(theirs, found, value, name):
            yield _row(f"accelerate.{name}", found, ours, f"{name}.{found}")


def _is_own(module: Any, name: str, value: object, path: str) -> bool:
    if path in ("utils", "memory_utils"):
        return True
    home = getattr(value, "__module__", None)
    if home == "typing" or name == "TYPE_CHECKING":
        return False
    return home == module.__name__ or (home is None and name.isupper() and path.endswith("constants"))


def _arguments() -> Iterator[Row]:
    """Arguments of the constructor; those that are not supported yet say so."""
    import accelerate

    import nbaccel
    from nbaccel.runtime import options

    ours = inspect.signature(nbaccel.Accelerator.__init__).parameters
    refused = getattr(options, "NOT_YET", {})
    for name in list(inspect.signature(accelerate.Accelerator.__init__).parameters)[1:]:
        section, full = "Accelerator(...)", f"Accelerator({name}=)"
        if name in refused:
            yield Row(section, name, ERROR, f"nbaccel does not support {refused[name]} yet. Leave it out.")
        else:
            yield Row(section, name, WORKS) if name in ours else Row(section, name, ABSENT, _reason(full))


def _members() -> Iterator[Row]:
    """Methods, properties and attributes of the objects that a script holds."""
    import accelerate
    from accelerate.state import AcceleratorState, GradientState

    import nbaccel
    import nbaccel.state as states

    theirs: dict[str, Any] = {"Accelerator": accelerate.Accelerator(cpu=True)}
    ours: dict[str, Any] = {"Accelerator": nbaccel.Accelerator(cpu=True)}
    theirs |= {"PartialState": accelerate.PartialState(), "AcceleratorState": AcceleratorState()}
    ours |= {"PartialState": states.PartialState(), "AcceleratorState": states.AcceleratorState()}
    theirs["GradientState"], ours["GradientState"] = GradientState(), states.GradientState()
    for kind, held in theirs.items():
        for name in sorted(name for name in {*dir(type(held)), *vars(held)} if not name.startswith("_")):
            if hasattr(type(ours[kind]), name) or name in vars(ours[kind]) or name in dir(ours[kind]):
                yield Row(kind, name, WORKS)
            else:
                yield Row(kind, name, ABSENT, _reason(f"{kind}.{name}"))


def _fields() -> Iterator[Row]:
    """Fields of the objects with settings."""
    import accelerate.utils.dataclasses as theirs
    from accelerate.parallelism_config import ParallelismConfig

    import nbaccel.utils as ours

    kinds = [kind for kind in vars(theirs).values() if inspect.isclass(kind) and dataclasses.is_dataclass(kind)]
    for kind in sorted({*kinds, ParallelismConfig}, key=lambda kind: kind.__name__):
        mine = getattr(ours, kind.__name__, None)
        section = kind.__name__
        known = {field.name for field in dataclasses.fields(mine)} if _has_fields(mine) else set()
        for field in dataclasses.fields(kind):
            if _says_no(mine):
                yield Row(section, field.name, ERROR, f"{mine.reason} {mine.remedy}")
            elif field.name not in known:
                yield Row(section, field.name, ABSENT, _reason(f"{section}.{field.name}"))
            else:
                refusal = _refusal(mine, field)
                yield Row(section, field.name, ERROR if refusal else WORKS, refusal)


def _has_fields(kind: object) -> bool:
    return inspect.isclass(kind) and dataclasses.is_dataclass(kind)


def _refusal(kind: Any, field: Any) -> str:
    """What a class says of a field that it does not support: asked by setting it."""
    from nbaccel.errors import PlanError

    if field.default is not False and field.default is not None:
        return ""
    try:
        kind(**{field.name: True})
    except PlanError as error:
        return f"{error.obstacle} {error.remedy}" if "yet" in error.obstacle else ""
    except Exception:  # noqa: BLE001 - True is no value for it, which says nothing
        return ""
    return ""


def page(table: Iterable[Row]) -> str:
    """The text of the page."""
    import accelerate

    table = list(table)
    counts = {state: sum(row.state == state for row in table) for state in (WORKS, ERROR, ABSENT)}
    lines = [
        "# Coming from Accelerate",
        "",
        "`sed s/accelerate/nbaccel/` migrates a script: the modules and names are the same.",
        "Made by `docs/surface.py` from the installed packages; do not edit.",
        "",
        f"Accelerate {accelerate.__version__}: {counts[WORKS]} names work,",
        f"{counts[ERROR]} can be imported and are one clear error when they are used,",
        f"{counts[ABSENT]} are not here, with the reason.",
    ]
    section = ""
    for row in table:
        if row.section != section:
            section = row.section
            lines += ["", f"## {section}", "", "| name | state | note |", "|---|---|---|"]
        lines.append(row.text())
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    text = page(rows())
    if "--check" in arguments:
        if PAGE.read_text() == text:
            return 0
        print("docs/accelerate.md is out of date: run python docs/surface.py")
        return 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
