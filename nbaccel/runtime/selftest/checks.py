"""The checks: each says what it saw, or raises what is wrong."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nbaccel.plan import Topology
from nbaccel.runtime import collectives
from nbaccel.runtime.accelerator import Accelerator
from nbaccel.runtime.random import set_seed
from nbaccel.runtime.saving import save_object
from nbaccel.runtime.selftest.notes import CHECKS, Wish

_ROWS = 4
"""Rows of a micro-batch of the training step."""
_ROUNDING, _WRONG = 1e-4, 0.1
"""Errors of a product up to the first are float32's, from the second on they are none of any number format."""
_TRIES = 20
"""fp16's scaler may leave out the first steps until it has found its factor."""


class CheckError(Exception):
    """A check found something wrong."""


@dataclass
class Bench:
    """What the checks of one worker share.

    Attributes:
        wish: what they should find.
        folder: for files.
        place: which worker this is.
    """

    wish: Wish
    folder: Path
    place: Topology
    _made: list[Accelerator] = field(default_factory=list)

    @property
    def accelerator(self) -> Accelerator:
        """The face that training code uses; it joins the processes when it is first asked for."""
        if not self._made:
            self._made.append(Accelerator())
        return self._made[0]

    @property
    def device(self) -> torch.device:
        """The device that the launch has planned for this process."""
        kind = self.wish.device
        return torch.device(kind, self.place.local_rank) if kind == "cuda" else torch.device(kind)

    def close(self) -> None:
        """Leave the other processes."""
        for accelerator in self._made:
            accelerator.end_training()


def expect(condition: bool, problem: str) -> None:
    """Raises CheckError with the problem unless the condition holds."""
    if not condition:
        raise CheckError(problem)


def devices(bench: Bench) -> str:
    """The planned device is there and multiplies matrices."""
    if bench.device.type == "cuda":
        count = torch.cuda.device_count()
        seen = f"torch sees {count} CUDA device{'' if count == 1 else 's'}"
        expect(
            bench.place.local_rank < count, f"cuda:{bench.place.local_rank} was planned for this process, but {seen}"
        )
        torch.cuda.set_device(bench.device)
    error = _product_error(bench.device)
    expect(error < _WRONG, f"a product of matrices is wrong by {error:.1g}")
    if bench.device.type != "cuda":
        return str(bench.device)
    return f"{bench.device} ({torch.cuda.get_device_name(bench.device)})"


def _product_error(device: torch.device) -> float:
    """Greatest error of a float32 product of two 64 x 64 matrices of standard normal numbers, by float64."""
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(64, 64, generator=generator) for _ in range(2))
    product = left.to(device) @ right.to(device)
    return float((product.cpu().double() - left.double() @ right.double()).abs().max())


def exchange(bench: Bench) -> str:
    """The processes find each other, and the basic operations give the right numbers."""
    accelerator, size, rank = bench.accelerator, bench.wish.world_size, bench.place.rank
    expect(
        accelerator.num_processes == size, f"{size} processes were started, the group has {accelerator.num_processes}"
    )
    expect(accelerator.device == bench.device, f"{bench.device} was planned, Accelerator() uses {accelerator.device}")
    if size == 1:
        return "one process, nothing to exchange"
    ones = torch.full((3,), float(rank + 1), device=bench.device)
    total = ones.clone()
    dist.all_reduce(total)
    _expect_equal("all_reduce", total, [size * (size + 1) / 2] * 3)
    parts = [torch.empty_like(ones) for _ in range(size)]
    dist.all_gather(parts, ones)
    _expect_equal("all_gather", torch.stack(parts)[:, 0], [float(other + 1) for other in range(size)])
    word = ones.clone()
    dist.broadcast(word, src=size - 1)
    _expect_equal("broadcast", word, [float(size)] * 3)
    accelerator.wait_for_everyone()
    return f"{dist.get_backend()}: all_reduce, all_gather, broadcast, barrier"


def _expect_equal(operation: str, got: torch.Tensor, expected: list[float]) -> None:
    expect(got.tolist() == expected, f"{operation} gave {got.tolist()}, not {expected}")


def precision(bench: Bench) -> str:
    """Autocast computes in the configured number format; says how exact float32 is without it."""
    wish, accelerator = bench.wish, bench.accelerator
    word = accelerator.mixed_precision
    expect(word == wish.mixed_precision, f"mixed_precision is {wish.mixed_precision!r}, Accelerator() uses {word!r}")
    matrix = torch.ones(8, 8, device=bench.device)
    with accelerator.autocast():
        used = str((matrix @ matrix).dtype).removeprefix("torch.")
    expect(used == wish.autocast_dtype, f"a product under autocast is {used}, not {wish.autocast_dtype}")
    error = _product_error(bench.device)
    bits = "float32" if error < _ROUNDING else "float32 in fewer bits (TF32)"
    return f"mixed_precision={word}: products in {used}; {bits} exact to {error:.0e}"


def training_step(bench: Bench) -> str:
    """One step on all ranks gives the weights that one process gets from the joined batch."""
    accelerator = bench.accelerator
    steps, size = accelerator.gradient_accumulation_steps, bench.wish.world_size
    generator = torch.Generator().manual_seed(1)
    inputs, targets = (torch.randn(steps * size * _ROWS, width, generator=generator) for width in (8, 1))
    before, bare = _model().state_dict(), _model().to(bench.device)
    after = _step_together(bench, inputs, targets)
    _step_alone(bench, bare, inputs, targets)
    if not after:
        return ""  # sharded weights are put together on rank 0, which compares them
    expect(_distance(after, before) > 0, "the step left the weights as they were")
    error = _distance(after, {name: value.cpu() for name, value in bare.state_dict().items()})
    allowed = 1e-5 if bench.wish.mixed_precision == "no" else 1e-2
    expect(error <= allowed, f"the weights are {error:.1g} off those of one process; rounding is up to {allowed:g}")
    micro = f" of {steps} micro-batches" if steps > 1 else ""
    return f"one step{micro} on {size} rank{'s' if size > 1 else ''} is what one process gets, to {error:.0e}"


def _model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))


def _step_together(bench: Bench, inputs: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """The weights after one optimizer step under the accelerator, on the CPU."""
    accelerator, size, model = bench.accelerator, bench.wish.world_size, _model()
    prepared, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
    for _ in range(_TRIES):
        for micro in range(accelerator.gradient_accumulation_steps):
            first = (micro * size + bench.place.rank) * _ROWS
            rows = slice(first, first + _ROWS)
            with accelerator.accumulate(prepared):
                outputs = prepared(inputs[rows].to(bench.device))
                accelerator.backward(nn.functional.mse_loss(outputs, targets[rows].to(bench.device)))
                optimizer.step()
                optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            break
    weights = {name: _whole(value).detach().cpu() for name, value in accelerator.get_state_dict(prepared).items()}
    accelerator.free_memory()
    return weights


def _whole(value: torch.Tensor) -> torch.Tensor:
    """A sharded parameter (a DTensor, which torch 2.4 hides), put together on all ranks."""
    put_together: Callable[[], torch.Tensor] | None = getattr(value, "full_tensor", None)
    return value if put_together is None else put_together()


def _step_alone(bench: Bench, model: nn.Module, inputs: torch.Tensor, targets: torch.Tensor) -> None:
    """The same with nothing but torch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    dtype = getattr(torch, bench.wish.autocast_dtype)
    with torch.autocast(bench.device.type, dtype=dtype, enabled=dtype != torch.float32):
        outputs = model(inputs.to(bench.device))
    nn.functional.mse_loss(outputs.float(), targets.to(bench.device)).backward()
    optimizer.step()


def _distance(some: Mapping[str, torch.Tensor], others: Mapping[str, torch.Tensor]) -> float:
    return max(float((some[name] - others[name]).abs().max()) for name in others)


def data_loader(bench: Bench) -> str:
    """A prepared loader hands out each sample to one of the ranks, on its device."""
    accelerator, size = bench.accelerator, bench.wish.world_size
    length = 8 * size + 3
    loader = accelerator.prepare(DataLoader(TensorDataset(torch.arange(length)), batch_size=2 * size, shuffle=True))
    mine: list[int] = []
    for (batch,) in loader:
        expect(batch.device == accelerator.device, f"a batch is on {batch.device}, not on {accelerator.device}")
        mine += batch.tolist()
    accelerator.free_memory()
    seen = collectives.gather_object(mine)
    missing = sorted(set(range(length)) - set(seen))
    expect(not missing, f"of {length} samples these reached no rank: {', '.join(map(str, missing[:8]))}")
    again = len(seen) - length
    expect(again < 2 * size * size, f"{again} of {length} samples were handed out twice")
    return f"{length} samples reach {size} rank{'s' if size > 1 else ''}; {again} of them again, to fill the last round"


def checkpoint(bench: Bench) -> str:
    """Weights that one process writes are the weights that all read."""
    accelerator, weights = bench.accelerator, _model().state_dict()
    safe, plain = bench.folder / "model.safetensors", bench.folder / "model.bin"
    if accelerator.is_local_main_process:
        save_object(weights, safe, safe_serialization=True)
        save_object(weights, plain)
    accelerator.wait_for_everyone()
    for file, found in ((safe, load_file(safe)), (plain, torch.load(plain, weights_only=True))):
        same = found.keys() == weights.keys() and all(torch.equal(found[name], weights[name]) for name in weights)
        expect(same, f"{file.name} holds other weights than were written")
    return "safetensors and torch's own format, written and read back"


def random_numbers(bench: Bench) -> str:
    """The generators follow the seed: alike on all ranks, or one stream for each."""
    seed = 0 if bench.wish.seed is None else bench.wish.seed
    first, again = (_seeded(bench, seed) for _ in range(2))
    other = [name for name in first if first[name] != again[name]]
    expect(not other, f"set_seed({seed}) does not bring the generator of {' and '.join(other)} back to its start")
    everywhere = collectives.gather_object([first])
    other = [name for name in first if len({drawn[name] for drawn in everywhere}) > 1]
    expect(not other, f"after set_seed({seed}) the ranks draw different numbers from {' and '.join(other)}")
    own = collectives.gather_object([_seeded(bench, seed, device_specific=True)])
    same = [name for name in first if len({drawn[name] for drawn in own}) < len(own)]
    expect(not same, f"set_seed({seed}, device_specific=True) leaves some ranks alike in {' and '.join(same)}")
    return f"seed {seed}{' (none is configured)' if bench.wish.seed is None else ''}: alike on all ranks, or one each"


def _seeded(bench: Bench, seed: int, device_specific: bool = False) -> dict[str, float]:
    """One number of each generator after seeding."""
    set_seed(seed, device_specific)
    drawn = {
        "Python": random.random(),
        "torch": float(torch.rand(())),
        f"torch on {bench.device.type}": float(torch.rand((), device=bench.device)),
    }
    if importlib.util.find_spec("numpy"):
        import numpy as np

        drawn["numpy"] = float(np.random.random())
    return drawn


ALL: Mapping[str, Callable[[Bench], str]] = dict(
    zip(CHECKS, (devices, exchange, precision, training_step, data_loader, checkpoint, random_numbers), strict=True)
)
"""The checks by name."""
