"""Fewer evaluation images than processes: those without an image wait for nobody and spoil no score."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from image_files import config_of, write_photos
from processes import run
from torch import Tensor, nn

from wvq.pipelines.processes import this_process
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.train_prior import validate as validate_prior
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.pipelines.train_tokenizer import validate as validate_tokenizer
from wvq.pipelines.training.accelerator import build_accelerator
from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer
from wvq.tokenizer.data.dataset import ImageDataset, load_splits
from wvq.tokenizer.distributed import on_every_process


def training(folder: Path) -> TokenizerTraining:
    model = TokenizerConfig(
        image_size=8, base_channels=8, channel_multipliers=(1, 1), num_blocks=1, latent_channels=8, codebook_size=16,
        codebook_dim=4,
    )  # fmt: skip
    return TokenizerTraining(
        output_dir=str(folder / "run"),
        model=model,
        data=config_of(folder / "photos"),
        evaluation_images=2,
        batch_size=6,
    )


def scores_of(folder: Path) -> dict[str, float]:
    config = training(folder)
    torch.manual_seed(0)
    model = VQTokenizer(config.model)
    accelerator = build_accelerator(config)
    return validate_tokenizer(model, load_splits(config.data)[1], config, accelerator)[0]


class Losses(nn.Module):
    """The mean of the tokens, as if it were a loss; like every mean, NaN of none."""

    def forward(self, tokens: Tensor, labels: Tensor, orders: Tensor | None) -> Tensor:
        return tokens.float().mean()


class Tokens:
    """Token data of two images."""

    def __len__(self) -> int:
        return 2

    def take(self, indices: Tensor) -> dict[str, Tensor]:
        return {"tokens": indices[:, None] + 1, "labels": indices}


def in_three(folder: Path) -> None:
    own = scores_of(folder)
    if this_process().process_index == 0:
        torch.save(own, folder / "three.pt")
    tokens: Any = Tokens()
    model: Any = Losses()
    assert validate_prior(model, tokens, PriorTraining(), build_accelerator(training(folder))) == 1.5


def test_three_processes_score_two_images_as_one_does(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    run(3, in_three, tmp_path)
    run(1, alone, tmp_path)
    one, three = (torch.load(tmp_path / f"{name}.pt") for name in ("one", "three"))
    assert all(math.isfinite(value) for value in three.values())
    assert three == pytest.approx(one, rel=1e-6)


def alone(folder: Path) -> None:
    torch.save(scores_of(folder), folder / "one.pt")


def test_an_image_that_vanishes_stops_all_processes_alike(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos")
    run(2, vanishing, tmp_path)


def vanishing(folder: Path) -> None:
    config = training(folder)
    accelerator = build_accelerator(config)
    evaluation = load_splits(config.data)[1]
    if accelerator.process_index:
        ImageDataset.take = gone  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(InputError, match=r"a\.png cannot be read"):
        validate_tokenizer(VQTokenizer(config.model), evaluation, config, accelerator)
    assert on_every_process(lambda: accelerator.process_index) == accelerator.process_index


def gone(*_: Any) -> None:
    raise InputError("a.png cannot be read")
