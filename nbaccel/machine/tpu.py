"""TPU chips, counted by their PCI ids: no runtime is asked, because only one process may own a chip."""

from __future__ import annotations

from pathlib import Path

_GOOGLE = "0x1ae0"
_V2_OR_V3 = "0x0027"
_V2_SUBSYSTEM = "0x004e"
_KINDS = {
    _V2_OR_V3: "v3",
    "0x005e": "v4",
    "0x0062": "v5p",
    "0x0063": "v5e",
    "0x006f": "v6e",
    "0x0076": "v7x",
}


def count_chips(root: Path) -> tuple[str, int]:
    """Kind and number of the TPU chips of this machine, `("", 0)` without any; `root` holds `sys`."""
    kinds = [kind for folder in sorted(root.glob("sys/bus/pci/devices/*")) if (kind := _kind_of(folder))]
    return (kinds[0], len(kinds)) if kinds else ("", 0)


def _kind_of(folder: Path) -> str:
    if _read_id(folder / "vendor") != _GOOGLE:
        return ""
    device = _read_id(folder / "device")
    if device == _V2_OR_V3 and _read_id(folder / "subsystem_device") == _V2_SUBSYSTEM:
        return "v2"
    return _KINDS.get(device, "")


def _read_id(file: Path) -> str:
    try:
        return file.read_text().strip().lower()
    except OSError:
        return ""
