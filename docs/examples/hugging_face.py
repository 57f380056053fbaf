# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes a tiny BERT of random weights with a Hugging Face `Trainer` that keeps to a memory budget.

Needs `accelerate`, as every `Trainer` does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments

import finetune


class Loss(nn.Module):
    """A model's loss from tensors in a fixed order, the last of which is how many batches make an update."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *batch: Tensor) -> Tensor:
        """The loss of this part."""
        inputs = dict(zip(self.names, batch[:-1], strict=True))
        loss: Tensor = self.model(**inputs).loss
        return loss / batch[-1]


class PlannedTrainer(Trainer):
    """A `Trainer` whose forward and backward run within a budget; it clips, steps, schedules and saves as ever."""

    loss_is_scaled_for_ga = False

    def __init__(self, *args: Any, budget: int | str | None = None, pages: Path | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.budget, self.pages = budget, pages
        self.compiled: finetune.TrainStep | None = None

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """The loss; gradients have been added up in `.grad`."""
        model.train()
        batch = (*inputs.values(), torch.tensor(float(self.current_gradient_accumulation_steps)))
        if self.compiled is None:
            step = Loss(model, tuple(inputs)).train()
            self.compiled = finetune.compile(step, None, batch, self.budget, page_dir=self.pages)
        return self.compiled(*batch)


def tiny_bert() -> nn.Module:
    """Two layers, two heads, 100 words, three classes."""
    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, num_labels=3
    )
    return BertForSequenceClassification(config)


def sentences(count: int) -> list[dict[str, Tensor]]:
    """Sixteen tokens each, and a class."""
    return [
        {
            "input_ids": torch.randint(0, 100, (16,)),
            "attention_mask": torch.ones(16, dtype=torch.int64),
            "labels": torch.randint(0, 3, ()),
        }
        for _ in range(count)
    ]


def arguments(folder: Path) -> TrainingArguments:
    """What any `Trainer` is given; batches must all be of one shape, so the rest of the data is dropped."""
    return TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=1.0,
        learning_rate=1e-3,
        num_train_epochs=2,
        lr_scheduler_type="cosine",
        dataloader_drop_last=True,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        trainer = PlannedTrainer(
            tiny_bert(), arguments(Path(folder)), train_dataset=sentences(24), budget="50%", pages=Path(folder)
        )
        print(trainer.train())
        print(trainer.compiled.report if trainer.compiled else "no step")
