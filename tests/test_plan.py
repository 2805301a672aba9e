from __future__ import annotations

from typing import Any

import pytest

from nbaccel.config import call_layer, resolve
from nbaccel.errors import PlanError
from nbaccel.machine import Gpu, Machine
from nbaccel.plan import Parts, Plan, Rendezvous, Topology, choose_parts, decide, topology_of

CPU = Machine(usable_cores=8, physical_cores=6)
GPUS = Machine(usable_cores=16, physical_cores=8, gpus=tuple(Gpu(index, str(index + 2)) for index in range(4)))
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
        (
            CPU,
            {"num_processes": 4, "num_machines": 2, "machine_rank": 1, "main_process_ip": "a", "main_process_port": 9},
            Plan("zygote", "cpu", 4, 2, 1, threads_per_worker=4, rendezvous=Rendezvous("a", 9)),
        ),
    ],
)
def test_what_is_decided(machine: Machine, settings: dict[str, Any], expected: Plan) -> None:
    assert plan_of(machine, **settings) == expected


@pytest.mark.parametrize(
    ("machine", "settings", "words"),
    [
        (CPU, {"mixed_precision": "fp8"}, "fp8.*Possible here: no, bf16, fp16"),
        (CPU, {"gpu_ids": "0"}, "no CUDA GPU"),
        (CPU, {"gpu_ids": "all"}, "gpu_ids=all"),
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
