"""Executes a notebook in a real kernel, prints what its cells printed, and keeps the result and its pictures.

python notebooks/run.py NOTEBOOK FOLDER
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

CELL_TIMEOUT_S = 600


def main(source: Path, folder: Path) -> int:
    """Returns the exit code: 0 if every cell ran."""
    folder.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(source, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT_S,
        resources={"metadata": {"path": str(source.parent)}},
        on_cell_executed=lambda cell, cell_index, execute_reply: print_outputs(cell),
    )
    code = 0
    try:
        client.execute()
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        code = 1
    executed = folder / source.name
    nbformat.write(notebook, executed)
    print(f"\nexecuted notebook: {executed}")
    for number, picture in enumerate(pictures(notebook), start=1):
        path = folder / f"{source.stem}_{number}.png"
        path.write_bytes(picture)
        print(f"plot: {path}")
    return code


def print_outputs(cell: Any) -> None:
    """Print the text that a cell produced."""
    for output in cell.get("outputs", ()):
        if output.output_type == "stream":
            print(output.text, end="", flush=True)
        elif "image/png" not in output.get("data", {}) and "text/plain" in output.get("data", {}):
            print(output.data["text/plain"], flush=True)


def pictures(notebook: Any) -> Iterator[bytes]:
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                yield base64.b64decode(output.data["image/png"])


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
