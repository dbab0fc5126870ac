"""Both training stages at toy size, and what their run folders hold."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from wvq.pipelines.train_prior import PriorTraining, train_prior
from wvq.pipelines.train_tokenizer import TokenizerTraining, train_tokenizer
from wvq.prior import PriorSize
from wvq.tokenizer import TokenizerConfig, VQTokenizer
from wvq.tokenizer.data.config import DataConfig

MODEL = TokenizerConfig(
    channels=1, patch_size=2, base_channels=8, channel_multipliers=(1, 1), num_blocks=1, latent_channels=8,
    codebook_size=32, codebook_dim=4,
)  # fmt: skip
TIMINGS = ("seconds", "images_per_second", "tokens_per_second")
STAGES = ("tokenizer", "prior")


def toy_stage(name: str, source: Path, folder: Path) -> tuple[Callable[[Any], Path], Any]:
    """(train function, configuration of 8 steps) of the stage called "tokenizer" or "prior"."""
    torch.set_num_threads(1)
    data = DataConfig(source=str(source), channels=1)
    schedule: dict[str, Any] = {"steps": 8, "batch_size": 20, "warmup_steps": 2}
    schedule |= {"log_every": 1, "evaluate_every": 4, "checkpoint_every": 3}
    if name == "tokenizer":
        run = TokenizerTraining(output_dir=str(folder / name), data=data, model=MODEL, learning_rate=3e-3, **schedule)
        return train_tokenizer, run
    run = PriorTraining(
        output_dir=str(folder / name),
        tokenizer=untrained_tokenizer(folder / "untrained"),
        data=data,
        tokens_dir=str(folder / "tokens"),
        model=PriorSize(hidden_size=16, num_layers=1, num_heads=2),
        learning_rate=1e-2,
        sample_every=8,
        **schedule,
    )
    return train_prior, run


def untrained_tokenizer(folder: Path) -> str:
    """Save a tokenizer with random weights and well-spread codes; returns its folder."""
    torch.manual_seed(0)
    VQTokenizer(dataclasses.replace(MODEL, quantizer_options={"init_std": 0.5})).save_pretrained(folder)
    return str(folder)


def changed(config: Any, name: str = "", **changes: Any) -> Any:
    """The configuration with changes, in a run folder of another name if one is given."""
    folder = Path(config.output_dir)
    return dataclasses.replace(config, output_dir=str(folder.with_name(name) if name else folder), **changes)


def rows(config: Any, split: str) -> list[dict[str, float]]:
    lines = (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if row["split"] == split]


def untimed(config: Any) -> list[dict[str, float]]:
    both = rows(config, "train") + rows(config, "evaluation")
    return [{name: value for name, value in row.items() if name not in TIMINGS} for row in both]


def weights(config: Any) -> dict[str, torch.Tensor]:
    return load_file(Path(config.output_dir) / "model" / "model.safetensors")


def assert_equal_runs(one: Any, other: Any) -> None:
    assert untimed(one) == untimed(other)
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def assert_close_runs(one: Any, other: Any, metrics: float, rtol: float, atol: float) -> None:
    """Equal metrics to that relative tolerance, and equal weights to the others."""
    for row, its in zip(untimed(one), untimed(other), strict=True):
        assert its.pop("split") == row.pop("split")
        assert its == pytest.approx(row, rel=metrics)
    expected, found = weights(one), weights(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=rtol, atol=atol, msg=lambda text, n=name: f"{n}: {text}")
