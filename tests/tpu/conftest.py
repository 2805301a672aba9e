"""Needs the real torch_tpu (`make test-tpu`); elsewhere nothing is collected."""

from __future__ import annotations

import importlib.util

collect_ignore_glob = [] if importlib.util.find_spec("torch_tpu") else ["test_*.py"]
