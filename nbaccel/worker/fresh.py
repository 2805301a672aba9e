"""Entry of a worker that is a fresh interpreter (`start_method="spawn"`)."""

from __future__ import annotations

import sys

from nbaccel.worker import bootstrap, preload

if __name__ == "__main__":
    channel, stdout, stderr, parent = map(int, sys.argv[1:5])
    preload.first_stage()
    bootstrap.run_worker(channel, stdout, stderr, parent)
