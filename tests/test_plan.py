from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from nbaccel.config import call_layer, resolve
from nbaccel.errors import PlanError
from nbaccel.machine import Gpu, Machine, Obstacle, TpuSoftware
from nbaccel.plan import Parts, Plan, Rendezvous, Topology, choose_parts, decide, topology_of
from nbaccel.plan.chips import Chips

CPU = Machine(usable_cores=8, physical_cores=6)
GPUS = Machine(usable_cores=16, physical_cores=8, gpus=tuple(Gpu(index, str(index + 2)) for index in range(4)))
NO_CUDA = replace(CPU, gpu_obstacle=Obstacle("torch 2.8.0 is made without CUDA.", "Install another torch."))
MAC = Machine(usable_cores=8, physical_cores=8, has_mps=True)


def plan_of(machine: Machine, **settings: Any) -> Plan:
    return decide(resolve(call_layer(settings), environ={}).config, machine)


@pytest.mark.parametrize(
    ("machine", "settings", "expected"),
    [
        (CPU, {}, Plan("zygote", "cpu", 4, 4, threads_per_worker=2)),
        (Machine(), {}, Plan("zygote", "cpu", 1, 1, threads_per_worker=1)),
        (CPU, {"num_processes": 2}, Plan("zygote", "cpu", 2, 2, threads_per_worker=4)),
        (CPU, {"num_processes": 20}, Plan("zygote", "cpu", 20, 20, threads_per_worker=1)),
        (CPU, {"start_method": "inline"}, Plan("inline", "cpu", 1, 1, threads_per_worker=8)),
        (CPU, {"start_method": "spawn", "num_processes": 2}, Plan("spawn", "cpu", 2, 2, threads_per_worker=4)),
        (GPUS, {}, Plan("zygote", "cuda", 4, 4, threads_per_worker=4, visible_gpus="2,3,4,5")),
        (GPUS, {"num_processes": 2}, Plan("zygote", "cuda", 2, 2, threads_per_worker=8, visible_gpus="2,3,4,5")),
        (GPUS, {"gpu_ids": "1,3"}, Plan("zygote", "cuda", 2, 2, threads_per_worker=8, visible_gpus="3,5")),
        (GPUS, {"gpu_ids": "all"}, Plan("zygote", "cuda", 4, 4, threads_per_worker=4, visible_gpus="2,3,4,5")),
        (GPUS, {"use_cpu": True, "num_processes": 8}, Plan("zygote", "cpu", 8, 8, threads_per_worker=2)),
        (MAC, {}, Plan("zygote", "mps", 1, 1, threads_per_worker=8)),
        (NO_CUDA, {}, Plan("zygote", "cpu", 4, 4, threads_per_worker=2)),
        (
            CPU,
            {"num_processes": 4, "num_machines": 2, "machine_rank": 1, "main_process_ip": "a", "main_process_port": 9},
            Plan("zygote", "cpu", 4, 2, 1, threads_per_worker=4, rendezvous=Rendezvous("a", 9)),
        ),
    ],
)
def test_what_is_decided(machine: Machine, settings: dict[str, Any], expected: Plan) -> None:
    assert plan_of(machine, **settings) == expected


GIB = 2**30
XLA = TpuSoftware(torch="2.9.0+cpu", torch_xla="2.9.0", has_libtpu=True)
T4 = tuple(Gpu(index, str(index), "Tesla T4", 15 * GIB) for index in range(2))


@pytest.mark.parametrize(
    ("machine", "expected"),
    [
        (
            Machine("kaggle", 4, 2, 29 * GIB, T4),
            Plan("zygote", "cuda", 2, 2, threads_per_worker=2, visible_gpus="0,1"),
        ),
        (
            Machine("kaggle", 96, 96, 330 * GIB, tpu_kind="v3", tpu_chips=4, tpu_software=XLA),
            Plan("zygote", "xla", 1, 1, threads_per_worker=96, chips=Chips("v3", 4, spmd=True)),
        ),
        (
            Machine("kaggle", 224, 112, 400 * GIB, tpu_kind="v5e", tpu_chips=8, tpu_software=XLA),
            Plan("zygote", "xla", 8, 8, threads_per_worker=28, chips=Chips("v5e", 8)),
        ),
        (
            Machine("colab", 2, 1, 12 * GIB, T4[:1]),
            Plan("zygote", "cuda", 1, 1, threads_per_worker=2, visible_gpus="0"),
        ),
        (
            Machine("colab", 24, 24, 47 * GIB, tpu_kind="v5e", tpu_chips=1, tpu_software=XLA),
            Plan("zygote", "xla", 1, 1, threads_per_worker=24, chips=Chips("v5e", 1)),
        ),
        (Machine("colab", 2, 1, 12 * GIB), Plan("zygote", "cpu", 1, 1, threads_per_worker=2)),
        (Machine("binder", 1, 1, 2 * GIB), Plan("zygote", "cpu", 2, 2, threads_per_worker=1)),
        (Machine("binder", 72, 36, 2 * GIB), Plan("zygote", "cpu", 2, 2, threads_per_worker=36)),
        (Machine("jupyterhub", 8, 8, 2 * GIB), Plan("zygote", "cpu", 2, 2, threads_per_worker=4)),
        (Machine("jupyterhub", 8, 8, GIB // 2), Plan("zygote", "cpu", 1, 1, threads_per_worker=8)),
        (Machine("sagemaker", 2, 1, 4 * GIB), Plan("zygote", "cpu", 1, 1, threads_per_worker=2)),
        (
            Machine("sagemaker", 4, 2, 16 * GIB, T4[:1]),
            Plan("zygote", "cuda", 1, 1, threads_per_worker=4, visible_gpus="0"),
        ),
        (Machine("databricks", 8, 4, 32 * GIB), Plan("zygote", "cpu", 4, 4, threads_per_worker=2)),
        (Machine("vscode", 16, 8, 32 * GIB), Plan("zygote", "cpu", 4, 4, threads_per_worker=4)),
        (Machine("vscode", 8, 8, 16 * GIB, has_mps=True), Plan("zygote", "mps", 1, 1, threads_per_worker=8)),
    ],
)
def test_what_is_decided_where_nobody_says_anything(machine: Machine, expected: Plan) -> None:
    assert plan_of(machine) == expected


@pytest.mark.parametrize(
    ("machine", "settings", "words"),
    [
        (CPU, {"mixed_precision": "fp8"}, "fp8.*Possible here: no, bf16, fp16"),
        (CPU, {"gpu_ids": "0"}, "no CUDA GPU"),
        (CPU, {"gpu_ids": "all"}, "gpu_ids=all"),
        (CPU, {"distributed_type": "MULTI_GPU"}, "MULTI_GPU': this machine has no CUDA GPU. Use MULTI_CPU"),
        (NO_CUDA, {"gpu_ids": "0"}, "gpu_ids=0: torch 2.8.0 is made without CUDA. Install another torch."),
        (NO_CUDA, {"distributed_type": "MULTI_GPU"}, "MULTI_GPU': torch 2.8.0 is made without CUDA."),
        (CPU, {"start_method": "inline", "num_processes": 2}, "inline.*one process"),
        (GPUS, {"num_processes": 5}, "4 CUDA devices.*use_cpu=True"),
        (GPUS, {"gpu_ids": "4"}, "no GPU 4.*0 to 3"),
        (GPUS, {"gpu_ids": "1,1"}, "named once"),
        (GPUS, {"gpu_ids": []}, "named once"),
        (MAC, {"num_processes": 2}, "1 MPS device"),
        (CPU, {"num_processes": 3, "num_machines": 2}, "split evenly"),
        (CPU, {"num_processes": 2, "num_machines": 2}, "where to meet"),
        (CPU, {"machine_rank": 1}, "Possible: 0 to 0"),
    ],
)
def test_what_cannot_be_done_is_explained(machine: Machine, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan_of(machine, **settings)


def test_the_variables_that_show_gpus() -> None:
    plan = Plan("zygote", "cuda", 2, 2, visible_gpus="3,5")
    assert plan.gpu_environ({}) == {"CUDA_VISIBLE_DEVICES": "3,5"}
    both = {"CUDA_VISIBLE_DEVICES": "3,5", "HIP_VISIBLE_DEVICES": "3,5"}
    assert plan.gpu_environ({"HIP_VISIBLE_DEVICES": "0,1,2,3,4,5"}) == both
    assert Plan("zygote", "cpu", 2, 2).gpu_environ({"HIP_VISIBLE_DEVICES": "0"}) == {}


def test_the_place_of_each_worker() -> None:
    plan = Plan("zygote", "cpu", 4, 2, machine_rank=1)
    assert [plan.topology(local).rank for local in range(2)] == [2, 3]


def test_the_place_that_the_environment_tells() -> None:
    assert topology_of({}) == Topology(0, 1, 0, 1)
    environ = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert topology_of(environ) == Topology(3, 4, 1, 2)


@pytest.mark.parametrize(
    ("machine", "settings", "topology", "expected"),
    [
        (CPU, {}, Topology(), Parts("cpu", "single", "no", None)),
        (CPU, {"mixed_precision": "bf16"}, Topology(1, 2, 1, 2), Parts("cpu", "ddp", "bf16", "gloo")),
        (GPUS, {"mixed_precision": "fp16"}, Topology(2, 4, 2, 4), Parts("cuda:2", "ddp", "fp16", "nccl")),
        (GPUS, {"use_cpu": True}, Topology(0, 2, 0, 2), Parts("cpu", "ddp", "no", "gloo")),
        (GPUS, {"gpu_ids": "3,1"}, Topology(1, 2, 1, 2), Parts("cuda:1", "ddp", "no", "nccl")),
        (GPUS, {"gpu_ids": "3"}, Topology(), Parts("cuda:3", "single", "no", None)),
        (MAC, {}, Topology(), Parts("mps", "single", "no", None)),
    ],
)
def test_parts_of_one_process(machine: Machine, settings: dict[str, Any], topology: Topology, expected: Parts) -> None:
    assert choose_parts(resolve(call_layer(settings), environ={}).config, machine, topology) == expected


def test_mps_is_one_device() -> None:
    with pytest.raises(PlanError, match="2 processes on mps"):
        choose_parts(resolve(environ={}).config, MAC, Topology(0, 2, 0, 2))
