"""What `wvq compare` ends with, and that it resumes wherever its images lie."""

import dataclasses
import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_runs import MODEL

from wvq.eval.comparison import compare as compare_module
from wvq.eval.comparison.compare import Comparison, compare, compare_and_summarize
from wvq.pipelines.command_line import COMMANDS, parse
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig


@pytest.fixture
def config(fashion_folder: Path, tmp_path: Path) -> Comparison:
    shutil.copytree(fashion_folder, tmp_path / "images")
    schedule: dict[str, Any] = {"steps": 2, "warmup_steps": 1, "batch_size": 16, "evaluate_every": 2}
    return Comparison(
        output_dir=str(tmp_path / "out"),
        data=DataConfig(str(tmp_path / "images"), channels=1),
        tokenizer=TokenizerTraining(model=MODEL, **schedule),
        tokenizers_only=True,
        extractor="efficientnet-lite0",
    )


def test_it_ends_with_the_table_the_time_and_where_the_pictures_are(config: Comparison, tmp_path: Path):
    assert COMMANDS["compare"].function == COMMANDS["demo"].function == f"{compare.__module__}:compare_and_summarize"
    text = compare_and_summarize(config)
    header, first, second, how_to_read, runs, report, pictures = text.strip().splitlines()
    assert header.split()[0] == "Method"
    assert [line.split()[0] for line in (first, second)] == ["vanilla", "wasserstein"]
    assert "* is best at the digits shown" in how_to_read
    assert "*" in first + second
    assert runs.startswith("2 runs; this took ")
    assert report == f"report: {tmp_path / 'out' / 'report.html'}"
    pattern = pictures.removeprefix("pictures from the training: ")
    assert len(list(Path("/").glob(f"{pattern.removeprefix('/')}/step-*.png"))) == 2


def test_it_ends_with_how_to_look_at_its_last_pipeline(config: Comparison, tmp_path: Path, monkeypatch):
    report = compare(config)
    monkeypatch.setattr(compare_module, "compare", lambda _: report)
    monkeypatch.setattr(sys, "argv", [".venv/bin/wvq", "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    *_, last = compare_and_summarize(dataclasses.replace(config, tokenizers_only=False)).splitlines()
    command = shlex.split(last.removeprefix("to draw from it in a browser: "))
    assert command[:2] == [".venv/bin/wvq", "app"]
    application = parse("app", command[2:])
    assert application.pipeline == (str(tmp_path / "out" / "wasserstein-0" / "prior" / "pipeline"),)
    assert application.data.source == config.data.source


def test_it_resumes_with_images_that_were_moved_and_with_no_others(config: Comparison, tmp_path: Path):
    compare(config)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    (tmp_path / "images").rename(tmp_path / "moved")
    moved = dataclasses.replace(config, data=DataConfig(f"{tmp_path}/moved/", channels=1))
    compare(moved)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")} == written
    assert json.loads((tmp_path / "out" / "recipe.json").read_text())["data"]["source"] == f"{tmp_path}/moved/"
    next((tmp_path / "moved").glob("train/*/*.png")).unlink()
    with pytest.raises(InputError, match=r"holds a comparison with train images = \w{12}, this one has \w{12}"):
        compare(moved)
