"""A real kernel to run cells in."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import KernelManager

CELL_TIMEOUT_S = 90


@dataclass
class Answer:
    """What a cell produced, in the order in which it came."""

    outputs: list[dict[str, Any]] = field(default_factory=list)

    def text(self, stream: str = "stdout") -> str:
        return "".join(
            o["content"]["text"] for o in self.outputs if o["type"] == "stream" and o["content"]["name"] == stream
        )

    @property
    def error(self) -> str:
        for output in self.outputs:
            if output["type"] == "error":
                content = output["content"]
                return f"{content['ename']}: {content['evalue']}\n" + "\n".join(content["traceback"])
        return ""

    @property
    def displays(self) -> list[dict[str, Any]]:
        return [o["content"]["data"] for o in self.outputs if o["type"] in ("display_data", "execute_result")]

    def notes(self) -> str:
        """What nbaccel itself has said in the cell."""
        shown = [o["content"]["data"].get("text/plain", "") for o in self.outputs if o["type"] == "display_data"]
        return "\n".join(text for text in shown if text.startswith("nbaccel: "))

    def order(self) -> list[str]:
        """Kinds of output, neighbours of one kind merged."""
        kinds: list[str] = []
        for output in self.outputs:
            if not kinds or kinds[-1] != output["type"]:
                kinds.append(output["type"])
        return kinds


class Kernel:
    """A running kernel and its client."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager, self.client = manager, client

    @property
    def pid(self) -> int:
        pid: int = self.manager.provisioner.pid
        return pid

    def start(self, code: str) -> str:
        """Begin a cell and return its id."""
        message_id: str = self.client.execute(code)
        return message_id

    def finish(self, message_id: str, timeout_s: float = CELL_TIMEOUT_S) -> Answer:
        """Everything that a cell produced, once it is done."""
        answer = Answer()
        deadline = time.monotonic() + timeout_s
        while True:
            message = self.client.get_iopub_msg(timeout=max(0.1, deadline - time.monotonic()))
            if message["parent_header"].get("msg_id") != message_id:
                continue
            kind = message["msg_type"]
            if kind == "status" and message["content"]["execution_state"] == "idle":
                self.client.get_shell_msg(timeout=timeout_s)
                return answer
            if kind not in ("status", "execute_input"):
                answer.outputs.append({"type": kind, "content": message["content"]})

    def run(self, code: str, timeout_s: float = CELL_TIMEOUT_S) -> Answer:
        """Run a cell to its end, whatever that is."""
        return self.finish(self.start(code), timeout_s)

    def ok(self, code: str) -> Answer:
        """Run a cell that must not fail."""
        answer = self.run(code)
        assert not answer.error, answer.error
        return answer

    def value(self, expression: str) -> Any:
        """The value of an expression, as a Python literal."""
        import ast

        return ast.literal_eval(self.ok(f"print(repr(({expression})))").text())

    def children(self) -> list[psutil.Process]:
        """Processes below the kernel."""
        return psutil.Process(self.pid).children(recursive=True)


def wait_until(condition: Callable[[], bool], within_s: float) -> bool:
    """Whether a condition came true in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


@contextmanager
def running_kernel(**environ: str) -> Iterator[Kernel]:
    """A fresh kernel; killed with all below it at the end.

    Without monitors, unless `environ` says otherwise: on a slow machine a short run may get one, too.
    """
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=os.environ | {"NBACCEL_MONITOR": "never"} | environ)
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=60)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
