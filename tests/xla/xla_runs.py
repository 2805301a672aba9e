"""What the workers of the XLA lane run."""

from __future__ import annotations

import copy
import os
import warnings
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from nbaccel import Accelerator
from nbaccel.utils import set_seed


def data(samples: int = 32) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(torch.randn(samples, 8, generator=generator), torch.randn(samples, 4, generator=generator))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))


def bare(batch: int, accumulate: int = 1, clip: float | None = None, passes: int = 2) -> list[torch.Tensor]:
    """The same training by torch alone, on the CPU: the weights afterwards."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(passes):
        for step, (inputs, targets) in enumerate(DataLoader(data(), batch_size=batch), 1):
            (nn.functional.mse_loss(model(inputs), targets) / accumulate).backward()
            if step % accumulate == 0:
                if clip is not None:
                    nn.utils.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
    return [parameter.detach() for parameter in model.parameters()]


def train(batch: int, accumulate: int = 1, clip: float | None = None, passes: int = 2) -> dict[str, Any]:
    """Train by an Accelerator; what came of it."""
    accelerator = Accelerator(gradient_accumulation_steps=accumulate)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data(), batch_size=batch))
    for _ in range(passes):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.mse_loss(model(inputs), targets))
                if clip is not None and accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), clip)
                optimizer.step()
                optimizer.zero_grad()
    return {
        "weights": list(accelerator.get_state_dict(model).values()),
        "device": accelerator.device.type,
        "type": str(accelerator.distributed_type),
        "processes": accelerator.num_processes,
        "chips": _chips(),
        "cuts": _cuts(model),
    }


def _chips() -> int:
    from torch_xla import runtime

    return int(runtime.global_runtime_device_count()) if runtime.is_spmd() else 1


def _cuts(model: nn.Module) -> list[str]:
    import torch_xla

    return [torch_xla._XLAC._get_xla_sharding_spec(parameter) for parameter in model.parameters()]


def weights_before_and_after(precision: str) -> dict[str, Any]:
    """One step in a precision."""
    accelerator = Accelerator(mixed_precision=precision)
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model, optimizer, DataLoader(data(), batch_size=8))
    inner: list[torch.dtype] = []
    handle = accelerator.unwrap_model(model)[0].register_forward_hook(lambda _, __, out: inner.append(out.dtype))
    for inputs, targets in loader:
        outputs = model(inputs)
        loss = nn.functional.mse_loss(outputs, targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    handle.remove()
    kinds = {parameter.dtype for parameter in model.parameters()}
    return {"inner": inner[0], "outputs": outputs.dtype, "weights": kinds, "loss": loss.item()}


def gathered(samples: int, batch: int) -> dict[str, Any]:
    """What the ways of gathering give."""
    accelerator = Accelerator()
    loader = accelerator.prepare(DataLoader(TensorDataset(torch.arange(samples)), batch_size=batch))
    seen = [accelerator.gather_for_metrics(numbers) for (numbers,) in loader]
    mine = torch.full((accelerator.process_index + 1,), accelerator.process_index, device=accelerator.device)
    padded = accelerator.pad_across_processes(mine, pad_index=-1)
    return {
        "metrics": torch.cat([part.cpu() for part in seen]).tolist(),
        "devices": {part.device.type for part in seen},
        "gather": accelerator.gather({"x": mine[:1], "y": mine[:1] * 0.5}),
        "objects": accelerator.gather_for_metrics([str(accelerator.process_index)], use_gather_object=True),
        "sum": accelerator.reduce(mine[:1], "sum").item(),
        "padded": padded.tolist(),
        "trigger": accelerator.check_trigger(),
    }


def tied() -> dict[str, Any]:
    """A model two of whose parts share a weight, prepared after its optimizer was made."""
    accelerator = Accelerator()
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    model[1].weight = model[0].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = model[0].weight.detach().clone()
    model, optimizer = accelerator.prepare(model, optimizer)
    accelerator.backward(model(torch.ones(2, 8, device=accelerator.device)).sum())
    optimizer.step()
    state = accelerator.get_state_dict(model)
    return {
        "tied": model[0].weight is model[1].weight,
        "in_optimizer": optimizer.param_groups[0]["params"] == [model[0].weight],
        "moved": not torch.equal(before, model[0].weight.cpu()),
        "state_tied": state["0.weight"] is state["1.weight"],
        "state_device": state["0.weight"].device.type,
    }


def interrupted_by_a_checkpoint(folder: str, stop_after: int | None) -> list[float]:
    """Losses of a training with dropout; with `stop_after` it saves then, otherwise it goes on from what is there."""
    accelerator = Accelerator()
    set_seed(7)
    model = nn.Sequential(network(), nn.Dropout(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    loader = DataLoader(data(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(5))
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if stop_after is None and os.path.isdir(folder):
        set_seed(99)
        accelerator.load_state(folder)
    losses = []
    for inputs, targets in loader:
        loss = nn.functional.mse_loss(model(inputs), targets)
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if len(losses) == stop_after:
            accelerator.save_state(folder)
            break
    return losses


def of_many_shapes(lengths: list[int]) -> list[str]:
    """The warnings of a training whose batches have these lengths."""
    accelerator = Accelerator()
    model = accelerator.prepare(nn.Linear(1, 1))
    samples = [torch.ones(length, 1) for length in lengths]
    loader = accelerator.prepare(DataLoader(samples, batch_size=None))  # type: ignore[arg-type]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for batch in loader:
            accelerator.backward(model(batch).sum())
    return [str(one.message) for one in caught if "XLA" in str(one.message)]


def drawn() -> list[float]:
    """Random numbers of the chip's own generator."""
    accelerator = Accelerator()
    return torch.rand(3, device=accelerator.device).tolist()


def second_way(first: bool, second: bool) -> None:
    """Two Accelerators in one process, with and without SPMD."""
    for spmd in (first, second):
        os.environ["NBACCEL_XLA_SPMD"] = str(spmd).lower()
        Accelerator()


def nested_batch() -> dict[str, Any]:
    """How a batch of many kinds arrives."""
    accelerator = Accelerator()
    samples = [{"x": torch.ones(3), "n": 1, "word": "a", "pair": (torch.zeros(2), 0.5)} for _ in range(6)]
    loader = accelerator.prepare(DataLoader(copy.deepcopy(samples), batch_size=6))  # type: ignore[arg-type]
    (batch,) = list(loader)
    return {
        "x": (batch["x"].device.type, tuple(batch["x"].shape)),
        "n": batch["n"].device.type,
        "word": batch["word"],
        "pair": [part.device.type for part in batch["pair"]],
        "end": accelerator.gradient_state.in_dataloader,
    }
