"""A real JupyterLab in a real Chromium: what the browser tests drive."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Error, Locator, Page

from harness import wait_until

_BUILD = Path(__file__).parents[2] / "build"
SCREENS = _BUILD / "screens"
_AXE = _BUILD / "npm" / "node_modules" / "axe-core" / "axe.min.js"
_THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
_THEME_SETTING = "/lab/api/settings/@jupyterlab/apputils-extension:themes"
_QUIET = {"fetchNews": "false", "checkForUpdates": False}
_PATIENCE_MS = 60_000

_BUSY = "(window.jupyterapp.shell.currentWidget.content.widgets[number].promptNode?.textContent ?? '').includes('*')"
_IS_IDLE = """() => {
    const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget;
    const session = panel && panel.sessionContext && panel.sessionContext.session;
    return !!(session && session.kernel && session.kernel.status === 'idle');
}"""


@dataclass(frozen=True)
class Server:
    """A JupyterLab that runs.

    Attributes:
        url: its address, without a slash at the end.
        folder: where its notebooks are.
    """

    url: str
    folder: Path

    def put(self, path: str, body: object) -> None:
        """Ask it to store something."""
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="PUT"
        )
        urllib.request.urlopen(request, timeout=30).close()

    def choose_theme(self, theme: str) -> None:
        """`light` or `dark`, from the next page on."""
        self.put(_THEME_SETTING, {"raw": json.dumps({"theme": _THEMES[theme], "adaptive-theme": False})})


@contextmanager
def running_server(home: Path, **environ: str) -> Iterator[Server]:
    """Start JupyterLab with settings, runtime files and notebooks of its own; stops it at the end.

    Args:
        home: an empty folder.
        environ: more environment for it and for its kernels.
    """
    folder = home / "notebooks"
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True)
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(_QUIET))
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "HF_HOME")
    own = {name: str(home / name.lower()) for name in names}
    own["JUPYTERLAB_SETTINGS_DIR"] = str(home / "settings")
    own["JUPYTERLAB_WORKSPACES_DIR"] = str(home / "workspaces")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser", f"--port={port}",
        "--ServerApp.port_retries=0", "--ServerApp.token=", "--ServerApp.password=",
        "--ServerApp.disable_check_xsrf=True",
    ]  # fmt: skip
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **own, **environ}, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            server = Server(f"http://127.0.0.1:{port}", folder)
            assert wait_until(lambda: _answers(server), 60), (home / "server.log").read_text()
            yield server
        finally:
            process.terminate()
            process.wait(30)


def _answers(server: Server) -> bool:
    with suppress(OSError):
        urllib.request.urlopen(f"{server.url}/api/status", timeout=5).close()
        return True
    return False


class Notebook:
    """A notebook that is open in JupyterLab, with a kernel.

    Attributes:
        page: the page of the browser.
        path: the notebook's file.
    """

    def __init__(self, page: Page, server: Server, name: str) -> None:
        self.page, self.server = page, server
        self.path = server.folder / f"{name}.ipynb"
        self.open()

    def open(self) -> None:
        """Open it, or open it anew as after a reload of the page; its kernel goes on."""
        self.page.goto(f"{self.server.url}/doc/tree/{self.path.name}")
        self.page.wait_for_selector(".jp-CodeCell", timeout=_PATIENCE_MS)
        self.page.wait_for_function(_IS_IDLE, timeout=_PATIENCE_MS)

    def start(self, number: int) -> None:
        """Run a cell, counted from 0, without waiting for it."""
        before = self._count(number)
        self.page.evaluate(
            """number => {
                const notebook = window.jupyterapp.shell.currentWidget.content;
                notebook.deselectAll();
                notebook.activeCellIndex = number;
                window.jupyterapp.commands.execute('notebook:run-cell');
            }""",
            number,
        )
        assert wait_until(lambda: self.is_running(number) or self._count(number) != before, 30)

    def wait(self, number: int, timeout_s: float = 60) -> None:
        """Wait until a cell has run."""
        self.page.wait_for_function(f"number => !({_BUSY})", arg=number, timeout=timeout_s * 1000)

    def run(self, number: int, timeout_s: float = 60) -> Locator:
        """Run a cell and wait for it. Returns what it shows."""
        self.start(number)
        self.wait(number, timeout_s)
        return self.output(number)

    def _count(self, number: int) -> Any:
        """The number in a cell's brackets."""
        return self.page.evaluate(
            "number => window.jupyterapp.shell.currentWidget.content.widgets[number].model.executionCount", number
        )

    def is_running(self, number: int) -> bool:
        return bool(self.page.evaluate(f"number => {_BUSY}", number))

    def cell(self, number: int) -> Locator:
        return self.page.locator(".jp-Cell").nth(number)

    def output(self, number: int) -> Locator:
        """What a cell shows below its code."""
        return self.cell(number).locator(".jp-Cell-outputWrapper")

    def outputs(self, number: int) -> list[dict[str, Any]]:
        """A cell's outputs as they would be saved."""
        found: list[dict[str, Any]] = self.page.evaluate(
            "number => window.jupyterapp.shell.currentWidget.content.widgets[number].model.outputs.toJSON()", number
        )
        return found

    def interrupt(self) -> None:
        """Press the notebook's own Stop button."""
        self.page.locator(
            "[data-jp-item-name='interrupt'] jp-button, [data-jp-item-name='interrupt'] button"
        ).first.click()

    def save(self) -> None:
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")
        assert wait_until(lambda: not self._is_dirty(), 30)

    def _is_dirty(self) -> bool:
        return bool(self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.model.dirty"))

    def picture(self, name: str, *cells: int) -> Path:
        """A screenshot of the page, or of what cells show, in build/screens."""
        SCREENS.mkdir(parents=True, exist_ok=True)
        path = SCREENS / f"{name}.png"
        if cells:
            self.cell(cells[0]).screenshot(path=path)
        else:
            self.page.screenshot(path=path)
        return path

    def violations(self, selector: str) -> list[str]:
        """What axe-core finds wrong with an element's accessibility; a line each."""
        assert _AXE.exists(), "axe-core is missing: make test-browser fetches it"
        self.page.add_script_tag(path=_AXE)
        found = self.page.evaluate("selector => axe.run(selector).then(outcome => outcome.violations)", selector)
        return [f"{one['id']}: {one['help']}: {node['html'][:200]}" for one in found for node in one["nodes"]]

    def shut_down(self) -> None:
        """End the kernel."""
        with suppress(Error):
            self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")


OpenLab = Callable[..., Notebook]
"""What the fixture `lab` gives."""


def write_notebook(path: Path, cells: Sequence[str]) -> None:
    """Make a notebook of code cells."""
    made = [
        {"cell_type": "code", "id": f"cell-{number}", "metadata": {}, "source": source, "outputs": [],
         "execution_count": None}
        for number, source in enumerate(cells)
    ]  # fmt: skip
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": metadata, "cells": made}))


def start_browser(playwright: Any) -> Browser:
    """Chromium as the system has it."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert path, "Chromium is missing: apt-get install chromium"
    browser: Browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
    return browser
