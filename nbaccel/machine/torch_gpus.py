"""The GPUs that the installed torch can use, found without importing it."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nbaccel.machine.amd import amd_gpus
from nbaccel.machine.gpu import driver_sign, find_cards, visible_gpus
from nbaccel.machine.machine import Gpu, Obstacle


@dataclass(frozen=True)
class TorchBuild:
    """What the installed torch is made for.

    Attributes:
        version: torch's version.
        cuda: the CUDA version, empty without CUDA.
        hip: the ROCm version, empty without ROCm.
    """

    version: str = ""
    cuda: str = ""
    hip: str = ""


def installed_torch() -> TorchBuild | None:
    """By torch's own file of versions: importing torch takes seconds. None where there is no torch, or no such word."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):  # a module of that name that was put into sys.modules by hand
        return None
    file = Path(spec.origin).with_name("version.py") if spec is not None and spec.origin else None
    return build_of(file.read_text()) if file is not None and file.is_file() else None


def build_of(text: str) -> TorchBuild | None:
    """The build that torch's file of versions tells of; None if it says nothing of CUDA."""
    said = dict(re.findall(r"^(__version__|cuda|hip)\b[^=\n]*=\s*(\S+)", text, re.MULTILINE))
    words = {name: "" if word == "None" else word.strip("'\"") for name, word in said.items()}
    return TorchBuild(words.get("__version__", ""), words["cuda"], words.get("hip", "")) if "cuda" in words else None


def usable_gpus(
    environ: Mapping[str, str], root: Path, build: Callable[[], TorchBuild | None] = installed_torch
) -> tuple[tuple[Gpu, ...], Obstacle | None]:
    """GPUs that torch would show to this process, and what stands in the way of those that it would not.

    Args:
        environ: the environment to read.
        root: folder that holds `proc`, `sys`, `dev` and `usr`.
        build: tells what torch is made for; one that does not know it is believed to be made for the GPUs.
    """
    if (root / "dev/kfd").exists() and (torch := build()) is not None and torch.hip:
        return amd_gpus(environ, root), None
    sign = driver_sign(root)
    cards = find_cards(root) if sign else ()
    if not cards:
        return (), _without_cards(sign, root)
    gpus = visible_gpus(cards, environ)
    torch = build() if gpus else None
    if torch is not None and not torch.cuda:
        return (), _without_cuda(torch, len(gpus))
    return gpus, None


def _without_cuda(torch: TorchBuild, count: int) -> Obstacle:
    here = "there is a CUDA GPU" if count == 1 else f"there are {count} CUDA GPUs"
    return Obstacle(
        f"torch {torch.version} is made without CUDA, and {here}.",
        "Install torch with CUDA: https://pytorch.org/get-started/locally, or set use_cpu.",
    )


def _without_cards(sign: str, root: Path) -> Obstacle | None:
    """Only what a process needs to compute is a sign that a GPU was meant to be here."""
    is_meant = (root / "usr/lib/wsl/lib/libcuda.so.1").exists() if sign == "dev/dxg" else sign == "dev/nvidiactl"
    if not is_meant:
        return None
    return Obstacle(
        f"NVIDIA's driver is here (/{sign}), but no GPU was found.",
        "See whether nvidia-smi lists one; nbaccel asks the package nvidia-ml-py (pip install nvidia-ml-py).",
    )
