"""TPUs in the plan: every kind's processes, SPMD and variables, and every wish that cannot be fulfilled."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nbaccel.config import Resolved, call_layer, resolve
from nbaccel.errors import MissingExtraError, PlanError
from nbaccel.launch.environment import worker_environ
from nbaccel.launch.torchrun import environment
from nbaccel.machine import Gpu, Machine, TpuSoftware
from nbaccel.machine.tpu_software import probe_tpu_software
from nbaccel.plan import Parts, Plan, Rendezvous, Topology, choose_parts, decide
from nbaccel.plan.chips import BOUNDS, CORES, Chips, Meeting, own_environ, shared_environ

XLA = TpuSoftware(torch="2.9.0+cpu", torch_xla="2.9.0", has_libtpu=True)
TORCH_TPU = TpuSoftware(torch="2.13.0", torch_tpu="0.2.0", has_libtpu=True)
ON_CPU = TpuSoftware(torch="2.9.0+cu128", torch_xla="2.9.0", pjrt_device="CPU", host_devices=4)


def machine(kind: str, chips: int, software: TpuSoftware = XLA) -> Machine:
    return Machine(usable_cores=24, physical_cores=12, tpu_kind=kind, tpu_chips=chips, tpu_software=software)


HOST = Machine(usable_cores=8, physical_cores=8, tpu_software=ON_CPU)


def resolved(**settings: Any) -> Resolved:
    return resolve(call_layer(settings), environ={})


def plan_of(on: Machine, **settings: Any) -> Plan:
    return decide(resolved(**settings).config, on)


# --- what is decided --------------------------------------------------------------------------------------------------

KINDS = [(kind, count) for kind, wired in BOUNDS.items() for count in wired]


@pytest.mark.parametrize(("kind", "count"), KINDS)
def test_all_chips_of_every_kind(kind: str, count: int) -> None:
    """Left out, and all: a process per chip; SPMD where a chip has two cores."""
    spmd = kind in CORES
    processes = 1 if spmd else count
    chips = Chips(kind, count, spmd)
    expected = Plan("zygote", "xla", processes, processes, threads_per_worker=24 // processes, chips=chips)
    assert plan_of(machine(kind, count)) == expected
    assert plan_of(machine(kind, count), num_processes=count) == (expected if count > 1 else replace(expected))
    assert plan_of(machine(kind, count), distributed_type="XLA") == expected


@pytest.mark.parametrize(("kind", "count"), KINDS)
def test_one_process_on_every_kind(kind: str, count: int) -> None:
    assert plan_of(machine(kind, count), num_processes=1) == Plan(
        "zygote", "xla", 1, 1, threads_per_worker=24, chips=Chips(kind, count)
    )


@pytest.mark.parametrize(("kind", "count"), KINDS)
def test_spmd_and_fsdp_on_every_kind(kind: str, count: int) -> None:
    expected = Plan("zygote", "xla", 1, 1, threads_per_worker=24, chips=Chips(kind, count, spmd=True))
    assert plan_of(machine(kind, count), xla_spmd=True) == expected
    assert plan_of(machine(kind, count), distributed_type="FSDP", num_processes=count) == expected


@pytest.mark.parametrize(
    ("on", "settings", "device", "processes", "spmd"),
    [
        (machine("v3", 4), {"num_processes": 8}, "xla", 1, True),  # Kaggle's v3-8: all eight cores
        (machine("v3", 4), {"distributed_type": "NO"}, "xla", 1, False),
        (machine("v5e", 8), {"distributed_type": "NO"}, "xla", 1, False),
        (machine("v5e", 8), {"start_method": "inline"}, "xla", 1, False),
        (machine("v5e", 8), {"start_method": "inline", "xla_spmd": True}, "xla", 1, True),
        (machine("v5e", 8, TORCH_TPU), {}, "tpu", 8, False),
        (machine("v5e", 8, TORCH_TPU), {"num_processes": 1}, "tpu", 1, False),
        (machine("v5e", 8, TORCH_TPU), {"distributed_type": "FSDP"}, "tpu", 8, False),
        (machine("v5e", 8, replace(TORCH_TPU, torch="2.13.0", torch_xla="2.9.0")), {}, "tpu", 8, False),
        (machine("v5e", 8, replace(TORCH_TPU, torch="2.9.0", torch_xla="2.9.0")), {}, "xla", 8, False),
        (machine("v3", 4, replace(XLA, torch_tpu="0.2.0")), {}, "xla", 1, True),  # torch_tpu knows no v3
        (HOST, {"distributed_type": "XLA"}, "xla", 4, False),
        (HOST, {"distributed_type": "XLA", "num_processes": 1}, "xla", 1, False),
        (HOST, {"xla_spmd": True}, "xla", 1, True),
        (HOST, {"xla_spmd": True, "distributed_type": "FSDP"}, "xla", 1, True),
    ],
)
def test_which_software_and_how_many_processes(
    on: Machine, settings: dict[str, Any], device: str, processes: int, spmd: bool
) -> None:
    plan = plan_of(on, **settings)
    assert plan.chips is not None
    assert (plan.device, plan.local_world_size, plan.chips.spmd) == (device, processes, spmd)


@pytest.mark.parametrize(
    ("on", "settings", "device"),
    [
        (HOST, {}, "cpu"),  # a kernel that has merely imported torch_xla
        (HOST, {"distributed_type": "FSDP"}, "cpu"),
        (machine("v5e", 1), {"use_cpu": True}, "cpu"),
        (machine("v5e", 1, ON_CPU), {}, "cpu"),  # PJRT_DEVICE=CPU beside a chip
        (machine("v5e", 1), {"distributed_type": "MULTI_CPU"}, "cpu"),
        (machine("v5e", 1, TpuSoftware(torch="2.9.0")), {}, "cpu"),
        (replace(machine("v5e", 1), gpus=(Gpu(0, "0"),)), {}, "cuda"),
        (replace(machine("v5e", 1), gpus=(Gpu(0, "0"),)), {"distributed_type": "XLA"}, "xla"),
    ],
)
def test_when_tpus_are_left_alone(on: Machine, settings: dict[str, Any], device: str) -> None:
    assert plan_of(on, **settings).device == device


def test_the_machines_of_a_pod() -> None:
    settings = {"num_machines": 2, "machine_rank": 1, "main_process_ip": "a", "main_process_port": 9}
    plan = plan_of(machine("v4", 4), **settings)
    expected = Plan("zygote", "xla", 8, 4, 1, 6, rendezvous=Rendezvous("a", 9), chips=Chips("v4", 4))
    assert plan == expected
    assert plan_of(machine("v4", 4), num_processes=8, **settings) == expected


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (plan_of(machine("v3", 4)), "1 worker by zygote on xla (TPU v3, SPMD over 8 devices)"),
        (plan_of(machine("v5e", 8)), "8 workers by zygote on xla (TPU v5e, one chip each)"),
        (plan_of(machine("v5e", 8), num_processes=1), "(TPU v5e, one device)"),
        (plan_of(HOST, xla_spmd=True), "(computed by the CPU, SPMD over 4 devices)"),
    ],
)
def test_a_plan_in_words(plan: Plan, words: str) -> None:
    assert words in plan.describe()


@pytest.mark.parametrize(
    ("on", "settings", "topology", "expected"),
    [
        (machine("v5e", 8), {}, Topology(), Parts("xla:0", "xla", "no", None)),
        (machine("v5e", 8), {}, Topology(3, 8, 3, 8), Parts("xla:0", "xla", "no", "gloo")),
        (machine("v5e", 8), {"xla_spmd": True}, Topology(), Parts("xla:0", "spmd", "no", None)),
        (machine("v5e", 8), {"distributed_type": "FSDP"}, Topology(), Parts("xla:0", "spmd", "no", None)),
        (
            machine("v5e", 8),
            {"mixed_precision": "bf16", "downcast_bf16": True},
            Topology(),
            Parts("xla:0", "xla", "bf16", None, downcast=True),
        ),
        (machine("v5e", 8), {"downcast_bf16": True}, Topology(), Parts("xla:0", "xla", "no", None)),
        (machine("v5e", 8, TORCH_TPU), {}, Topology(3, 8, 3, 8), Parts("tpu", "ddp", "no", "tpu_dist")),
        (
            machine("v5e", 8, TORCH_TPU),
            {"distributed_type": "FSDP"},
            Topology(3, 8, 3, 8),
            Parts("tpu", "fsdp", "no", "tpu_dist", (("dp_shard", 8),)),
        ),
    ],
)
def test_parts_of_one_process(on: Machine, settings: dict[str, Any], topology: Topology, expected: Parts) -> None:
    assert choose_parts(resolved(**settings).config, on, topology) == expected


# --- what cannot be done ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("on", "settings", "words"),
    [
        (Machine(), {"distributed_type": "XLA"}, r"distributed_type='XLA': this machine has no TPU chip.*leave it out"),
        (Machine(tpu_software=XLA), {"distributed_type": "XLA"}, "no TPU chip.*PJRT_DEVICE=CPU"),
        (Machine(), {"xla_spmd": True}, "xla_spmd=True: this machine has no TPU chip"),
        (machine("v5e", 8), {"num_processes": 2}, r"there are 8 v5e chips.*Possible: 1, or 8 \(all"),
        (machine("v5e", 8), {"num_processes": 16}, "num_processes=16"),
        (machine("v3", 4), {"num_processes": 2}, r"there are 4 v3 chips.*Possible: 1, or 4"),
        (machine("v5e", 1), {"num_processes": 2}, r"there is 1 v5e chip,.*Possible: 1\."),
        (HOST, {"distributed_type": "XLA", "num_processes": 3}, "4 devices of the CPU.*CPU_NUM_DEVICES"),
        (
            machine("v4", 4),
            {"num_processes": 4, "num_machines": 2, "main_process_ip": "a", "main_process_port": 9},
            "4 v4 chips times 2 machines.*or 8",
        ),
        (machine("v5e", 1, replace(XLA, torch="2.10.1")), {}, r"torch 2.10.1 with torch_xla 2.9.0.*torch==2.9\.\*"),
        (machine("v5e", 1, replace(XLA, has_libtpu=False)), {}, r"libtpu.*is missing.*pip install torch_xla\[tpu\]"),
        (machine("v5e", 1, replace(TORCH_TPU, has_libtpu=False)), {}, "torch_tpu 0.2.0.*pip install libtpu"),
        (machine("v5e", 1, replace(TORCH_TPU, torch="2.9.0")), {}, r"torch_tpu 0.2.0 with torch 2.9.0.*2\.11 to 2\.15"),
        (machine("v5e", 8, TORCH_TPU), {"xla_spmd": True}, "xla_spmd=True.*torch_tpu"),
        (machine("v5e", 8), {"mixed_precision": "fp16"}, "TPUs compute in bfloat16.*bf16"),
        (
            machine("v4", 4),
            {"distributed_type": "FSDP", "num_machines": 2, "main_process_ip": "a", "main_process_port": 9},
            "FSDP' on a TPU.*2 machines is not supported",
        ),
        (
            machine("v3", 4),
            {"num_machines": 2, "main_process_ip": "a", "main_process_port": 9},
            "all cores of v3 chips.*2 machines",
        ),
        (machine("v5e", 8, replace(XLA, held_by="jax (it)")), {}, "opened the chips, by jax.*Restart the kernel"),
    ],
)
def test_what_cannot_be_done_is_one_error(on: Machine, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan_of(on, **settings)


def test_without_the_software_the_line_that_installs_it() -> None:
    with pytest.raises(MissingExtraError, match=r"torch_xla.*pip install 'nbaccel\[xla\]'"):
        plan_of(machine("v5e", 1, TpuSoftware()), distributed_type="XLA")


def test_who_holds_the_chips_does_not_matter_in_the_same_process() -> None:
    held = machine("v5e", 1, replace(XLA, held_by="torch_xla (a tensor)"))
    assert plan_of(held, start_method="inline").device == "xla"
    assert plan_of(held, use_cpu=True, num_processes=2).device == "cpu"


@pytest.mark.parametrize("key", ["fsdp_offload_params", "fsdp_activation_checkpointing"])
def test_what_fsdp_cannot_do_on_a_tpu(key: str) -> None:
    config = resolved(distributed_type="FSDP", fsdp_config={key: True}).config
    with pytest.raises(PlanError, match=f"fsdp_config.{key}=True: there is no such thing on a TPU"):
        choose_parts(config, machine("v5e", 8), Topology())


def test_fsdp_in_several_processes_that_somebody_else_has_started() -> None:
    config = resolved(distributed_type="FSDP").config
    with pytest.raises(PlanError, match=r"FSDP' in 8 processes on a TPU.*Launch it with nbaccel"):
        choose_parts(config, machine("v5e", 8), Topology(0, 8, 0, 8))


# --- what each process is told ----------------------------------------------------------------------------------------

MEETING = Meeting((9001, 9002, 9003, 9004), "17")


def environ_of(plan: Plan, rank: int, base: dict[str, str] | None = None) -> dict[str, str]:
    ports = tuple(range(9001, 9001 + plan.local_world_size))
    return worker_environ(base or {}, plan, resolved(), rank, ("127.0.0.1", 5), 0, Meeting(ports, "17"))


@pytest.mark.parametrize(("kind", "count"), [(kind, count) for kind, count in KINDS if count > 1 and kind not in CORES])
def test_the_variables_of_a_process_per_chip(kind: str, count: int) -> None:
    plan = plan_of(machine(kind, count))
    told = environ_of(plan, 1)
    expected = {
        "PJRT_DEVICE": "TPU",
        "PJRT_LOCAL_PROCESS_RANK": "1",
        "PJRT_LOCAL_PROCESS_COUNT": str(count),
        "TPU_VISIBLE_CHIPS": "1",
        "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1",
        "TPU_PROCESS_BOUNDS": BOUNDS[kind][count],
        "TPU_PROCESS_ADDRESSES": ",".join(f"localhost:{9001 + rank}" for rank in range(count)),
        "TPU_PROCESS_PORT": "9002",
        "CLOUD_TPU_TASK_ID": "1",
    }
    assert told.items() >= expected.items()
    assert "NBACCEL_XLA_SPMD" not in told
    sizes = [int(size) for size in BOUNDS[kind][count].split(",")]
    product = 1
    for size in sizes:
        product *= size
    assert product == count


@pytest.mark.parametrize(("kind", "count"), KINDS)
def test_the_variables_of_one_process(kind: str, count: int) -> None:
    one = environ_of(plan_of(machine(kind, count), num_processes=1), 0)
    bounds = {"TPU_VISIBLE_CHIPS": "0", "TPU_CHIPS_PER_PROCESS_BOUNDS": "1,1,1", "TPU_PROCESS_BOUNDS": "1,1,1"}
    assert one.items() >= ({"PJRT_DEVICE": "TPU"} | bounds).items()
    every = environ_of(plan_of(machine(kind, count), xla_spmd=True), 0)
    assert every.items() >= {"PJRT_DEVICE": "TPU", "NBACCEL_XLA_SPMD": "true"}.items()
    assert not every.keys() & bounds.keys()


def test_chips_that_are_wired_in_an_unknown_way_are_left_to_the_cloud() -> None:
    plan = plan_of(machine("v5e", 2))
    assert not environ_of(plan, 0).keys() & {"TPU_PROCESS_BOUNDS", "TPU_VISIBLE_CHIPS", "TPU_PROCESS_ADDRESSES"}
    assert environ_of(plan, 1)["PJRT_LOCAL_PROCESS_RANK"] == "1"


KAGGLE = {"TPU_PROCESS_ADDRESSES": "local", "CLOUD_TPU_TASK_ID": "0", "ISTPUVM": "1"}


@pytest.mark.parametrize("settings", [{}, {"num_processes": 1}, {"xla_spmd": True}])
def test_what_kaggle_sets_is_popped_for_the_workers_alone(settings: dict[str, Any]) -> None:
    base = dict(KAGGLE)
    told = environ_of(plan_of(machine("v5e", 8), **settings), 0, base)
    assert told.get("TPU_PROCESS_ADDRESSES") != "local"
    assert ("CLOUD_TPU_TASK_ID" in told) == (settings == {})
    assert told["ISTPUVM"] == "1"
    assert base == KAGGLE
    assert environ_of(plan_of(machine("v5e", 8), use_cpu=True), 0, base).items() >= KAGGLE.items()


def test_the_variables_where_torch_xla_computes_on_the_cpu() -> None:
    several = environ_of(plan_of(HOST, distributed_type="XLA"), 2)
    assert several.items() >= {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "1"}.items()
    assert not [name for name in several if name.startswith("TPU_")]
    spmd = environ_of(plan_of(HOST, xla_spmd=True), 0)
    assert spmd.items() >= {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "4", "NBACCEL_XLA_SPMD": "true"}.items()


@pytest.mark.parametrize(("before", "after"), [(None, "2"), ("1", "2"), ("0", "0"), ("3", "3")])
def test_the_compilers_notes_are_hidden_unless_asked_for(before: str | None, after: str) -> None:
    base = {} if before is None else {"TF_CPP_MIN_LOG_LEVEL": before}
    assert environ_of(plan_of(HOST, xla_spmd=True), 0, base)["TF_CPP_MIN_LOG_LEVEL"] == after


def test_the_environment_of_torchs_launcher() -> None:
    plan = plan_of(machine("v3", 4))
    told = environment(resolved(), plan, dict(KAGGLE))
    assert told.items() >= {"PJRT_DEVICE": "TPU", "NBACCEL_XLA_SPMD": "true"}.items()
    assert not told.keys() & {"TPU_PROCESS_ADDRESSES", "CLOUD_TPU_TASK_ID"}


def test_own_variables_are_those_of_a_process_per_chip_alone() -> None:
    assert own_environ("tpu", Chips("v5e", 4), 0, 4, MEETING) == {}
    assert own_environ("xla", Chips("v5e", 4, spmd=True), 0, 1, MEETING) == {}


# --- torch_tpu --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "count"), [(kind, count) for kind, count in KINDS if kind not in CORES])
def test_what_torch_tpu_is_told(kind: str, count: int) -> None:
    plan = plan_of(machine(kind, count, TORCH_TPU))
    told = environ_of(plan, 0)
    assert told["TORCH_TPU_TOPOLOGY"] == BOUNDS[kind][count]
    assert told["TORCH_TPU_SLICEBUILDER_ADDRESSES"].split(",") == [f"localhost:{9001 + rank}" for rank in range(count)]
    assert told["TORCH_TPU_XPROF_SESSION_ID"] == "17"
    assert told["LOCAL_RANK"] == "0"
    assert told["WORLD_SIZE"] == str(count)
    assert "PJRT_DEVICE" not in told


def hardware_of_torch_tpu() -> ModuleType:
    """The installed package's table of topologies, without the package itself, which loads its libraries."""
    files = importlib.metadata.files("torch_tpu") or []
    (file,) = [one for one in files if str(one) == "torch_tpu/_internal/utils/hardware.py"]
    spec = importlib.util.spec_from_file_location("torch_tpu_hardware", Path(str(file.locate())))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(importlib.util.find_spec("torch_tpu") is None, reason="torch_tpu is not installed")
def test_our_wiring_is_that_of_the_real_torch_tpu() -> None:
    theirs = hardware_of_torch_tpu()._TOPOLOGY_BY_TPU_PCI_DEVICE_ID
    ids = {"v4": "0x005e", "v5p": "0x0062", "v5e": "0x0063", "v6e": "0x006f", "v7x": "0x0076"}
    assert {kind: dict(theirs[ids[kind]]) for kind in ids} == {kind: dict(BOUNDS[kind]) for kind in ids}


def test_shared_variables_without_a_known_wiring() -> None:
    assert "TORCH_TPU_TOPOLOGY" not in shared_environ("tpu", Chips("v5e", 3), Meeting((1, 2, 3), "17"))


# --- the software of this process -------------------------------------------------------------------------------------


def runtime(awake: bool) -> ModuleType:
    module = ModuleType("torch_xla")
    module._XLAC = type("C", (), {"_xla_runtime_is_initialized": staticmethod(lambda: awake)})  # type: ignore[attr-defined]
    return module


def with_attribute(name: str, attribute: str, value: object) -> ModuleType:
    module = ModuleType(name)
    setattr(module, attribute, value)
    return module


def torch_with_tpu(awake: bool) -> ModuleType:
    return with_attribute("torch", "tpu", with_attribute("tpu", "is_initialized", lambda: awake))


@pytest.mark.parametrize(
    ("environ", "modules", "holder"),
    [
        ({}, {}, ""),
        ({"PJRT_DEVICE": "TPU"}, {"torch_xla": runtime(True)}, "torch_xla (a tensor"),
        ({}, {"torch_xla": runtime(True)}, "torch_xla"),
        ({"PJRT_DEVICE": "CPU"}, {"torch_xla": runtime(True)}, ""),
        ({"PJRT_DEVICE": "TPU"}, {"torch_xla": runtime(False)}, ""),
        ({}, {"jax._src.xla_bridge": with_attribute("b", "_backends", {"cpu": 1, "tpu": 2})}, "jax"),
        ({}, {"jax._src.xla_bridge": with_attribute("b", "_backends", {"cpu": 1})}, ""),
        ({}, {"torch": torch_with_tpu(True)}, "torch_tpu"),
        ({}, {"torch": torch_with_tpu(False)}, ""),
        ({}, {"torch": ModuleType("torch")}, ""),
    ],
)
def test_who_holds_the_chips(
    tmp_path: Path, environ: dict[str, str], modules: dict[str, ModuleType], holder: str
) -> None:
    found = probe_tpu_software(environ, tmp_path, modules).held_by
    assert found.startswith(holder) if holder else found == ""


@pytest.mark.parametrize("file", ["/dev/accel0", "/dev/vfio/3"])
def test_an_open_device_file_is_noticed(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "proc/self/fd"
    folder.mkdir(parents=True)
    (folder / "5").symlink_to("/dev/null")
    assert probe_tpu_software({}, tmp_path, {}).held_by == ""
    (folder / "7").symlink_to(file)
    assert probe_tpu_software({}, tmp_path, {}).held_by == "a library (it holds the chip's device file)"
    modules = {"tensorflow": ModuleType("tensorflow")}
    assert probe_tpu_software({}, tmp_path, modules).held_by.startswith("tensorflow")


@pytest.mark.parametrize(
    ("environ", "device", "devices"),
    [
        ({}, "", 1),
        ({"PJRT_DEVICE": "TPU"}, "TPU", 1),
        ({"PJRT_DEVICE": "cpu", "CPU_NUM_DEVICES": "8"}, "CPU", 8),
        ({"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "many"}, "CPU", 1),
        ({"PJRT_DEVICE": "NEURON_X"}, "NEURON", 1),
    ],
)
def test_what_the_environment_asks_torch_xla_for(
    tmp_path: Path, environ: dict[str, str], device: str, devices: int
) -> None:
    found = probe_tpu_software(environ, tmp_path, {})
    assert (found.pjrt_device, found.host_devices) == (device, devices)


def test_libtpu_may_be_named_by_a_variable(tmp_path: Path) -> None:
    assert probe_tpu_software({"TPU_LIBRARY_PATH": "/a/libtpu.so"}, tmp_path, {}).has_libtpu
