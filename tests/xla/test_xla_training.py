"""Training on XLA's devices gives what torch gives on the CPU, by one process, by several, and by SPMD."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import xla_runs

from nbaccel import notebook_launcher
from nbaccel.errors import PlanError, WorkerError

ONE = {"distributed_type": "XLA", "num_processes": 1}
PROCESSES = {"distributed_type": "XLA"}
SPMD = {"distributed_type": "XLA", "xla_spmd": True}
FSDP = {"distributed_type": "FSDP", "xla_spmd": True}


def run(function: Any, *args: Any, **settings: Any) -> Any:
    return notebook_launcher(function, args, **settings)


@pytest.mark.parametrize(
    ("settings", "processes", "chips"), [(ONE, 1, 1), (PROCESSES, 4, 1), (SPMD, 1, 4), (FSDP, 1, 4)]
)
@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (2, 0.05)])
def test_training_equals_that_of_torch_on_the_cpu(
    settings: dict[str, Any], processes: int, chips: int, accumulate: int, clip: float | None
) -> None:
    batch = 8
    found = run(xla_runs.train, batch // processes, accumulate, clip, **settings)
    assert (found["device"], found["type"], found["processes"], found["chips"]) == ("xla", "XLA", processes, chips)
    expected = xla_runs.bare(batch, accumulate, clip)
    for mine, theirs in zip(found["weights"], expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_fsdp_cuts_every_parameter_and_spmd_alone_none() -> None:
    cut = run(xla_runs.train, 8, **FSDP)["cuts"]
    assert len(cut) == 4
    assert all("devices=[" in one for one in cut)
    assert not any("devices=[" in one for one in run(xla_runs.train, 8, **SPMD)["cuts"])
    whole = run(xla_runs.train, 8, **FSDP, fsdp_config={"fsdp_sharding_strategy": "NO_SHARD"})["cuts"]
    assert not any("devices=[" in one for one in whole)


def test_settings_of_fsdp_that_xla_does_not_need_are_named(capfd: pytest.CaptureFixture[str]) -> None:
    run(xla_runs.train, 8, **FSDP, fsdp_config={"fsdp_forward_prefetch": True, "fsdp_version": 2})
    said = capfd.readouterr().err
    assert "without effect: fsdp_config.fsdp_forward_prefetch" in said
    assert "fsdp_version" not in said


def test_bf16_computes_in_bfloat16_and_keeps_weights() -> None:
    found = run(xla_runs.weights_before_and_after, "bf16", **ONE)
    plain = run(xla_runs.weights_before_and_after, "no", **ONE)
    assert (found["inner"], found["outputs"], found["weights"]) == (torch.bfloat16, torch.float32, {torch.float32})
    assert plain["inner"] == torch.float32
    assert found["loss"] == pytest.approx(plain["loss"], rel=0.02)


def test_downcast_makes_the_weights_bfloat16() -> None:
    found = run(xla_runs.weights_before_and_after, "bf16", **ONE, downcast_bf16=True)
    plain = run(xla_runs.weights_before_and_after, "no", **ONE)
    assert (found["inner"], found["outputs"], found["weights"]) == (torch.bfloat16, torch.float32, {torch.bfloat16})
    assert found["loss"] == pytest.approx(plain["loss"], rel=0.05)


def test_fp16_is_refused() -> None:
    with pytest.raises(PlanError, match=r"fp16.*bfloat16.*Use mixed_precision='bf16'"):
        run(xla_runs.drawn, mixed_precision="fp16", **ONE)


def test_gathering_from_four_processes() -> None:
    found = run(xla_runs.gathered, 10, 2, **PROCESSES)
    assert found["metrics"] == list(range(10))
    assert found["devices"] == {"xla"}
    assert found["gather"]["x"].tolist() == [0, 1, 2, 3]
    assert found["gather"]["y"].tolist() == [0, 0.5, 1.0, 1.5]
    assert found["objects"] == ["0", "1", "2", "3"]
    assert found["sum"] == 6
    assert found["padded"] == [0, -1, -1, -1]
    assert found["trigger"] is False


@pytest.mark.parametrize("settings", [ONE, SPMD])
def test_one_process_has_everything_already(settings: dict[str, Any]) -> None:
    found = run(xla_runs.gathered, 10, 4, **settings)  # 4, 4 and 2: the last batch has fewer samples than chips
    assert found["metrics"] == list(range(10))
    assert found["objects"] == ["0"]


def test_a_batch_of_many_kinds() -> None:
    found = run(xla_runs.nested_batch, **SPMD)
    assert found == {"x": ("xla", (6, 3)), "n": "xla", "word": ["a"] * 6, "pair": ["xla", "xla"], "end": False}


@pytest.mark.parametrize("settings", [ONE, FSDP])
def test_tied_weights_stay_tied_and_the_optimizer_follows(settings: dict[str, Any]) -> None:
    assert run(xla_runs.tied, **settings) == {
        "tied": True, "in_optimizer": True, "moved": True, "state_tied": True, "state_device": "cpu",
    }  # fmt: skip


@pytest.mark.parametrize("settings", [ONE, SPMD, FSDP])
def test_a_checkpoint_leads_back_into_the_training(settings: dict[str, Any], tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoint")
    whole = run(xla_runs.interrupted_by_a_checkpoint, str(tmp_path / "none"), None, **settings)
    first = run(xla_runs.interrupted_by_a_checkpoint, folder, 3, **settings)
    rest = run(xla_runs.interrupted_by_a_checkpoint, folder, None, **settings)
    assert len(whole) == 8
    assert first + rest == pytest.approx(whole, rel=1e-5)  # dropout on the chip, too, goes on where it was


def test_a_checkpoint_of_processes_is_read_by_one(tmp_path: Path) -> None:
    folder = str(tmp_path / "checkpoint")
    run(xla_runs.interrupted_by_a_checkpoint, folder, 1, **PROCESSES)
    rest = run(xla_runs.interrupted_by_a_checkpoint, folder, None, **ONE)
    assert len(rest) == 4  # of 8 batches of 4 the four processes had read one each


def test_launches_draw_different_numbers_unless_seeded() -> None:
    torch.manual_seed(1)
    first = run(xla_runs.drawn, **ONE)
    assert first == run(xla_runs.drawn, **ONE)  # from the kernel's generator, where that stands
    torch.rand(1)
    assert first != run(xla_runs.drawn, **ONE)
    assert run(xla_runs.drawn, seed=5, **ONE) == run(xla_runs.drawn, seed=5, **ONE)


def test_step_after_step_compiled_anew_is_told_with_the_shapes() -> None:
    (told,) = run(xla_runs.of_many_shapes, list(range(2, 14)), **ONE)
    assert "because the batches differ in shape" in told
    assert "(2, 1) float32, (3, 1) float32" in told
    assert "drop_last=True" in told
    assert run(xla_runs.of_many_shapes, [5] * 11 + [2], **ONE) == []


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True)])
def test_a_process_cannot_change_its_way(first: bool, second: bool) -> None:
    with pytest.raises(WorkerError, match="StateError: torch_xla has begun in this process with"):
        run(xla_runs.second_way, first, second, **ONE)


AVERAGE = """
import os
os.environ |= {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "2"}
import torch, torch_xla
from nbaccel.plan import Topology
from nbaccel.runtime.parallel.xla import _average
from nbaccel.runtime.world import World
from nbaccel.runtime.xla.starting import _share_chips

_share_chips(Topology(0, 2, 0, 2))
device = torch_xla.device()
gradients = [torch.ones(3, device=device), torch.ones(2, 2, device=device)]
_average(gradients, World(0, 2, 0, 2, device, "gloo"))
print(torch_xla._XLAC._get_xla_tensors_hlo(gradients))
os._exit(0)  # it is not run: the devices of the CPU wait for each other for ever
"""


@pytest.mark.parametrize("environ", [{}, {"TPU_PROCESS_BOUNDS": "2,1,1"}])
def test_gradients_are_averaged_over_the_wires_between_chips(environ: dict[str, str]) -> None:
    """What XLA is told to compute; only chips can carry it out."""
    command = [sys.executable, "-c", AVERAGE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env={**os.environ, **environ})
    assert done.returncode == 0, done.stderr
    reductions = [line for line in done.stdout.splitlines() if " all-reduce(" in line]
    assert reductions, done.stdout
    assert all("replica_groups={}" in line for line in reductions)  # all replicas
    assert done.stdout.count("constant(0.5)") >= 1
    assert "f32[3]" in done.stdout
    assert "f32[2,2]" in done.stdout


SCRIPT = """
import torch
from torch_xla import runtime
from nbaccel import Accelerator
accelerator = Accelerator()
chips = runtime.global_runtime_device_count() if runtime.is_spmd() else 1
total = accelerator.gather(torch.ones(1, device=accelerator.device)).sum().item()
accelerator.print(accelerator.device, accelerator.num_processes, chips, total)
"""


@pytest.mark.parametrize(
    ("flags", "said"), [(("--xla_spmd",), "xla:0 1 4 1.0"), ((), "xla:0 4 1 4.0"), (("-n", "1"), "xla:0 1 1 1.0")]
)
def test_a_script_by_the_command_line(flags: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    command = [sys.executable, "-m", "nbaccel.cli.main", "launch", "--tpu", *flags, "train.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == said
