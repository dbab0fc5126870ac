"""Trainings with a discriminator at toy size."""

from pathlib import Path
from typing import Any

import torch
from toy_runs import MODEL

from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.tokenizer.adversarial.config import DiscriminatorConfig
from wvq.tokenizer.data.config import DataConfig

DISCRIMINATOR = DiscriminatorConfig(
    base_channels=8, num_layers=1, learning_rate=3e-3, lead=2, ramp=2, lecam_weight=0.1, r1_weight=0.01,
    augmentation=True,
)  # fmt: skip


def toy_training(source: Path, folder: Path, **changes: Any) -> TokenizerTraining:
    """Of 12 steps: the discriminator trains from step 3 and is used from step 5."""
    torch.set_num_threads(1)
    settings: dict[str, Any] = {
        "steps": 12, "batch_size": 20, "warmup_steps": 2, "log_every": 1, "evaluate_every": 4, "checkpoint_every": 3,
        "learning_rate": 3e-3, "ema_decay": 0.8, "adversarial_weight": 0.3, "discriminator_start": 3,
        "discriminator": DISCRIMINATOR, "evaluation_images": 40,
    }  # fmt: skip
    data = DataConfig(source=str(source), channels=1, horizontal_flip=True)
    return TokenizerTraining(output_dir=str(folder), data=data, model=MODEL, **(settings | changes))
