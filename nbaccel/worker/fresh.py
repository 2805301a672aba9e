"""Entry of a worker that is a fresh interpreter (`start_method="spawn"`)."""

from __future__ import annotations

import gc
import os
import sys

from nbaccel.wire.ends import WorkerEnds
from nbaccel.worker import bootstrap, preload

if __name__ == "__main__":
    ends = WorkerEnds(*map(int, sys.argv[1].split(",")))
    gc.disable()  # until all is imported
    preload.first_stage()
    bootstrap.run_worker(ends, parent=os.getppid())
