"""Trainings in other orders than raster, with the geometry of the codes: resumed, saved, drawn from."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import assert_equal_runs, changed, rows, toy_stage, weights
from transformers import AutoModelForCausalLM

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.train_prior import train_pipeline, train_prior
from wvq.pipelines.training.run import Run
from wvq.prior.loading import load_prior
from wvq.tokenizer import InputError

ORDERS = [("random", "llama"), ("annealed", "gpt2")]


def toy_order(order: str, architecture: str, source: Path, folder: Path, **changes: Any) -> Any:
    config = toy_stage("prior", source, folder)[1]
    size = dataclasses.replace(config.model, architecture=architecture)
    return changed(config, order, order=order, model=size, code_geometry=8, annealing=(0.25, 1.0), **changes)


class Interruption(Exception):
    """Power failure, say."""


@pytest.mark.parametrize(("order", "architecture"), ORDERS)
def test_a_resumed_run_is_the_uninterrupted_one_bit_by_bit(
    order: str, architecture: str, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy_order(order, architecture, fashion_folder, tmp_path, ema_decay=0.8, gradient_accumulation_steps=2)
    straight = changed(config, "straight")
    train_prior(straight)
    log = Run.log

    def log_and_break(run: Run, step: int, split: str, values: dict[str, float]) -> None:
        log(run, step, split, values)
        if step == 5:
            raise Interruption

    monkeypatch.setattr(Run, "log", log_and_break)
    with pytest.raises(Interruption):
        train_prior(config)
    monkeypatch.undo()
    torch.manual_seed(12345)  # a new process has other random numbers
    train_prior(config)
    assert_equal_runs(config, straight)
    with pytest.raises(InputError, match=f"holds a run with order = {order}, this one has raster"):
        train_prior(changed(config, order="raster"))


@pytest.mark.parametrize(("order", "architecture"), ORDERS)
def test_the_saved_prior_is_a_plain_one_that_draws(
    order: str, architecture: str, fashion_folder: Path, tmp_path: Path
) -> None:
    config = toy_order(order, architecture, fashion_folder, tmp_path)
    folder = train_pipeline(config)
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "prior")
    ours = load_prior(folder / "prior")
    assert type(ours) is type(model)
    assert getattr(ours.config, "token_order", "raster") == ("random" if order == "random" else "raster")
    assert weights(config).keys() == model.state_dict().keys()
    losses = [row["bits_per_token"] for row in rows(config, "evaluation")]
    assert losses[-1] < losses[0]
    pipeline = ClassConditionalPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(2)]
    passes = {"num_passes": 5} if order == "random" else {}
    images = pipeline([0, 3], guidance_scale=2.0, best_of=2, generator=generators, output_type="uint8", **passes).images
    assert images.shape == (2, 1, 28, 28)
