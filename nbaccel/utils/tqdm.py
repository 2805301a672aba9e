"""What training code may import from `nbaccel.utils.tqdm`; nothing inside nbaccel does."""

from nbaccel.runtime.bars import tqdm

__all__ = ["tqdm"]
