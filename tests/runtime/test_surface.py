"""Accelerate's surface: the page that compares it is true and complete, and its import paths exist here."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

import nbaccel.utils
from nbaccel.errors import PlanError
from nbaccel.runtime import later

HOME = Path(__file__).parents[2]
PAGE = HOME / "docs" / "accelerate.md"
LINE = re.compile(r"^\| `([^`]+)` \| (works|one clear error|not here) \| (.*) \|$")


def lines() -> list[tuple[str, str, str]]:
    found = [line for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    matches = [LINE.match(line) for line in found]
    assert all(matches), [line for line, match in zip(found, matches, strict=True) if not match]
    return [match.groups() for match in matches if match]  # type: ignore[misc]


def test_the_page_is_up_to_date() -> None:
    accelerate = importlib.metadata.version("accelerate")
    if f"Accelerate {accelerate}:" not in PAGE.read_text():
        pytest.skip(f"the page was made with another Accelerate than {accelerate}")
    command = [sys.executable, "-W", "ignore", str(HOME / "docs" / "surface.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_here_has_a_reason() -> None:
    assert [name for name, state, note in lines() if state != "works" and not note.strip()] == []
    assert "NO REASON" not in PAGE.read_text()


MODULES = [
    "accelerator",
    "big_modeling",
    "checkpointing",
    "data_loader",
    "hooks",
    "inference",
    "launchers",
    "local_sgd",
    "logging",
    "memory_utils",
    "optimizer",
    "parallelism_config",
    "scheduler",
    "state",
    "tracking",
    "utils",
    "utils.bnb",
    "utils.constants",
    "utils.dataclasses",
    "utils.deepspeed",
    "utils.environment",
    "utils.fsdp_utils",
    "utils.imports",
    "utils.launch",
    "utils.megatron_lm",
    "utils.memory",
    "utils.modeling",
    "utils.offload",
    "utils.operations",
    "utils.other",
    "utils.random",
    "utils.torch_xla",
    "utils.transformer_engine",
    "utils.tqdm",
    "utils.versions",
]


@pytest.mark.parametrize("name", MODULES)
def test_modules_hold_what_they_say(name: str) -> None:
    module = importlib.import_module(f"nbaccel.{name}")
    assert sorted(set(module.__all__)) == sorted(module.__all__)
    for member in module.__all__:
        assert getattr(module, member) is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(f"accelerate.{name}")  # the path is Accelerate's


def test_modules_need_no_import_of_their_own() -> None:
    code = (
        "import sys, nbaccel; assert 'torch' not in sys.modules\n"
        f"for name in {MODULES}:\n"
        "    found = nbaccel\n"
        "    for part in name.split('.'): found = getattr(found, part)\n"
        "    assert name == 'utils.tqdm' or found is sys.modules[f'nbaccel.{name}'], name\n"
        "import nbaccel.utils.tqdm; assert callable(nbaccel.utils.tqdm), 'the name is that of the bar'\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_that_accelerates_utils_hold_can_be_imported() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import accelerate.utils as theirs
    names = [n for n, value in vars(theirs).items() if n[0] != "_" and not isinstance(value, types.ModuleType)]
    assert [name for name in names if not hasattr(nbaccel.utils, name)] == []


def test_stand_ins_say_what_to_use() -> None:
    stand_ins = [value for value in vars(later).values() if later.is_stand_in(value)]
    assert stand_ins
    for value in stand_ins:
        with pytest.raises(PlanError) as error:
            value()
        assert error.value.obstacle
        assert error.value.remedy
    assert not isinstance(object(), stand_ins[0])


def test_settings_that_come_later_are_taken_once_they_are_there() -> None:
    from nbaccel.runtime.handlers import AutocastKwargs

    assert later.late("AutocastKwargs", "why", "what") is AutocastKwargs
    assert later.is_stand_in(later.late("NeverThere", "why", "what"))


def test_a_script_for_accelerate_runs_with_another_name(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        """
from accelerate import Accelerator
from accelerate.logging import get_logger
from accelerate.state import AcceleratorState
from accelerate.utils import LoggerType, find_executable_batch_size, set_seed
from accelerate.utils.modeling import find_tied_parameters
from accelerate.utils.operations import gather
import torch

logger = get_logger(__name__)
set_seed(1)
accelerator = Accelerator(cpu=True)
model = torch.nn.Linear(2, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
assert "wandb" in [str(kind.value) for kind in LoggerType]
model, optimizer = accelerator.prepare(model, optimizer)

@find_executable_batch_size(starting_batch_size=4)
def train(batch_size):
    accelerator.backward(model(torch.ones(batch_size, 2)).sum())
    optimizer.step()
    return gather(model.weight.detach())

assert find_tied_parameters(model) == []
print([round(v, 4) for v in train().flatten().tolist()])
"""
    )
    outputs = []
    for name in ("accelerate", "nbaccel"):
        script.write_text(
            script.read_text().replace("accelerate", name, 99) if name == "nbaccel" else script.read_text()
        )
        done = subprocess.run([sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, check=True)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
