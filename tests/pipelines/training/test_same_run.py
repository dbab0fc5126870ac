"""What a run resumes with, what is refused, and what begins anew: contents are compared, not where they lie."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from toy_run_folders import Process, Training
from toy_runs import MODEL, STAGES, assert_equal_runs, changed, toy_stage, weights

from wvq.pipelines.adversarial.command import TokenizerRefinement, refine_tokenizer
from wvq.pipelines.train_prior import PriorTraining, train_pipeline
from wvq.pipelines.training.loop import Loop
from wvq.pipelines.training.run import Run
from wvq.pipelines.training.saved_config import first_difference
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data.config import DataConfig


class Interruption(Exception):
    """Power failure, say."""


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, fashion_folder: Path, tmp_path: Path) -> tuple[Any, Any]:
    """(train function, configuration) of each stage, with images of its own that may be moved."""
    shutil.copytree(fashion_folder, tmp_path / "images")
    return toy_stage(request.param, tmp_path / "images", tmp_path)


def interrupted(train: Any, config: Any, step: int) -> None:
    """Train up to a step and stop there."""
    log = Run.log

    def log_and_break(run: Run, number: int, split: str, values: dict[str, float]) -> None:
        log(run, number, split, values)
        if number == step:
            raise Interruption

    with mock.patch.object(Run, "log", log_and_break), pytest.raises(Interruption):
        train(config)


def test_the_advice_after_running_out_of_memory_can_be_followed(stage):
    train, config = stage

    def full(*arguments: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with (
        mock.patch.object(Loop, "backward", full),
        pytest.raises(InputError, match="try gradient_accumulation_steps 2"),
    ):
        train(config)
    train(changed(config, gradient_accumulation_steps=2))
    train(changed(config, "straight", gradient_accumulation_steps=2))
    assert_equal_runs(config, changed(config, "straight"))


def test_a_run_goes_on_with_more_micro_batches(stage):
    train, config = stage
    interrupted(train, config, step=5)
    train(changed(config, gradient_accumulation_steps=2, evaluate_every=8))
    train(changed(config, "straight"))
    for name, value in weights(changed(config, "straight")).items():
        if value.is_floating_point() and train.__name__ == "train_tokenizer":  # nothing is drawn by micro-batch
            torch.testing.assert_close(weights(config)[name], value, rtol=1e-2, atol=1e-3)


def test_moved_data_and_other_names_of_it_are_no_difference(stage, monkeypatch):
    train, config = stage
    interrupted(train, config, step=5)
    images = Path(config.data.source)
    monkeypatch.chdir(images.parent)
    monkeypatch.setenv("HOME", str(images.parent))
    for source in (f"{images}/", "images", "~/images"):
        interrupted(train, changed(config, data=replace(config.data, source=source)), step=5)
    images.rename("moved")
    if isinstance(config, PriorTraining):
        shutil.move(config.tokenizer, "moved-tokenizer")
        shutil.rmtree(config.tokens_dir)
        config = changed(config, tokenizer="moved-tokenizer", tokens_dir="other-tokens")
    moved = changed(config, data=replace(config.data, source="moved"))
    model = train(moved)
    assert train(moved) == model
    assert train(changed(moved, data=replace(config.data, source="./moved"))) == model


def test_other_images_and_another_tokenizer_are_refused_wherever_they_lie(stage):
    train, config = stage
    interrupted(train, config, step=5)
    before = (Path(config.output_dir) / "metrics.jsonl").read_bytes()
    image = next(Path(config.data.source).glob("train/*/*.png"))
    content = image.read_bytes()
    image.unlink()
    with pytest.raises(
        InputError, match=r"holds a run with train images = \w{12}, this one has \w{12}; give it another"
    ):
        train(config)
    image.write_bytes(content)
    if isinstance(config, PriorTraining):
        torch.manual_seed(1)
        VQTokenizer(VQTokenizer.from_pretrained(config.tokenizer).config).save_pretrained(config.tokenizer)
        with pytest.raises(InputError, match=r"holds a run with tokenizer = \w{12}, this one has"):
            train(config)
    assert (Path(config.output_dir) / "metrics.jsonl").read_bytes() == before


def test_a_finished_run_does_not_answer_for_other_data(stage, fashion_shards):
    train, config = stage
    train(config)
    with pytest.raises(InputError, match=r"holds a run with (train|evaluation) images = "):
        train(changed(config, data=replace(config.data, source=str(fashion_shards))))


def test_a_finished_prior_does_not_answer_for_another_tokenizer(fashion_folder: Path, tmp_path: Path):
    train, config = toy_stage("prior", fashion_folder, tmp_path)
    config = changed(config, data=replace(config.data, image_size=28))
    model = train(config)
    kept = Path(config.tokenizer).rename(tmp_path / "kept")
    assert train(config) == model, "of a tokenizer that is gone"
    torch.manual_seed(1)
    VQTokenizer(VQTokenizer.from_pretrained(kept).config).save_pretrained(config.tokenizer)
    for again in (train, train_pipeline):
        with pytest.raises(
            InputError, match=r"holds a run with tokenizer = \w{12}, this one has \w{12}; give it anoth"
        ):
            again(config)
    shutil.rmtree(config.tokenizer)
    kept.rename(config.tokenizer)
    assert train(config) == model


def test_a_finished_refinement_does_not_answer_for_another_tokenizer(fashion_folder: Path, tmp_path: Path):
    data = DataConfig(str(fashion_folder), image_size=28, channels=1)
    source = tmp_path / "tokenizer"
    config = TokenizerRefinement(output_dir=str(tmp_path / "refined"), tokenizer=str(source), data=data, steps=1,
                                 batch_size=4, perceptual_weight=0, adversarial_weight=0, evaluate_every=1)  # fmt: skip
    VQTokenizer(MODEL).save_pretrained(source)
    model = refine_tokenizer(config)
    assert refine_tokenizer(config) == model
    shutil.rmtree(source)
    VQTokenizer(MODEL).save_pretrained(source)  # of other weights
    with pytest.raises(InputError, match=r"holds a run with tokenizer = \w{12}, this one has \w{12}; give it another"):
        refine_tokenizer(config)


def test_a_run_of_an_older_version_is_compared_by_the_names_of_its_inputs(stage):
    train, config = stage
    interrupted(train, config, step=5)
    inputs = Path(config.output_dir) / "inputs.json"
    expected = json.loads(inputs.read_text())
    inputs.unlink()
    other = Path(config.data.source).with_name("other")
    shutil.copytree(config.data.source, other)
    with pytest.raises(InputError, match=r"holds a run with data\.source = \S+images, this one has \S+other"):
        train(changed(config, data=replace(config.data, source=str(other))))
    train(changed(config, data=replace(config.data, source=f"{config.data.source}/")))
    assert json.loads(inputs.read_text()) == expected


def test_a_prior_that_cannot_begin_claims_no_folder(fashion_folder, tmp_path):
    train, config = toy_stage("prior", fashion_folder, tmp_path)
    wrong = changed(config, data=replace(config.data, image_size=32))
    with pytest.raises(InputError, match="32"):
        train(wrong)
    assert not Path(config.output_dir).exists()
    train(config)


def test_a_folder_without_a_checkpoint_begins_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = Training(output_dir=str(tmp_path / "run"))
    first = Process(config)
    first.run.log(2, "train", {"loss": 1.0})
    (tmp_path / "run" / "accumulation.json").write_text("{}")
    (tmp_path / "run" / "notes.json").write_text("of the user")
    process = Process(replace(config, steps=20))
    assert "has no checkpoint of its run with steps = 10: it begins anew" in capsys.readouterr().err
    assert process.resume() == 0
    assert process.run.metrics() == []
    assert json.loads((tmp_path / "run" / "run.json").read_text())["steps"] == 20
    assert not (tmp_path / "run" / "accumulation.json").exists()
    assert (tmp_path / "run" / "notes.json").exists()


@pytest.mark.parametrize("left", ["checkpoints/step-00000003", "checkpoints/damaged-step-00000003", "model", "metrics"])
def test_what_could_be_lost_is_no_place_to_begin_anew(tmp_path: Path, left: str):
    config = Training(output_dir=str(tmp_path / "run"))
    first = Process(config)
    if left == "metrics":  # of steps after the first checkpoint, which somebody has removed
        first.run.log(4, "train", {"loss": 1.0})
    else:
        (tmp_path / "run" / left).mkdir(parents=True)
    with pytest.raises(InputError, match="holds a run with steps = 10, this one has 20"):
        Process(replace(config, steps=20))


@pytest.mark.parametrize("field", ["data.source", "data.root", "tokenizer", "tokens_dir", "tokenizer.data.source"])
def test_two_names_of_one_place(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "a/", "./a", "~/a", str(tmp_path / "a"), "b/../a"):
        assert first_difference("a", name, name=field) is None
    assert first_difference("a", "b", name=field) == (field, "a", "b")
    assert first_difference(None, "a", name=field) == (field, None, "a")
    assert first_difference("a", "a/", name="model.quantizer") == ("model.quantizer", "a", "a/")
