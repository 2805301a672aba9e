"""Under torchrun or Accelerate's launcher: the GPUs that a file names are chosen once."""

from __future__ import annotations

import os

import pytest
from projects import Project

from nbaccel.config import call_layer
from nbaccel.config.launched import resolve_in_worker

BY_TORCHRUN = {"LOCAL_RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"CUDA_VISIBLE_DEVICES": "2,3", **BY_TORCHRUN}, None),
        ({"CUDA_VISIBLE_DEVICES": "GPU-aa,GPU-bb", **BY_TORCHRUN}, None),
        ({"CUDA_VISIBLE_DEVICES": "2, 3"}, None),  # accelerate launch of one process tells nothing else
        ({"CUDA_VISIBLE_DEVICES": "4,5,6,7"}, (2, 3)),  # no launcher: they are counted among these
        (BY_TORCHRUN, (2, 3)),  # torchrun reads no file: all GPUs are visible
        ({}, (2, 3)),
    ],
)
def test_gpus_of_a_file(environ: dict[str, str], expected: tuple[int, ...] | None, project: Project) -> None:
    project.write_user("compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\ngpu_ids: 2,3\n")
    found = resolve_in_worker(environ={"HF_HOME": str(project.hub), **environ})
    assert found.config.gpu_ids == expected
    origin, *shadowed = found.chain["gpu_ids"]
    if expected is None:
        assert origin.place == "the variable CUDA_VISIBLE_DEVICES of the launcher"
        origin = shadowed[0]
    assert origin.place.endswith(f"default_config.yaml:3:{len('gpu_ids: ') + 1}")


def test_gpus_that_the_code_names_are_chosen(project: Project) -> None:
    project.write_user("gpu_ids: 2,3\n")
    environ = {"HF_HOME": str(project.hub), "CUDA_VISIBLE_DEVICES": "2,3", **BY_TORCHRUN}
    assert resolve_in_worker(call_layer({"gpu_ids": "1"}, layer="constructor"), environ=environ).config.gpu_ids == (1,)
    assert resolve_in_worker(environ={**environ, "ACCELERATE_GPU_IDS": "0"}).config.gpu_ids == (0,)
    assert "CUDA_VISIBLE_DEVICES" not in os.environ or os.environ["CUDA_VISIBLE_DEVICES"] != "2,3"
