"""What training does when numbers are not finite, memory runs out, or the codebook collapses."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from toy_runs import STAGES, changed, rows, toy_stage, weights

from wvq.pipelines.train_tokenizer import train_tokenizer
from wvq.pipelines.training import collapse
from wvq.pipelines.training.collapse import collapse_warning
from wvq.pipelines.training.step_record import StepRecord
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.model import TokenizerConfig


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, fashion_folder: Path, tmp_path: Path) -> tuple[Callable[[Any], Path], Any]:
    """(train function, configuration) of each stage."""
    return toy_stage(request.param, fashion_folder, tmp_path)


@pytest.fixture
def stage_one(fashion_folder: Path, tmp_path: Path) -> Any:
    return toy_stage("tokenizer", fashion_folder, tmp_path)[1]


def poison_gradients(monkeypatch: pytest.MonkeyPatch, batches: range) -> None:
    """Make the gradients of these backward passes, counted from 1, infinite or NaN while the loss stays finite."""
    backward, count = Accelerator.backward, [0]

    def poisoned(accelerator: Accelerator, loss: Tensor) -> None:
        count[0] += 1
        backward(accelerator, loss * float("inf") if count[0] in batches else loss)

    monkeypatch.setattr(Accelerator, "backward", poisoned)


# Numbers that are not finite


def test_a_step_with_a_gradient_that_is_not_finite_is_skipped_and_counted(stage, monkeypatch):
    train, config = stage
    poison_gradients(monkeypatch, range(3, 5))
    train(config)
    lines = rows(config, "train")
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 2, 2, 2, 2, 2]
    assert ["loss" in line for line in lines] == [True, True, False, False, True, True, True, True]
    assert all(value.isfinite().all() for value in weights(config).values())
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_after_the_limit_of_skipped_steps_the_run_stops_and_says_why(stage, monkeypatch):
    train, config = stage
    config = changed(config, max_skipped_steps=3)
    poison_gradients(monkeypatch, range(4, 100))
    with pytest.raises(InputError) as stopped:
        train(config)
    norm = "network" if train is train_tokenizer else "model"
    for part in (
        "step 6 was the last of 3 in a row",
        "batch 5",
        "loss ",
        f"gradient norm of {norm} nan",
        "learning rate",
    ):
        assert part in str(stopped.value)
    assert [path.name for path in (Path(config.output_dir) / "checkpoints").iterdir()] == ["step-00000003"]
    assert not (Path(config.output_dir) / "model").exists()


@pytest.mark.parametrize("part", [0, 1])
def test_features_that_are_not_finite_skip_the_whole_step(stage_one, monkeypatch, part):
    """Codes and statistics that move in the forward pass go on with the next step, in whatever part it happened."""
    features, count = VQTokenizer.features, [0]

    def poisoned(tokenizer: VQTokenizer, images: Tensor) -> Tensor:
        count[0] += tokenizer.training
        return features(tokenizer, images) * (float("nan") if tokenizer.training and count[0] == 5 + part else 1)

    monkeypatch.setattr(VQTokenizer, "features", poisoned)
    train_tokenizer(changed(stage_one, gradient_accumulation_steps=2))
    assert [line["skipped_steps"] for line in rows(stage_one, "train")] == [0, 0, 1, 1, 1, 1, 1, 1]
    saved = weights(stage_one)
    assert all(value.isfinite().all() for value in saved.values())
    # The window of statistics has had one push a step, after the one whose vectors became codes.
    assert saved["quantizer.features.position"] == 6


def test_a_skipped_step_changes_no_weight_and_no_moment_of_the_optimizer():
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(
        *((linear := nn.Linear(2, 2)), torch.optim.AdamW(linear.parameters(), weight_decay=0.5))
    )
    record = StepRecord(accelerator, model, limit=10)
    states = []
    for number, scale in enumerate([1.0, float("nan"), float("inf")]):
        with record.guard(number, number):
            loss = model(torch.ones(1, 2)).sum() * scale
            loss.backward()
            record.add({"loss": loss})
            record.check()
            optimizer.step()
        optimizer.zero_grad()
        moments = [value for state in optimizer.state_dict()["state"].values() for value in state.values()]
        states.append([value.clone() for value in [*model.parameters(), *moments]])
    assert len(states[0]) == 8
    assert all(torch.equal(first, other) for state in states[1:] for first, other in zip(states[0], state, strict=True))
    assert record.means()["skipped_steps"] == 2


# Memory


def test_running_out_of_memory_names_the_batch_and_what_would_need_less(stage_one, monkeypatch):
    monkeypatch.setattr(VQTokenizer, "forward", lambda model, images: torch.empty(2**60))
    said = (
        r"out of memory: .* tried to allocate \d+ bytes.*\n"
        r"batch_size 20 in 1 micro-batch\(es\) on 1 process\(es\) is 20 images"
    )
    with pytest.raises(InputError, match=said) as stopped:
        train_tokenizer(stage_one)
    assert "try gradient_accumulation_steps 2 " in str(stopped.value)
    with pytest.raises(InputError, match="is 1 images at once; try a smaller model"):
        train_tokenizer(changed(stage_one, "single", gradient_accumulation_steps=20))


# Collapse


@pytest.mark.parametrize(
    ("utilizations", "said"),
    [
        ([0.9, 0.95], None),
        ([0.9, 0.5], None),
        ([0.9, 0.4], "step 20: the codebook is collapsing: utilization fell from 0.900 at step 10 to 0.400"),
        ([0.2], "utilization is 0.200, where codes drawn at random would reach 0.997"),
    ],
)
def test_a_collapsing_codebook_is_told(utilizations: list[float], said: str | None):
    model = TokenizerConfig(image_size=32, codebook_size=1024)  # 64 tokens an image
    lines: list[dict[str, Any]] = [
        {"step": 10 * n, "utilization": value, "perplexity": 100.0} for n, value in enumerate(utilizations, start=1)
    ]
    warning = collapse_warning([{"step": 5, "loss": 1.0}, *lines], model, images=92)
    assert (said in warning and "--model.quantizer wasserstein" in warning) if said and warning else warning is said


def test_few_evaluation_tokens_are_no_collapse():
    model = TokenizerConfig(image_size=32, codebook_size=65536)
    line = {"step": 1, "utilization": 0.05, "perplexity": 3000.0}
    assert collapse_warning([line], model, images=64) is None  # 4,096 tokens cannot use more than 0.0625
    assert collapse_warning([line], model, images=6400)


def test_collapse_is_told_while_training(stage_one, monkeypatch, capsys):
    monkeypatch.setattr(collapse, "LOW", 2.0)
    train_tokenizer(dataclasses.replace(stage_one, steps=4))
    assert "step 4: the codebook is collapsing" in capsys.readouterr().err


@pytest.mark.parametrize(("initialization_steps", "told"), [(2, False), (100, True)])
def test_a_tokenizer_without_codes_is_told(stage_one, capsys, initialization_steps: int, told: bool):
    options = {"initialization": "data", "initialization_steps": initialization_steps}
    model = dataclasses.replace(stage_one.model, quantizer_options=options)
    train_tokenizer(dataclasses.replace(stage_one, steps=4, model=model))
    assert ("step 4: features still pass unquantized" in capsys.readouterr().err) == told
