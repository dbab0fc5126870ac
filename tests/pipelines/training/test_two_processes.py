"""Two processes with half of each batch train what one does, in both stages and with every quantizer, to rounding."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adversarial_runs import toy_training
from processes import run
from safetensors.torch import load_file
from toy_runs import MODEL, assert_close_runs, changed, toy_stage, untimed

from wvq.pipelines.adversarial.command import train_stage_one
from wvq.pipelines.class_conditional import load_prior
from wvq.tokenizer import VQTokenizer

Runs = dict[str, tuple[Callable[[Any], Path], Any]]

STEPS = 30
QUANTIZERS: dict[str, dict[str, Any]] = {
    "vanilla": {}, "ema": {}, "online": {}, "linear": {}, "wasserstein": {}, "mmd": {},
    "transport": {}, "product": {"quantizer": "ema"}, "residual": {"quantizers": 3},
}  # fmt: skip

NAMES = [*QUANTIZERS, "stream", "prior", "prior, parts tried", "prior, random", "prior, annealed"]


def trainings(images: Path, shards: Path, folder: Path) -> Runs:
    """(train function, configuration) of 30 steps: a tokenizer of each quantizer, one from a stream, and priors."""
    short: dict[str, Any] = {"steps": STEPS, "batch_size": 8, "evaluate_every": STEPS, "checkpoint_every": STEPS}
    runs: Runs = {}
    for name, options in QUANTIZERS.items():
        train, config = toy_stage("tokenizer", images, folder)
        model = dataclasses.replace(MODEL, quantizer=name.split(",")[0], quantizer_options={"init_std": 0.3, **options})
        data = dataclasses.replace(config.data, horizontal_flip=True)
        runs[name] = train, changed(config, name, model=model, data=data, evaluation_images=40, **short)
    train, config = runs["wasserstein"]
    streamed = dataclasses.replace(config.data, source=str(shards), streaming=True, skip_bad_images=True)
    runs["stream"] = train, changed(config, "stream", data=streamed)
    settings = {"ema_decay": 0.5, "discriminator_start": 0, "gradient_accumulation_steps": 2}
    config = toy_training(images, folder / "adversarial", **short | settings)
    # Micro-batches of two processes come in another order, and codes from data would be other vectors.
    model = dataclasses.replace(config.model, quantizer_options={"initialization": "normal"})
    slow = dataclasses.replace(config.discriminator, learning_rate=3e-4)  # what rounding decides is as large as a step
    runs["adversarial"] = train_stage_one, changed(config, model=model, discriminator=slow)
    train, config = toy_stage("prior", images, folder)
    accumulated = {"gradient_accumulation_steps": 2, "optimizer": "adamw", "code_geometry": 8}  # Muon is bfloat16
    runs["prior"] = train, changed(config, sample_every=0, **accumulated, **short)
    tried = {**accumulated, "gradient_accumulation_steps": 0}
    runs["prior, parts tried"] = train, changed(config, "tried", sample_every=0, **tried, **short)
    in_order = {**accumulated, "sample_every": 0, **short}
    runs["prior, random"] = train, changed(config, "random", order="random", **in_order)
    gpt2 = dataclasses.replace(config.model, architecture="gpt2")
    runs["prior, annealed"] = train, changed(config, "annealed", order="annealed", model=gpt2, **in_order)
    return runs


def train_all(runs: Runs) -> None:
    for train, config in runs.values():
        train(config)


@pytest.fixture(scope="module")
def both(fashion_folder: Path, fashion_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Runs]:
    """The runs of one process and of two."""
    runs = [trainings(fashion_folder, fashion_shards, tmp_path_factory.mktemp(name)) for name in ("one", "two")]
    for world, each in enumerate(runs, start=1):
        run(world, train_all, each)
    return runs


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_train_what_one_does(both: list[Runs], name: str):
    one, two = (runs[name][1] for runs in both)
    assert_close_runs(one, two, metrics=1e-3, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_had_a_gradient_and_one_update_in_each_step(both: list[Runs], name: str):
    for runs in both:
        folder = Path(runs[name][1].output_dir)
        model = (load_prior if name.startswith("prior") else VQTokenizer.from_pretrained)(folder / "model")
        trained = sum(parameter.requires_grad for parameter in model.parameters())
        trained += 2 * name.startswith("prior")  # the maps of the geometry, which are folded
        trained += name == "prior, annealed"  # and so are the positions of the targets
        optimizer = load_file(folder / "checkpoints" / f"step-{STEPS:08d}" / "optimizers.safetensors")
        assert [int(value) for key, value in optimizer.items() if key.endswith(".step")] == [STEPS] * trained


def test_two_processes_play_the_game_that_one_does(both: list[Runs]):
    """With looser bounds: the sign of a gradient of almost 0 decides what AdamW does to a discriminator's weight."""
    one, two = (runs["adversarial"][1] for runs in both)
    for row, its in zip(untimed(one), untimed(two), strict=True):
        split = row.pop("split"), its.pop("split")
        assert split[0] == split[1]
        assert its == pytest.approx(row, rel=5e-3, abs=5e-4)
    expected, found = (
        load_file(Path(run.output_dir) / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors")
        for run in (one, two)
    )
    names = {name for name in expected if name.startswith(("discriminator.", "lecam."))}
    assert {"lecam.mean_real", "lecam.mean_fake"} < names
    assert expected["lecam.mean_real"] != 0 != expected["lecam.mean_fake"]
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=2e-4, msg=lambda text, n=name: f"{n}: {text}")
