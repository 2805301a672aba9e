"""transformers' `Trainer` on one rank: `trainer_job.py LIBRARY FOLDER`; notes go to `FOLDER/LIBRARY-RANK.json`.

`accelerate` is imported here and by transformers; `LIBRARY` is what must be behind that name.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

LIBRARY, FOLDER = sys.argv[1], Path(sys.argv[2])


class Texts(Dataset[Any]):
    """Random tokens; the label says whether the sum is even."""

    def __init__(self, count: int, seed: int, is_causal: bool) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, 40, (count, 12), generator=generator)
        self.is_causal = is_causal

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Any]:
        tokens = self.tokens[index]
        labels = tokens if self.is_causal else tokens.sum() % 2
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


class Rates(TrainerCallback):
    """Notes what is logged and where the optimizer stepped."""

    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.steps: list[int] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        kept = {key: value for key, value in logs.items() if not key.endswith(("runtime", "per_second"))}
        self.logged.append({"step": state.global_step, **kept})

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.steps.append(state.global_step)


def new_model(is_causal: bool) -> torch.nn.Module:
    set_seed(11)
    if is_causal:
        return GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=2, n_head=2))
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    return BertForSequenceClassification(BertConfig(**sizes, intermediate_size=32, max_position_embeddings=16))


def trained(name: str, is_causal: bool, resume: str | None = None, **settings: Any) -> dict[str, Any]:
    folder = FOLDER / f"{LIBRARY}-{os.environ['WORLD_SIZE']}-{name}"
    rates = Rates()
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=3,
        per_device_eval_batch_size=4,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=3,
        learning_rate=5e-3,
        dataloader_pin_memory=False,
        **settings,
    )
    trainer = Trainer(
        model=new_model(is_causal),
        args=arguments,
        train_dataset=Texts(41, 1, is_causal),
        eval_dataset=Texts(19, 2, is_causal),
        callbacks=[rates],
    )
    assert type(trainer.accelerator) is Accelerator
    assert Accelerator.__module__.partition(".")[0] == LIBRARY
    assert trainer.args.world_size == int(os.environ["WORLD_SIZE"])
    outcome = trainer.train(resume_from_checkpoint=None if resume is None else str(folder / resume))
    evaluated = {key: value for key, value in trainer.evaluate().items() if key.endswith("loss")}
    predicted = trainer.predict(Texts(19, 2, is_causal))
    weights = torch.nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
    found = {
        "logged": rates.logged,
        "steps": rates.steps,
        "train_loss": outcome.training_loss,
        "evaluated": evaluated,
        "predictions": predicted.predictions.sum(axis=tuple(range(1, predicted.predictions.ndim))).tolist(),
        "weights": weights.tolist(),
        "files": sorted(path.name for path in folder.glob("checkpoint-*/*")) if folder.is_dir() else [],
    }
    trainer.accelerator.free_memory()
    return found


SAVING: dict[str, Any] = {"save_steps": 3, "max_steps": 6, "gradient_accumulation_steps": 2}
JOBS: dict[str, dict[str, Any]] = {
    "classifier": {"is_causal": False, "num_train_epochs": 2, "save_strategy": "no", "lr_scheduler_type": "cosine"},
    "accumulated": {
        "is_causal": True, "num_train_epochs": 2, "save_strategy": "no", "gradient_accumulation_steps": 4,
        "warmup_steps": 2, "max_grad_norm": 0.3,
    },
    "bf16": {"is_causal": True, "max_steps": 4, "save_strategy": "no", "bf16": True},
    "clever": {
        "is_causal": False, "max_steps": 5, "save_strategy": "no", "eval_strategy": "steps", "eval_steps": 2,
        "dataloader_drop_last": True, "dataloader_num_workers": 1,
        "lr_scheduler_type": "linear",
    },
    "saved": {"is_causal": True, **SAVING},
}  # fmt: skip


def main() -> None:
    rank = os.environ["RANK"]
    jobs = {name: trained(name, **settings) for name, settings in JOBS.items()}
    jobs["resumed"] = trained("saved", is_causal=True, resume="checkpoint-3", **SAVING)
    (FOLDER / f"{LIBRARY}-{rank}.json").write_text(json.dumps(jobs))


if __name__ == "__main__":
    main()
