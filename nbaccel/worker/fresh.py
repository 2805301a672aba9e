"""Entry of a worker that is a fresh interpreter (`start_method="spawn"`)."""

from __future__ import annotations

import os
import sys

from nbaccel.worker import bootstrap, preload

if __name__ == "__main__":
    channel, stdout, stderr = map(int, sys.argv[1:4])
    preload.first_stage()
    bootstrap.run_worker(channel, stdout, stderr, parent=os.getppid())
