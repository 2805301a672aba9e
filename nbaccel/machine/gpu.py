"""CUDA GPUs, counted by NVML or by the driver's files: neither makes a CUDA context, so forking stays safe."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbaccel.machine.machine import Gpu

_DRIVER_SIGNS = ("dev/nvidiactl", "dev/dxg", "proc/driver/nvidia")
"""Without any of these (dxg: Windows' subsystem for Linux) there is no driver, and importing pynvml is time lost."""


@dataclass(frozen=True)
class Card:
    """One GPU of the machine, visible to this process or not.

    Attributes:
        uuid: `GPU-...`, empty when the driver hides it.
        name: product name, empty when unknown.
        memory_bytes: size of its memory, 0 when unknown.
    """

    uuid: str = ""
    name: str = ""
    memory_bytes: int = 0


def probe_gpus(environ: Mapping[str, str], root: Path) -> tuple[Gpu, ...]:
    """GPUs that CUDA would show to this process; `root` holds `proc` and `dev`."""
    return visible_gpus(find_cards(root), environ) if driver_sign(root) else ()


def driver_sign(root: Path) -> str:
    """The first path that shows NVIDIA's driver to this process, empty if there is none."""
    return next((sign for sign in _DRIVER_SIGNS if (root / sign).exists()), "")


def find_cards(root: Path) -> Sequence[Card]:
    """All GPUs of a machine with a driver, by NVML or else by the driver's files."""
    cards = _cards_of_installed_nvml()
    return cards_of_files(root) if cards is None else cards


@functools.cache  # waking NVML may take long, and a launch waits for it
def _cards_of_installed_nvml() -> Sequence[Card] | None:
    try:
        import pynvml
    except ImportError:
        return None
    return cards_of_nvml(pynvml)


def cards_of_nvml(nvml: Any) -> Sequence[Card] | None:
    """All GPUs by NVML, in PCI order; None when it does not answer. `nvml` is the module pynvml."""
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return None
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        return [_card_of(nvml, handle) for handle in handles]
    except nvml.NVMLError:
        return None
    finally:
        nvml.nvmlShutdown()


def _card_of(nvml: Any, handle: object) -> Card:
    uuid, name = _text(nvml.nvmlDeviceGetUUID(handle)), _text(nvml.nvmlDeviceGetName(handle))
    try:
        memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    except nvml.NVMLError:  # chips that share the main memory have none of their own
        memory = 0
    return Card(uuid, name, memory)


def _text(answer: str | bytes) -> str:
    return answer.decode() if isinstance(answer, bytes) else answer


def cards_of_files(root: Path) -> Sequence[Card]:
    """GPUs by the driver's files, in PCI order: those whose device file this process can see."""
    cards = []
    files = sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    if not files:  # a sandbox that hands on the devices alone
        return [Card() for _ in root.glob("dev/nvidia[0-9]*")]
    for file in files:
        entries = dict(re.findall(r"^([^:\n]+):[ \t]*(.*?)[ \t]*$", file.read_text(), re.MULTILINE))
        if (root / f"dev/nvidia{entries.get('Device Minor', '')}").exists():
            uuid = entries.get("GPU UUID", "")
            cards.append(Card("" if "?" in uuid else uuid, entries.get("Model", "")))
    return cards


def visible_gpus(
    cards: Sequence[Card], environ: Mapping[str, str], variable: str = "CUDA_VISIBLE_DEVICES"
) -> tuple[Gpu, ...]:
    """The GPUs that a variable leaves, in its order, by CUDA's rules.

    The list ends at the first entry that names no GPU or is of another kind than the first (index, UUID, MIG slice);
    a GPU that is named twice leaves none.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/index.html#env-vars
    """
    if not cards:
        return ()
    written = environ.get(variable)
    entries = [str(index) for index in range(len(cards))] if written is None else written.split(",")
    found = list(_look_up([entry.strip() for entry in entries], cards, _order_is_known(cards, environ)))
    if len({visible_id for visible_id, _ in found}) < len(found):
        return ()
    return tuple(Gpu(index, name, card.name, card.memory_bytes) for index, (name, card) in enumerate(found))


def _look_up(entries: Sequence[str], cards: Sequence[Card], order_is_known: bool) -> Iterator[tuple[str, Card]]:
    numbered = cards if order_is_known else [Card()] * len(cards)
    kind = _kind_of(entries[0])
    for entry in itertools.takewhile(lambda entry: _kind_of(entry) == kind, entries):
        one = _by_uuid(entry, cards) if kind else _by_index(entry, numbered)
        if one is None:
            return
        yield one


def _kind_of(entry: str) -> str:
    return entry[:4] if entry.startswith(("GPU-", "MIG-")) else ""


def _order_is_known(cards: Sequence[Card], environ: Mapping[str, str]) -> bool:
    """Whether CUDA numbers the cards as they are listed: unless told, it puts the fastest first, whichever that is."""
    return environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({card.name for card in cards}) <= 1


def _by_index(entry: str, cards: Sequence[Card]) -> tuple[str, Card] | None:
    number = re.match(r"\+?(\d+)", entry)  # CUDA reads the digits that an entry starts with
    index = int(number[1]) if number else len(cards)
    return (str(index), cards[index]) if index < len(cards) else None


def _by_uuid(entry: str, cards: Sequence[Card]) -> tuple[str, Card] | None:
    """The one GPU whose UUID starts with `entry`; what cannot be looked up here (slices, hidden UUIDs) is believed."""
    if entry.startswith("MIG-") or not all(card.uuid for card in cards):
        return entry, Card()
    fitting = [card for card in cards if card.uuid.startswith(entry)]
    return (fitting[0].uuid, fitting[0]) if len(fitting) == 1 else None
