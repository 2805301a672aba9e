"""Resolving the configuration: all eight layers from real files, beside the empty case and beside plain yaml.safe_load.

    python benchmarks/config.py

Prints medians. Nothing else resolves layers, so the peer is what any tool pays at least: reading the files.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from nbaccel.config import NOTEBOOK, call_layer, resolve

PROJECT = """\
num_processes: 4
profile: prod
fsdp_config:
  fsdp_version: 2
params:
  lr: 1e-3
  trainer: {epochs: 3, batch_size: 16}
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = layers_in(folder)
        environ = {"HF_HOME": str(folder / "home"), "ACCELERATE_MIXED_PRECISION": "fp16", "BATCH_SIZE": "8"}
        NOTEBOOK.update({"seed": 3}, "the benchmark")

        def all_layers() -> object:
            call = call_layer({"mixed_precision": "bf16"})
            return resolve(call, environ=environ, folder=folder, config_file=folder / "named.yaml")

        def fresh() -> object:
            for file in files:
                os.utime(file)
            return all_layers()

        row("all layers, files unchanged since the last time", median_ms(all_layers))
        row("all layers, every file read anew", median_ms(fresh))
        with (folder / ".accelerate/default_config.yaml").open("a") as file:
            file.write("  twice: ${params.trainer.epochs}\n")
        row("the same with an interpolation (OmegaConf)", median_ms(all_layers))
        row("yaml.safe_load of the same files", median_ms(lambda: [yaml.safe_load(file.read_text()) for file in files]))
        NOTEBOOK.undo()
    row("nbaccel --help", median_ms(lambda: program("--help"), 7))
    row("nbaccel launch --help", median_ms(lambda: program("launch", "--help"), 7))
    peer = "accelerate.commands.accelerate_cli"
    row("accelerate launch --help", median_ms(lambda: program("launch", "--help", module=peer), 3))


def layers_in(folder: Path) -> list[Path]:
    """A project with a profile and an included file, a named file and the user's own."""
    texts = {
        ".accelerate/default_config.yaml": PROJECT,
        ".accelerate/prod.yaml": "include: ../shared.yaml\ntimeout: 60\n",
        "shared.yaml": "max_restarts: 2\n",
        "named.yaml": "use_cpu: true\n",
        ".env": "GREETING=hello\n",
        "home/accelerate/default_config.yaml": "mixed_precision: bf16\nnum_machines: 1\n",
    }
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return [folder / name for name in texts if name.endswith("yaml")]


def median_ms(action: Callable[[], object], times: int = 200) -> float:
    taken = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1000


def program(*words: str, module: str = "nbaccel.cli.main") -> None:
    subprocess.run([sys.executable, "-m", module, *words], check=True, capture_output=True)


def row(what: str, milliseconds: float) -> None:
    print(f"{what:<52} {milliseconds:8.2f} ms", flush=True)


if __name__ == "__main__":
    main()
