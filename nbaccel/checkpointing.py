"""What training code may import from `nbaccel.checkpointing`; nothing inside nbaccel does."""

from nbaccel.runtime.checkpoint.checkpoints import Checkpoints, Numbering
from nbaccel.runtime.checkpoint.manifest import Manifest, read_manifest
from nbaccel.runtime.checkpoint.store import Part, Store

__all__ = ["Checkpoints", "Manifest", "Numbering", "Part", "Store", "read_manifest"]
