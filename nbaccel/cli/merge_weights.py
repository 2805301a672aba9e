"""`nbaccel merge-weights`: one file of weights from what the ranks of a sharded training have each written."""

from __future__ import annotations

from pathlib import Path

import click

from nbaccel.cli.launching import need_torch


@click.command("merge-weights")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--unsafe-serialization", "--unsafe_serialization", is_flag=True, help="Write torch's own format, not safetensors."
)
@click.option(
    "--remove-checkpoint-dir", "--remove_checkpoint_dir", is_flag=True, help="Remove the folder of shards afterwards."
)
@click.option(
    "--max-shard-size", "--max_shard_size", metavar="SIZE", help="Of one file, as 5GB; left out: one file for all."
)
def command(
    checkpoint: Path, output: Path, unsafe_serialization: bool, remove_checkpoint_dir: bool, max_shard_size: str | None
) -> None:
    """Join the weights of CHECKPOINT, saved with FSDP in shards, into the folder OUTPUT.

    CHECKPOINT is a folder pytorch_model_fsdp_0, or a checkpoint with one model in it. All weights must fit into
    memory.
    """
    need_torch("nbaccel merge-weights")
    from nbaccel.runtime.merging import merge_fsdp_weights  # needs torch, which --help does not

    written = merge_fsdp_weights(checkpoint, output, not unsafe_serialization, remove_checkpoint_dir, max_shard_size)
    click.echo(f"written: {written}")
