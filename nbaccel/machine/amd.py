"""AMD GPUs, counted by the kernel driver's files: ROCm is not woken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nbaccel.machine.gpu import Card, visible_gpus
from nbaccel.machine.machine import Gpu


def amd_gpus(environ: Mapping[str, str], root: Path) -> tuple[Gpu, ...]:
    """GPUs that ROCm would show to this process; `root` holds `sys` and `dev`.

    ROCR_VISIBLE_DEVICES chooses among all; among these HIP_VISIBLE_DEVICES, or else CUDA_VISIBLE_DEVICES.
    https://rocm.docs.amd.com/en/latest/conceptual/gpu-isolation.html
    """
    cards = [Card()] * len(visible_gpus(cards_of_kfd(root), environ, "ROCR_VISIBLE_DEVICES"))
    name = "HIP_VISIBLE_DEVICES" if "HIP_VISIBLE_DEVICES" in environ else "CUDA_VISIBLE_DEVICES"
    return visible_gpus(cards, environ, name)


def cards_of_kfd(root: Path) -> Sequence[Card]:
    """GPUs by the topology that the driver shows, in its order: those whose device file this process can see."""
    if not (root / "dev/kfd").exists():
        return ()
    nodes = sorted(root.glob("sys/class/kfd/kfd/topology/nodes/*"), key=lambda node: int(node.name))
    return [Card() for node in nodes if _is_visible_gpu(node, root)]


def _is_visible_gpu(node: Path, root: Path) -> bool:
    try:
        lines = (node / "properties").read_text().splitlines()
    except OSError:  # not given to this container
        return False
    entries = dict(line.split(maxsplit=1) for line in lines if " " in line.strip())
    is_gpu = entries.get("simd_count", "0") != "0"  # a node of CPU cores has none
    return is_gpu and (root / f"dev/dri/renderD{entries.get('drm_render_minor', '')}").exists()
