"""One worker of `nbaccel test`."""

import os
import sys
from pathlib import Path

from nbaccel.plan import topology_of
from nbaccel.runtime.selftest.worker import run_checks

if __name__ == "__main__":
    sys.exit(run_checks(Path(sys.argv[1]), topology_of(os.environ)))
