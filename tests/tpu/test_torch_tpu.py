"""What nbaccel assumes of torch_tpu, asked of the real package; no chip is touched.

Everything runs in processes of its own: the package changes torch, and its import leaves threads behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

HEAD = "import json, os, sys, warnings\nwarnings.simplefilter('ignore')\n"


def answer(code: str, **environ: str) -> Any:
    """What the last line of a program says, as JSON."""
    done = subprocess.run(
        [sys.executable, "-c", HEAD + code], capture_output=True, text=True, timeout=110, env={**os.environ, **environ}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("kind", "count"), [("v4", 4), ("v5p", 4), ("v5e", 1), ("v5e", 8), ("v6e", 8), ("v7x", 8)])
def test_our_variables_leave_its_own_launch_call_nothing_to_do(kind: str, count: int) -> None:
    code = f"""
from nbaccel.plan.chips import Chips, Meeting, shared_environ
import torch_tpu
from torch_tpu._internal.distributed import distributed
from torch_tpu._internal.utils import hardware
ids = {{"v4": "0x005e", "v5p": "0x0062", "v5e": "0x0063", "v6e": "0x006f", "v7x": "0x0076"}}
wired = hardware._TOPOLOGY_BY_TPU_PCI_DEVICE_ID[ids["{kind}"]]
hardware._scan_pci_tpus = lambda: ({count}, wired)  # in place of the PCI bus
os.environ |= shared_environ("tpu", Chips("{kind}", {count}), Meeting(range(9001, 9001 + {count}), "17"))
before = dict(os.environ)
distributed.set_tpu_launch_env(nproc_per_node={count})
print(json.dumps({{name: value for name, value in os.environ.items() if before.get(name) != value}}))
"""
    assert answer(code) == {}


def test_without_ours_it_sets_just_those_variables() -> None:
    code = """
import torch_tpu
from torch_tpu._internal.distributed import distributed
from torch_tpu._internal.utils import hardware
hardware._scan_pci_tpus = lambda: (4, hardware._V5E_TOPOLOGY)
before = dict(os.environ)
distributed.set_tpu_launch_env(nproc_per_node=4)
print(json.dumps(sorted(name for name, value in os.environ.items() if before.get(name) != value)))
"""
    set_by_it = ["TORCH_TPU_SLICEBUILDER_ADDRESSES", "TORCH_TPU_TOPOLOGY", "TORCH_TPU_XPROF_SESSION_ID"]
    assert answer(code) == set_by_it


def test_the_names_of_its_device_and_of_its_process_group() -> None:
    code = """
import torch, torch_tpu
from torch_tpu import _loader
_loader._init_device("tpu")  # what its import does where there is a chip
backends = torch.distributed.Backend
print(json.dumps([
    str(torch.device("tpu")), "tpu_dist" in backends.backend_list, backends.default_device_backend_map["tpu"],
    torch.tpu.is_initialized(), callable(_loader.load),
]))
"""
    assert answer(code) == ["tpu", True, "tpu_dist", False, True]


def test_its_import_opens_no_chip() -> None:
    code = """
from pathlib import Path
import torch, torch_tpu
from nbaccel.machine.tpu_software import probe_tpu_software
found = probe_tpu_software(os.environ, Path("/"), sys.modules)
print(json.dumps([found.held_by, bool(found.torch_tpu), found.has_libtpu]))
"""
    assert answer(code) == ["", True, True]


def test_a_zygote_does_not_load_it() -> None:
    """Else its threads would be running when workers are forked."""
    code = """
import time
from nbaccel import notebook_launcher
from nbaccel.launch.zygote import shared
shared().import_ahead(("torch",))
def loaded():
    import sys
    import torch
    return "torch_tpu" in sys.modules
for _ in range(60):  # until the zygote has imported torch while idle, each worker does so itself
    found = notebook_launcher(loaded, num_processes=1, use_cpu=True)
    if not found:
        break
    time.sleep(0.5)
print(json.dumps(found))
"""
    assert answer(code) is False
