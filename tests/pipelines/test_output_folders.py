"""Where commands write: the user's own folder stays that folder, is checked before the work, and "~" is expanded."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from tiny_pipelines import tiny_pipeline, tiny_tokenizer
from toy_runs import STAGES, toy_stage

from wvq.eval.comparison.config import Comparison
from wvq.eval.evaluate import Evaluation
from wvq.eval.studies.atomic import Atomic
from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.edit import Edit, edit
from wvq.pipelines.generation import Sampling
from wvq.pipelines.reconstruct import Reconstruction, reconstruct
from wvq.pipelines.sample import sample
from wvq.pipelines.tokenize import Tokenization
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data.config import DataConfig


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("config_class", "names"),
    [
        (Sampling, ["pipeline", "output_dir"]),
        (Edit, ["pipeline", "image", "mask", "output_dir"]),
        (Reconstruction, ["tokenizer", "output_dir"]),
        (Tokenization, ["tokenizer", "output_dir"]),
        (Comparison, ["output_dir", "extractor_weights"]),
        (Evaluation, ["tokenizer", "resume_dir", "output", "extractor_weights", "lpips_weights"]),
        (Evaluation, ["images", "reference", "save_reference"]),
        (Evaluation, ["pipeline"]),
        (Atomic, ["output_dir"]),
    ],
)
def test_the_home_folder_in_every_path_option(home: Path, config_class: Any, names: list[str]):
    config = config_class(**{name: f"~/{name}" for name in names})
    assert {name: getattr(config, name) for name in names} == {name: str(home / name) for name in names}


def test_pipelines_and_tokenizers_of_the_home_folder(home: Path):
    tiny_pipeline().save_pretrained("~/pipe")
    tiny_tokenizer().save_pretrained("~/tokenizer")
    assert sorted(path.name for path in home.iterdir()) == ["pipe", "tokenizer"]
    ClassConditionalPipeline.from_pretrained("~/pipe")
    VQTokenizer.from_pretrained("~/tokenizer")
    folder = sample(Sampling(pipeline="~/pipe", output_dir="~/samples", num_images_per_class=1))
    assert folder == home / "samples"
    assert sample(Sampling(pipeline="~/pipe", output_dir="~/set", num_images=3)) == home / "set"
    assert [path.name for path in home.parent.iterdir()] == ["home"]


@pytest.mark.parametrize("stage", STAGES)
def test_runs_of_the_home_folder(home: Path, fashion_folder: Path, stage: str):
    train, config = toy_stage(stage, fashion_folder, home)
    train(dataclasses.replace(config, output_dir="~/runs", steps=3))
    assert (home / "runs" / "model").is_dir()
    assert [path.name for path in home.parent.iterdir()] == ["home"]


def test_samples_go_into_the_folder_that_there_is(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    out = tmp_path / "out"
    out.mkdir()
    before = out.stat().st_ino
    for _ in range(2):
        sample(Sampling(pipeline=str(tmp_path / "pipe"), output_dir=str(out), num_images_per_class=1))
    assert out.stat().st_ino == before
    assert sorted(path.name for path in out.iterdir()) == ["grid.png", "images", "samples.json"]
    about = json.loads((out / "samples.json").read_text())
    assert (about["labels"], about["class_names"]) == ([0, 1, 2], ["Sneaker", "Sandal", "Bag"])


@pytest.mark.parametrize("command", [sample, edit, reconstruct])
def test_a_folder_with_something_else_is_refused_before_anything_is_loaded(tmp_path: Path, command: Any):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    absent: dict[str, Any] = {"output_dir": str(tmp_path / "out")}
    config = {
        sample: Sampling(pipeline="absent", **absent),
        edit: Edit(pipeline="absent", **absent),
        reconstruct: Reconstruction(tokenizer="absent", **absent),
    }[command]
    with pytest.raises(InputError, match=r"out would be replaced, but holds 'thesis.tex' as well"):
        command(config)


def test_a_set_goes_on_wherever_its_pipeline_lies(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    options: dict[str, Any] = {"output_dir": str(tmp_path / "out"), "num_images": 4}
    sample(Sampling(pipeline=str(tmp_path / "pipe"), **options))
    (tmp_path / "out" / "images" / "000002.png").unlink()
    (tmp_path / "pipe").rename(tmp_path / "moved")
    sample(Sampling(pipeline=str(tmp_path / "moved"), **options))
    assert (tmp_path / "out" / "images" / "000002.png").exists()
    other = tiny_pipeline()
    with torch.no_grad():
        other.prior.lm_head.weight *= 2
    other.save_pretrained(tmp_path / "moved")
    with pytest.raises(InputError, match="holds samples of another prior; give another output_dir"):
        sample(Sampling(pipeline=str(tmp_path / "moved"), **options))


def sample_and_reconstruct(folder: Path, source: str) -> list[str]:
    made = sample(Sampling(pipeline=str(folder / "pipe"), output_dir=str(folder / "out"), num_images_per_class=2))
    data = DataConfig(source=source, image_size=16)
    again = reconstruct(Reconstruction(str(folder / "pipe" / "tokenizer"), data, str(folder / "again"), num_images=4))
    return [str(made), str(again)]


def test_several_processes_write_small_sets_once(tmp_path: Path, fashion_folder: Path):
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    processes.run(2, sample_and_reconstruct, tmp_path, str(fashion_folder))
    assert len(list((tmp_path / "out" / "images").iterdir())) == 6
    assert len(list((tmp_path / "again" / "originals").iterdir())) == 4
