"""A JupyterLab and a Chromium for all browser tests, and notebooks in them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
from lab import Notebook, OpenLab, Server, running_server, start_browser, write_notebook
from playwright.sync_api import Browser, sync_playwright

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        running = start_browser(playwright)
        yield running
        running.close()


@pytest.fixture
def lab(server: Server, browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenLab]:
    """Makes notebooks: `lab([source, ...], theme="light", width=1150, height=900)`; their kernels end with the test."""
    opened: list[Notebook] = []
    errors: list[str] = []

    def open_lab(cells: Sequence[str], theme: str = "light", width: int = 1150, height: int = 900) -> Notebook:
        server.choose_theme(theme)
        name = f"{request.node.originalname}_{next(_numbers)}"
        write_notebook(server.folder / f"{name}.ipynb", cells)
        page = browser.new_context(viewport={"width": width, "height": height}).new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("dialog", lambda dialog: dialog.accept())
        opened.append(Notebook(page, server, name))
        return opened[-1]

    yield open_lab
    seen = tuple(errors)  # not later ones: JupyterLab has words for requests that the end of a kernel cancels
    for notebook in opened:
        notebook.shut_down()
        notebook.page.context.close()
    assert not seen
