"""Two ranks that are told nothing but their place: `defect_checks.py FOLDER`. What holds ends well."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.pop("ACCELERATE_USE_CPU", None)  # nobody says that there is no GPU

from nbaccel import Accelerator, PartialState
from nbaccel.utils import FullyShardedDataParallelPlugin

FOLDER = Path(sys.argv[1])


def main() -> None:
    rank = int(os.environ["RANK"])
    before = dict(os.environ)
    state = PartialState()
    assert (state.num_processes, state.process_index, state.local_process_index) == (2, rank, rank)
    accelerator = Accelerator()
    assert (accelerator.num_processes, accelerator.device.type) == (2, state.device.type)
    model = accelerator.prepare(torch.nn.Linear(30, 30))
    accelerator.save_model(model, FOLDER / f"of-{rank}", max_shard_size=3600)
    accelerator.wait_for_everyone()
    assert [path.name for path in sorted(FOLDER.glob("of-*"))] == ["of-0"]
    assert (FOLDER / "of-0/model.safetensors.index.json").exists()
    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=True)
    assert Accelerator(fsdp_plugin=plugin).distributed_type == "FSDP"
    assert Accelerator().distributed_type in ("MULTI_CPU", "MULTI_GPU")
    changed = {name for name, _ in before.items() ^ os.environ.items()}
    assert not {name for name in changed if not name.startswith("TORCH")}, changed  # torch sets a folder of its own
    accelerator.end_training()


if __name__ == "__main__":
    main()
