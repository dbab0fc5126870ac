"""A short trial needs no more options than a long training, which says at its start how long it will take."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from toy_runs import STAGES, changed, toy_stage

from wvq.eval.comparison.budget import Budget, apply_budget
from wvq.pipelines.command_line import parse
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.train_prior import smaller_sizes as smaller_prior
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.pipelines.train_tokenizer import smaller_sizes as smaller_tokenizer
from wvq.pipelines.training import loop
from wvq.pipelines.training.config import TrainingConfig
from wvq.pipelines.training.loop import duration_line
from wvq.pipelines.training.saved_config import as_json
from wvq.prior import PriorSize
from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.progress import duration_in_words


@pytest.mark.parametrize(("steps", "warmup"), [(100_000, 200), (1000, 200), (999, 199), (60, 12), (4, 0), (1, 0)])
@pytest.mark.parametrize("command", ["train-tokenizer", "train-prior"])
def test_the_warm_up_suits_the_steps(command: str, steps: int, warmup: int):
    config = parse(command, [f"--steps={steps}"])
    assert config.warmup == warmup
    assert config.lr_scale(warmup) == 1.0
    assert as_json(config)["warmup_steps"] == warmup


def test_a_comparison_may_be_short_as_well():
    config = parse("compare", ["--tokenizer.steps=60", "--prior.steps=7"])
    assert [config.training(stage, config.cells[0]).warmup for stage in config.stages] == [12, 1]
    assert apply_budget(TokenizerTraining(batch_size=10), Budget(images=600)).warmup == 12
    assert as_json(config)["prior"]["warmup_steps"] == 1


@pytest.mark.parametrize("given", [["--warmup-steps=60"], ["--warmup-steps=200"], ["--warmup-steps=-1"]])
def test_a_warm_up_that_was_given_and_cannot_be_is_refused(given: list[str]):
    with pytest.raises(InputError, match=r"warmup_steps is -?\d+; it must be at least 0 and below steps, 60"):
        parse("train-tokenizer", ["--steps=60", *given])


def test_a_run_whose_warm_up_was_written_as_a_number_resumes(fashion_folder: Path, tmp_path: Path):
    train, config = toy_stage("tokenizer", fashion_folder, tmp_path)
    train(changed(config, warmup_steps=1))
    before = (Path(config.output_dir) / "run.json").read_text()
    assert json.loads(before)["warmup_steps"] == 1
    assert train(changed(config, warmup_steps=None)) == Path(config.output_dir) / "model"  # a fifth of 8 steps
    with pytest.raises(InputError, match="a run with warmup_steps = 1, this one has 2"):
        train(config)
    assert (Path(config.output_dir) / "run.json").read_text() == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_training_first_says_how_long_it_takes(
    fashion_folder: Path, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
):
    train, config = toy_stage(stage, fashion_folder, tmp_path)
    train(changed(config, steps=loop.FIRST_STEPS + 3, evaluate_every=12, sample_every=0) if stage == "prior" else
          changed(config, steps=loop.FIRST_STEPS + 3, evaluate_every=12))  # fmt: skip
    first, second, *_ = [line for line in capsys.readouterr().out.splitlines() if line]
    assert first.startswith("about 1 second for 2 more steps of 0.")
    assert second.startswith("step 12: ")


def test_many_hours_on_a_cpu_are_answered_with_what_takes_less(
    fashion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(loop, "MANY_HOURS", 0.0)
    monkeypatch.setattr(loop, "FIRST_SECONDS", 1e-9)
    train, config = toy_stage("tokenizer", fashion_folder, tmp_path)
    model = replace(config.model, base_channels=24)
    train(changed(config, model=model, steps=4, gradient_accumulation_steps=2))
    first = capsys.readouterr().out.splitlines()[0]
    assert "for 2 more steps" in first  # the first step warms up, the second is measured
    assert "this is a CPU" in first
    assert "--model.base-channels 12 (a quarter" in first  # 28 pixels are not divided by 2 three times


def test_the_line_names_the_time_and_smaller_sizes_alone_where_it_takes_many_hours():
    line = duration_line(1.116, 100_000, "--model.size XS")
    assert line.startswith("about 31 hours for 100,000 more steps of 1.12 s, without evaluations; this is a CPU")
    assert line.endswith("--model.size XS, or fewer --steps")
    assert (
        duration_line(0.1, 1000, "--model.size XS")
        == "about 2 minutes for 1,000 more steps of 0.1 s, without evaluations"
    )
    assert "CPU" not in duration_line(10, 100_000)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "1 second"), (89, "89 seconds"), (91, "2 minutes"), (5000, "83 minutes"), (31 * 3600, "31 hours"),
     (5 * 86400, "5 days"), (1e9, "11,574 days")],
)  # fmt: skip
def test_durations_in_words(seconds: float, words: str):
    assert duration_in_words(seconds) == words


def test_smaller_sizes_are_ones_that_there_are():
    def options(text: str) -> list[str]:
        words = text.replace(",", " ").split()
        return [f"{word}={value}" for word, value in pairwise(words) if word.startswith("--")]

    advice = options(smaller_tokenizer(TokenizerConfig(image_size=32)))
    tokenizer: Any = parse("train-tokenizer", ["--data.image-size=32", *advice])
    assert (tokenizer.model.base_channels, tokenizer.model.patch_size) == (32, 2)
    assert options(smaller_tokenizer(TokenizerConfig(image_size=28))) == ["--model.base-channels=32"]
    assert smaller_tokenizer(TokenizerConfig(base_channels=16)) == ""
    assert parse("train-prior", options(smaller_prior(PriorTraining()))).model.size == "XS"
    smallest = replace(PriorTraining(), model=PriorSize(size="XS"))
    assert "--model.num-layers" in smaller_prior(smallest)
    assert TrainingConfig(steps=60).warmup == 12
