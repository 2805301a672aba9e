"""The probe, fed from made-up /proc, /sys and /dev trees, and once from this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest

from nbaccel.errors import ConfigError
from nbaccel.machine import Gpu, Machine, probe
from nbaccel.machine.amd import amd_gpus
from nbaccel.machine.cpu import cpu_quota, memory_bytes, physical_cores, usable_cores
from nbaccel.machine.gpu import Card, cards_of_files, cards_of_nvml, probe_gpus, visible_gpus
from nbaccel.machine.platform import PLATFORMS, detect_platform
from nbaccel.machine.probe import has_mps
from nbaccel.machine.torch_gpus import TorchBuild, build_of, installed_torch, usable_gpus
from nbaccel.machine.tpu import count_chips


def grow(root: Path, files: Mapping[str, str]) -> Path:
    """Write a tree of small files, as /proc and /sys have them."""
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


# --- platform ---------------------------------------------------------------------------------------------------------

KERNEL = "ipykernel.zmqshell"
COLAB_SHELL = "google.colab._shell"
TERMINAL = "IPython.terminal.interactiveshell"

PLATFORM_ROWS: list[tuple[str, dict[str, str], set[str], str, set[str]]] = [
    ("kaggle", {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, {"/kaggle/working"}, KERNEL, set()),
    ("kaggle", {"ISTPUVM": "1", "TPU_PROCESS_ADDRESSES": "local"}, {"/kaggle/working"}, KERNEL, set()),
    # Kaggle's image is made from Colab's
    ("kaggle", {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "COLAB_RELEASE_TAG": "r"}, {"/kaggle/working"}, KERNEL, set()),
    # names that leak elsewhere, and that anybody with an account has
    ("colab", {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, set(), COLAB_SHELL, set()),
    ("terminal", {"KAGGLE_USERNAME": "me", "KAGGLE_KEY": "k"}, set(), "", set()),
    ("terminal", {}, {"/kaggle/working"}, "", set()),
    ("colab", {}, set(), COLAB_SHELL, set()),
    ("colab", {"COLAB_RELEASE_TAG": "release-colab"}, set(), "", set()),
    ("colab", {"VERTEX_PRODUCT": "COLAB_ENTERPRISE"}, set(), KERNEL, set()),
    ("databricks", {"DATABRICKS_RUNTIME_VERSION": "17.0"}, set(), KERNEL, set()),
    ("sagemaker", {"SAGEMAKER_APP_TYPE_LOWERCASE": "jupyterlab"}, set(), KERNEL, set()),
    ("sagemaker", {}, {"/opt/ml/metadata/resource-metadata.json"}, KERNEL, set()),
    ("binder", {"BINDER_LAUNCH_HOST": "https://mybinder.org/", "JUPYTERHUB_USER": "x"}, set(), KERNEL, set()),
    ("binder", {"BINDER_REPO_URL": "https://github.com/a/b"}, set(), KERNEL, set()),
    ("jupyterhub", {"JUPYTERHUB_USER": "x"}, set(), KERNEL, set()),
    ("jupyterhub", {"JUPYTERHUB_SERVICE_PREFIX": "/user/x/", "JPY_PARENT_PID": "1"}, set(), KERNEL, set()),
    ("vscode", {}, set(), KERNEL, {"__vsc_ipynb_file__"}),
    ("vscode", {"VSCODE_PID": "7"}, set(), KERNEL, set()),
    ("jupyter", {"VSCODE_CWD": "/home", "JPY_SESSION_NAME": "/a.ipynb"}, set(), KERNEL, set()),
    ("terminal", {"VSCODE_PID": "7"}, set(), "", set()),
    ("jupyter", {}, set(), KERNEL, set()),
    ("jupyter", {"JPY_SESSION_NAME": "/a.ipynb"}, set(), "", set()),
    ("terminal", {"JPY_PARENT_PID": "1"}, set(), TERMINAL, set()),
    ("terminal", {}, set(), TERMINAL, set()),
    ("terminal", {}, set(), "", set()),
    ("terminal", {"JUPYTERHUB_USER": ""}, set(), "", set()),
    ("binder", {"NBACCEL_PLATFORM": " Binder "}, {"/kaggle/working"}, COLAB_SHELL, set()),
]


@pytest.mark.parametrize(("platform", "environ", "paths", "shell", "names"), PLATFORM_ROWS)
def test_platform(platform: str, environ: dict[str, str], paths: set[str], shell: str, names: set[str]) -> None:
    assert detect_platform(environ, paths.__contains__, shell, names) == platform


def test_every_platform_has_a_row() -> None:
    assert {row[0] for row in PLATFORM_ROWS} == set(PLATFORMS)


def test_unknown_platform_is_named_with_its_neighbour() -> None:
    with pytest.raises(ConfigError, match=r"'kagle' \(from the variable NBACCEL_PLATFORM\).*Did you mean 'kaggle'"):
        probe(environ={"NBACCEL_PLATFORM": "kagle"})


def test_shell_is_looked_at_without_importing_ipython() -> None:
    shell = type("Shell", (), {"__module__": KERNEL})()
    shell.user_ns = {"__vsc_ipynb_file__": "a.ipynb"}
    assert probe(shell, environ={}).platform == "vscode"
    del shell.user_ns
    assert probe(shell, environ={}).platform == "jupyter"


# --- cores and memory -------------------------------------------------------------------------------------------------

CGROUP = "sys/fs/cgroup"


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/"}, None),
        ({"proc/self/cgroup": "0::/", f"{CGROUP}/cpu.max": "250000 100000"}, 2.5),
        ({"proc/self/cgroup": "0::/", f"{CGROUP}/cpu.max": "max 100000"}, None),
        # the tightest ancestor counts
        (
            {
                "proc/self/cgroup": "0::/pod/box",
                f"{CGROUP}/cpu.max": "max 100000",
                f"{CGROUP}/pod/cpu.max": "150000 50000",
                f"{CGROUP}/pod/box/cpu.max": "400000 100000",
            },
            3.0,
        ),
        # a path of the host, seen from inside a container
        ({"proc/self/cgroup": "0::/docker/abc", f"{CGROUP}/cpu.max": "100000 100000"}, 1.0),
        ({"proc/self/cgroup": "0::/../../elsewhere", f"{CGROUP}/cpu.max": "100000 100000"}, 1.0),
        # version 1
        (
            {
                "proc/self/cgroup": "9:name=systemd:/\n4:cpu,cpuacct:/box\n3:cpuset:/\n0::/",
                f"{CGROUP}/cpu/box/cpu.cfs_quota_us": "50000",
                f"{CGROUP}/cpu/box/cpu.cfs_period_us": "100000",
                f"{CGROUP}/cpu/cpu.cfs_quota_us": "-1",
                f"{CGROUP}/cpu/cpu.cfs_period_us": "100000",
            },
            0.5,
        ),
        ({"proc/self/cgroup": "1:cpu:/", f"{CGROUP}/cpu/cpu.cfs_quota_us": "-1"}, None),
    ],
)
def test_cpu_quota(tmp_path: Path, files: dict[str, str], quota: float | None) -> None:
    assert cpu_quota(grow(tmp_path, files)) == quota


@pytest.mark.parametrize(
    ("limit", "cores"), [("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("6400000 100000", 8)]
)
def test_usable_cores(tmp_path: Path, limit: str, cores: int) -> None:
    root = grow(tmp_path, {"proc/self/cgroup": "0::/", f"{CGROUP}/cpu.max": limit})
    assert usable_cores(root, range(8)) == cores


@pytest.mark.parametrize("name", ["core_cpus_list", "thread_siblings_list"])
def test_hyperthreads_count_once(tmp_path: Path, name: str) -> None:
    files = {f"sys/devices/system/cpu/cpu{n}/topology/{name}": f"{n % 4},{n % 4 + 4}" for n in range(8)}
    root = grow(tmp_path, files)
    assert physical_cores(root, range(8)) == 4
    assert physical_cores(root, {1, 5}) == 1
    assert physical_cores(root, {1, 6}) == 2


def test_without_a_topology_psutil_answers(tmp_path: Path) -> None:
    assert 1 <= physical_cores(tmp_path, range(2)) <= 2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8 * 2**20),
        ({"proc/self/cgroup": "0::/a", f"{CGROUP}/a/memory.max": "1048576", f"{CGROUP}/memory.max": "max"}, 2**20),
        ({"proc/self/cgroup": "0::/a", f"{CGROUP}/a/memory.max": "2097152", f"{CGROUP}/memory.max": "1048576"}, 2**20),
        ({"proc/self/cgroup": "4:memory:/a", f"{CGROUP}/memory/a/memory.limit_in_bytes": "1048576"}, 2**20),
        ({"proc/self/cgroup": "4:memory:/", f"{CGROUP}/memory/memory.limit_in_bytes": str(2**63 - 4096)}, 8 * 2**20),
    ],
)
def test_memory(tmp_path: Path, files: dict[str, str], expected: int) -> None:
    root = grow(tmp_path, {"proc/meminfo": "MemTotal:        8192 kB\nMemFree:  1 kB", **files})
    assert memory_bytes(root) == expected


def test_without_meminfo_psutil_answers(tmp_path: Path) -> None:
    assert memory_bytes(tmp_path) > 2**20


# --- GPUs -------------------------------------------------------------------------------------------------------------

CARDS = [Card("GPU-aa11", "H200", 141), Card("GPU-aa22", "H200", 141), Card("GPU-bb33", "H200", 141)]


@pytest.mark.parametrize(
    ("written", "visible"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("none", []),
        ("2,0", ["2", "0"]),
        (" 1 , 2 ", ["1", "2"]),
        ("1,-1,2", ["1"]),
        ("0,7,1", ["0"]),
        ("1,,2", ["1"]),
        ("1gpu,2", ["1", "2"]),
        ("1,1", []),
        ("GPU-bb33,GPU-aa11", ["GPU-bb33", "GPU-aa11"]),
        ("GPU-b,GPU-aa2", ["GPU-bb33", "GPU-aa22"]),
        ("GPU-aa", []),  # fits two
        ("GPU-bb33,GPU-cc,GPU-aa11", ["GPU-bb33"]),
        ("GPU-b,GPU-bb", []),  # the same one twice
        ("GPU-bb33,0", ["GPU-bb33"]),
        ("0,GPU-bb33", ["0"]),
        ("MIG-1234,MIG-5678", ["MIG-1234", "MIG-5678"]),
        ("MIG-GPU-aa11/1/0,0", ["MIG-GPU-aa11/1/0"]),
    ],
)
def test_cuda_visible_devices(written: str | None, visible: list[str]) -> None:
    environ = {} if written is None else {"CUDA_VISIBLE_DEVICES": written}
    gpus = visible_gpus(CARDS, environ)
    assert [gpu.visible_id for gpu in gpus] == visible
    assert [gpu.index for gpu in gpus] == list(range(len(visible)))
    assert all(gpu.name == ("" if gpu.visible_id.startswith("MIG-") else "H200") for gpu in gpus)


def test_no_card_means_no_gpu_whatever_the_variable_says() -> None:
    assert visible_gpus([], {}) == ()
    assert visible_gpus([], {"CUDA_VISIBLE_DEVICES": "MIG-1234"}) == ()


def test_cards_of_two_kinds_are_named_only_when_cudas_order_is_known() -> None:
    cards = [Card("GPU-1", "T4", 16), Card("GPU-2", "A100", 80)]
    assert visible_gpus(cards, {}) == (Gpu(0, "0"), Gpu(1, "1"))  # CUDA's first is the A100
    assert [gpu.name for gpu in visible_gpus(cards, {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})] == ["T4", "A100"]
    assert visible_gpus(cards, {"CUDA_VISIBLE_DEVICES": "GPU-2"}) == (Gpu(0, "GPU-2", "A100", 80),)


def information(minor: int, uuid: str) -> str:
    head = f"Model: \t\t NVIDIA H200\nIRQ:   \t\t 42\nGPU UUID: \t {uuid}\n"
    return f"{head}Bus Location: \t 0000:1b:00.0\nDevice Minor: \t {minor}"


def test_cards_by_the_drivers_files(tmp_path: Path) -> None:
    gpus = "proc/driver/nvidia/gpus"
    root = grow(
        tmp_path,
        {
            f"{gpus}/0000:1b:00.0/information": information(1, "GPU-1b"),
            f"{gpus}/0000:0a:00.0/information": information(0, "GPU-????????"),
            f"{gpus}/0000:2c:00.0/information": information(2, "GPU-2c"),  # not given to this container
            f"{gpus}/0000:3d:00.0/information": "Model: \t\t unreadable",
            "dev/nvidia0": "",
            "dev/nvidia1": "",
        },
    )
    cards = cards_of_files(root)
    assert cards == [Card("", "NVIDIA H200"), Card("GPU-1b", "NVIDIA H200")]
    # a hidden UUID cannot be looked up: what the user wrote is believed
    assert visible_gpus(cards, {"CUDA_VISIBLE_DEVICES": "GPU-77"}) == (Gpu(0, "GPU-77"),)


def test_a_machine_without_a_driver_has_no_gpus(tmp_path: Path) -> None:
    assert probe_gpus({}, tmp_path) == ()


class NvmlError(Exception):
    pass


def nvml_that_fails_in(broken_call: str = "") -> SimpleNamespace:
    """NVML of a machine with two cards, the second without memory of its own; `users` counts who still needs it."""

    def may_fail(call: str) -> None:
        if call == broken_call:
            raise NvmlError(call)

    def init() -> None:
        may_fail("init")
        nvml.users += 1

    def shutdown() -> None:
        nvml.users -= 1

    def handle_of(index: int) -> int:
        may_fail("handle")
        return index

    def memory_of(handle: int) -> SimpleNamespace:
        if handle == 1:
            raise NvmlError("not supported")
        return SimpleNamespace(total=96)

    nvml = SimpleNamespace(
        users=0,
        NVMLError=NvmlError,
        nvmlInit=init,
        nvmlShutdown=shutdown,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=handle_of,
        nvmlDeviceGetUUID=lambda handle: f"GPU-{handle}".encode(),  # bytes, as older versions answer
        nvmlDeviceGetName=lambda handle: "NVIDIA GB10",
        nvmlDeviceGetMemoryInfo=memory_of,
    )
    return nvml


def test_cards_by_nvml() -> None:
    nvml = nvml_that_fails_in()
    assert cards_of_nvml(nvml) == [Card("GPU-0", "NVIDIA GB10", 96), Card("GPU-1", "NVIDIA GB10", 0)]
    assert nvml.users == 0


@pytest.mark.parametrize("call", ["init", "handle"])
def test_nvml_that_does_not_answer(call: str) -> None:
    nvml = nvml_that_fails_in(call)
    assert cards_of_nvml(nvml) is None
    assert nvml.users == 0


def test_a_sandbox_that_hands_on_the_devices_alone(tmp_path: Path) -> None:
    root = grow(tmp_path, dict.fromkeys(("dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm"), ""))
    assert cards_of_files(root) == [Card(), Card()]


KFD = "sys/class/kfd/kfd/topology/nodes"
AMD = {
    "dev/kfd": "",
    f"{KFD}/0/properties": "cpu_cores_count 64\nsimd_count 0\ndrm_render_minor 0",
    f"{KFD}/2/properties": "cpu_cores_count 0\nsimd_count 416\ndrm_render_minor 128",
    f"{KFD}/10/properties": "cpu_cores_count 0\nsimd_count 416\ndrm_render_minor 129",
    f"{KFD}/11/properties": "simd_count 416\ndrm_render_minor 130",  # not given to this container
    "dev/dri/renderD128": "",
    "dev/dri/renderD129": "",
}


@pytest.mark.parametrize(
    ("environ", "visible"),
    [
        ({}, ["0", "1"]),
        ({"CUDA_VISIBLE_DEVICES": "1"}, ["1"]),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, ["0"]),
        ({"ROCR_VISIBLE_DEVICES": "1"}, ["0"]),
        ({"ROCR_VISIBLE_DEVICES": "1,0", "HIP_VISIBLE_DEVICES": "1"}, ["1"]),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}, []),
    ],
)
def test_amd_gpus(tmp_path: Path, environ: dict[str, str], visible: list[str]) -> None:
    gpus = amd_gpus(environ, grow(tmp_path, AMD))
    assert [gpu.visible_id for gpu in gpus] == visible
    assert [gpu.index for gpu in gpus] == list(range(len(visible)))


def test_amd_gpus_that_a_process_may_not_ask(tmp_path: Path) -> None:
    root = grow(tmp_path, {**AMD, f"{KFD}/12/name": "no properties"})
    assert len(amd_gpus({}, root)) == 2
    (root / "dev/kfd").unlink()
    assert amd_gpus({}, root) == ()


FOR_CUDA, FOR_CPU, FOR_ROCM = TorchBuild("2.8.0", "12.8"), TorchBuild("2.8.0+cpu"), TorchBuild("2.8.0", hip="6.4")
TWO_GPUS = {
    f"proc/driver/nvidia/gpus/0000:0{n}:00.0/information": information(n, f"GPU-{n}") for n in range(2)
} | {"dev/nvidia0": "", "dev/nvidia1": "", "dev/nvidiactl": ""}  # fmt: skip


@pytest.mark.parametrize(
    ("files", "build", "gpus", "obstacle"),
    [
        ({}, FOR_CUDA, 0, ""),
        (TWO_GPUS, FOR_CUDA, 2, ""),
        (TWO_GPUS, None, 2, ""),
        (TWO_GPUS, FOR_CPU, 0, "torch 2.8.0+cpu is made without CUDA, and there are 2 CUDA GPUs."),
        (TWO_GPUS, FOR_ROCM, 0, "torch 2.8.0 is made without CUDA, and there are 2 CUDA GPUs."),
        ({"dev/nvidia0": "", "dev/nvidiactl": ""}, FOR_CPU, 0, "torch 2.8.0+cpu is made without CUDA, and there is a"),
        (AMD, FOR_ROCM, 2, ""),
        (AMD, FOR_CUDA, 0, ""),
        ({"dev/nvidiactl": ""}, FOR_CUDA, 0, "NVIDIA's driver is here (/dev/nvidiactl), but no GPU was found."),
        ({"dev/dxg": ""}, FOR_CUDA, 0, ""),  # Windows' subsystem with a GPU of another maker
        ({"dev/dxg": "", "usr/lib/wsl/lib/libcuda.so.1": ""}, FOR_CUDA, 0, "NVIDIA's driver is here (/dev/dxg), but"),
        ({"proc/driver/nvidia/version": ""}, FOR_CUDA, 0, ""),  # a container without GPUs
    ],
)
def test_gpus_that_torch_can_use(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: Mapping[str, str],
    build: TorchBuild | None,
    gpus: int,
    obstacle: str,
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found, in_the_way = usable_gpus({}, grow(tmp_path, files), lambda: build)
    assert len(found) == gpus
    assert (in_the_way is not None) == bool(obstacle)
    if in_the_way is not None:
        assert in_the_way.text.startswith(obstacle)
        assert in_the_way.remedy


def test_gpus_that_somebody_hides_are_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    root = grow(tmp_path, TWO_GPUS)
    assert usable_gpus({"CUDA_VISIBLE_DEVICES": ""}, root, lambda: FOR_CPU) == ((), None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("__version__ = '2.8.0'\ncuda: Optional[str] = '12.8'\nhip: Optional[str] = None", ("2.8.0", "12.8")),
        ('__version__ = "2.4.0"\ncuda = None\nhip = "6.1.40093"\n', ("2.4.0", "", "6.1.40093")),
        ("__all__ = ['cuda']\ndebug = False\ncuda: Optional[str] = None\n", ("",)),
        ("__version__ = '2.8.0'\n", None),
    ],
)
def test_what_torch_is_made_for(text: str, expected: tuple[str, ...] | None) -> None:
    assert build_of(text) == (None if expected is None else TorchBuild(*expected))


def test_the_installed_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import torch; print(repr((torch.__version__, torch.version.cuda or '', torch.version.hip or '')))"
    told = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True).stdout
    found = installed_torch()
    assert found is not None
    assert repr((found.version, found.cuda, found.hip)) == told.strip()
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__spec__=None))
    assert installed_torch() is None


# --- TPUs and Macs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vendor", "device", "subsystem", "expected"),
    [
        ("0x1ae0", "0x0027", "0x004e", ("v2", 4)),
        ("0x1ae0", "0x0027", "0x004f", ("v3", 4)),
        ("0x1ae0", "0x005e", "0x0000", ("v4", 4)),
        ("0x1ae0", "0x0062", "0x0000", ("v5p", 4)),
        ("0x1ae0", "0x0063", "0x0000", ("v5e", 4)),
        ("0x1ae0", "0x006F", "0x0000", ("v6e", 4)),
        ("0x1ae0", "0x0076", "0x0000", ("v7x", 4)),
        ("0x1ae0", "0x0042", "0x0000", ("", 0)),  # a network card of the same vendor
        ("0x8086", "0x0063", "0x0000", ("", 0)),
    ],
)
def test_tpu_chips(tmp_path: Path, vendor: str, device: str, subsystem: str, expected: tuple[str, int]) -> None:
    for number in range(4):
        files = {"vendor": vendor, "device": device, "subsystem_device": subsystem}
        grow(tmp_path / f"sys/bus/pci/devices/0000:00:0{number}.0", files)
    grow(tmp_path, {"sys/bus/pci/devices/0000:00:09.0/vendor": "0x1ae0"})
    assert count_chips(tmp_path) == expected


@pytest.mark.parametrize(
    ("system", "architecture", "expected"),
    [("darwin", "arm64", True), ("darwin", "x86_64", False), ("linux", "aarch64", False)],
)
def test_mps(system: str, architecture: str, expected: bool) -> None:
    assert has_mps(system, architecture) is expected


# --- the whole --------------------------------------------------------------------------------------------------------


def test_probe_of_a_made_up_machine(tmp_path: Path) -> None:
    gpu = "proc/driver/nvidia/gpus/0000:0a:00.0/information"
    pci = "sys/bus/pci/devices/0000:00:05.0"
    root = grow(
        tmp_path,
        {
            "proc/self/cgroup": "0::/",
            f"{CGROUP}/cpu.max": "100000 100000",
            "proc/meminfo": "MemTotal: 4096 kB",
            gpu: information(0, "GPU-0a"),
            "kaggle/working/x": "",
            f"{pci}/vendor": "0x1ae0",
            f"{pci}/device": "0x0063",
        },
    )
    machine = probe(environ={"KAGGLE_KERNEL_RUN_TYPE": "Batch", "CUDA_VISIBLE_DEVICES": ""}, root=root)
    expected = Machine("kaggle", 1, 1, 4 * 2**20, tpu_kind="v5e", tpu_chips=1, has_mps=machine.has_mps)
    assert machine == expected


def test_probe_of_this_machine() -> None:
    before = dict(os.environ)
    machine = probe()
    assert 1 <= machine.physical_cores <= machine.usable_cores <= (os.cpu_count() or 1)
    assert machine.memory_bytes > 2**28
    assert machine.platform in PLATFORMS
    assert dict(os.environ) == before


def test_importing_and_probing_are_light() -> None:
    code = (
        "import sys, nbaccel.machine as machine\n"
        "found = machine.probe(environ={})\n"
        "meets_gpus = found.gpus or found.gpu_obstacle\n"
        "heavy = {'torch', 'IPython', 'pydantic', 'numpy'} | (set() if meets_gpus else {'pynvml'})\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
