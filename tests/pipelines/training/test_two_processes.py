"""Two processes with half of each batch train what one does, in both stages and with every quantizer, to rounding."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import run
from safetensors.torch import load_file
from toy_runs import MODEL, assert_close_runs, changed, toy_stage

from wvq.pipelines.class_conditional import load_prior
from wvq.tokenizer import VQTokenizer

Runs = dict[str, tuple[Callable[[Any], Path], Any]]

STEPS = 30
QUANTIZERS: dict[str, dict[str, Any]] = {
    "vanilla": {}, "ema": {}, "online": {}, "linear": {}, "wasserstein": {}, "mmd": {},
    "transport": {}, "product": {"quantizer": "ema"}, "residual": {"quantizers": 3},
}  # fmt: skip


def trainings(images: Path, shards: Path, folder: Path) -> Runs:
    """(train function, configuration) of 30 steps: a tokenizer of each quantizer, one from a stream, and a prior."""
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
    train, config = toy_stage("prior", images, folder)
    accumulated = {"gradient_accumulation_steps": 2, "optimizer": "adamw", "code_geometry": 8}  # Muon is bfloat16
    runs["prior"] = train, changed(config, sample_every=0, **accumulated, **short)
    tried = {**accumulated, "gradient_accumulation_steps": 0}
    runs["prior, parts tried"] = train, changed(config, "tried", sample_every=0, **tried, **short)
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


@pytest.mark.parametrize("name", [*QUANTIZERS, "stream", "prior", "prior, parts tried"])
def test_two_processes_train_what_one_does(both: list[Runs], name: str):
    one, two = (runs[name][1] for runs in both)
    assert_close_runs(one, two, metrics=1e-3, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*QUANTIZERS, "stream", "prior", "prior, parts tried"])
def test_every_parameter_had_a_gradient_and_one_update_in_each_step(both: list[Runs], name: str):
    for runs in both:
        folder = Path(runs[name][1].output_dir)
        model = (load_prior if name.startswith("prior") else VQTokenizer.from_pretrained)(folder / "model")
        trained = sum(parameter.requires_grad for parameter in model.parameters())
        trained += 2 * name.startswith("prior")  # the maps of the geometry, which are folded
        optimizer = load_file(folder / "checkpoints" / f"step-{STEPS:08d}" / "optimizers.safetensors")
        assert [int(value) for key, value in optimizer.items() if key.endswith(".step")] == [STEPS] * trained
