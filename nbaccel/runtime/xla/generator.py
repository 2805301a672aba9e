"""torch_xla's random state, of which torch itself knows nothing."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any


def xla_generator() -> Any:
    """What has `get_rng_state` and `set_rng_state`, a whole number; None where torch_xla is not at work."""
    torch_xla = sys.modules.get("torch_xla")
    if torch_xla is None or not torch_xla._XLAC._xla_runtime_is_initialized():
        return None
    return import_module("torch_xla.core.xla_model")
