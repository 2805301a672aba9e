"""The zygote's own process: what it imports ahead, and when it does not."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# a zygote with a message waiting for it and modules to import; the kernel "goes" after a while
SERVE = """
import json, os, signal, socket, sys, threading
from nbaccel.wire.channel import Channel
from nbaccel.wire.messages import Fork
from nbaccel.worker.preload import Ahead
from nbaccel.worker.zygote import Zygote

ours, its = socket.socketpair()
alive, kernel = os.pipe()
wakeup, _ = os.pipe()
ends = [os.open(os.devnull, os.O_RDWR) for _ in range(5)]
for command in json.loads(sys.argv[1]):
    Channel(ours).send(Fork(tuple(command)), [*ends, os.pipe()[1]])
threading.Timer(0.5, os.close, (kernel,)).start()
Zygote(Channel(its), alive, wakeup, Ahead(["fractions", "colorsys"])).serve()
print(json.dumps([name for name in ("fractions", "colorsys") if name in sys.modules]))
"""


@pytest.mark.parametrize(("commands", "imported"), [([], ["fractions", "colorsys"]), ([["/usr/bin/env", "true"]], [])])
def test_nothing_is_imported_ahead_for_workers_that_are_fresh_interpreters(
    commands: list[list[str]], imported: list[str]
) -> None:
    said = subprocess.run([sys.executable, "-c", SERVE, json.dumps(commands)], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert json.loads(said.stdout) == imported
