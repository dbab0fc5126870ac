"""What trackers are told: everything once, in one run of theirs, though the training was stopped in the middle."""

import json
from pathlib import Path
from typing import Any

import pytest
from toy_runs import changed, rows, toy_stage
from wandb_files import histories, run_ids

from wvq.pipelines.training.run import Run

SCALARS = {"tokenizer": "psnr", "prior": "bits_per_token"}
PICTURES = {"tokenizer": ("reconstructions", [4, 8, 10]), "prior": ("samples", [4, 8, 10])}


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No tracker leaves the machine; trackio keeps its database in the folder returned."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    return tmp_path / "trackio"


def train_in_two_parts(monkeypatch: pytest.MonkeyPatch, stage: str, source: Path, folder: Path, tracker: str) -> Any:
    """Ten steps, with no room left on the disk for the checkpoint of the ninth; the first one in the folder is of the
    sixth, so that 7 to 9 are made twice. Returns the configuration."""
    train, config = toy_stage(stage, source, folder)
    own: dict[str, Any] = {"sample_every": 4} if stage == "prior" else {}
    config = changed(config, steps=10, log_with=(tracker,), **own)
    save = Run.save_checkpoint

    def save_until(run: Run, step: int, state: Any) -> None:
        if step == 9:
            raise OSError("no space left")
        save(run, step, state)

    with monkeypatch.context() as context:
        context.setattr(Run, "save_checkpoint", save_until)
        with pytest.raises(OSError, match="no space left"):
            train(config)
    assert [row["step"] for row in rows(config, "train")] == list(range(1, 10))
    train(config)
    return config


@pytest.mark.parametrize("stage", SCALARS)
def test_tensorboard(fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams import plugin_data_pb2

    config = train_in_two_parts(monkeypatch, stage, fashion_folder, tmp_path, "tensorboard")
    events = EventAccumulator(str(Path(config.output_dir) / stage), {"images": 0, "histograms": 0, "scalars": 0})
    events.Reload()
    losses = {event.step: event.value for event in events.Scalars("train/loss")}
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 11))
    assert losses == pytest.approx({row["step"]: row["loss"] for row in rows(config, "train")})
    assert [event.step for event in events.Scalars(f"evaluation/{SCALARS[stage]}")] == [4, 8, 10]
    name, steps = PICTURES[stage]
    assert [event.step for event in events.Images(name)] == steps
    if stage == "tokenizer":
        usage = events.Histograms("evaluation/code_usage")
        assert [event.step for event in usage] == [4, 8, 10]
        assert usage[0].histogram_value.num == config.model.codebook_size
        assert usage[0].histogram_value.sum == 100 * config.model.num_tokens  # all tokens of all evaluation images
    message: Any = vars(plugin_data_pb2)["HParamsPluginData"]  # made when it is imported
    started = message.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    assert started.session_start_info.hparams["steps"].number_value == 10
    assert started.session_start_info.hparams["data.source"].string_value == str(fashion_folder)


def test_trackio(offline: Path, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    config = train_in_two_parts(monkeypatch, "tokenizer", fashion_folder, tmp_path, "trackio")
    (name,) = storage.get_runs("tokenizer")
    assert name == json.loads((Path(config.output_dir) / "tracking.json").read_text())["name"]
    logs = storage.get_logs("tokenizer", name)
    assert [row["step"] for row in logs if "train/loss" in row] == list(range(1, 11))
    for key in ("evaluation/psnr", "evaluation/code_usage", "reconstructions"):
        assert [row["step"] for row in logs if key in row] == [4, 8, 10]
    (usage,) = (row["evaluation/code_usage"] for row in logs if row["step"] == 4 and "evaluation/code_usage" in row)
    assert sum(usage["values"]) == config.model.codebook_size
    for row in logs:
        if "reconstructions" in row:
            picture = (offline / "media" / row["reconstructions"]["file_path"]).read_bytes()
            assert picture.startswith(b"\x89PNG")
    assert storage.get_run_config("tokenizer", name)["model"]["codebook_size"] == config.model.codebook_size


@pytest.mark.usefixtures("offline")
def test_wandb(fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("wandb")
    config = train_in_two_parts(monkeypatch, "tokenizer", fashion_folder, tmp_path, "wandb")
    folder = Path(config.output_dir)
    name = json.loads((folder / "tracking.json").read_text())["name"]
    files = sorted((folder / "wandb").glob("offline-run-*/*.wandb"))
    assert [run_ids(file) for file in files] == [{name}, {name}]  # two files of one run, which `wandb sync` joins
    told = [row for file in files for row in histories(file)]
    assert [row["_step"] for row in told] == list(range(1, 11))
    assert [row["_step"] for row in told if "evaluation/psnr" in row] == [4, 8, 10]
    pictures = {row["_step"]: row["reconstructions/path"] for row in told if "reconstructions/path" in row}
    assert list(pictures) == [4, 8, 10]
    assert all(list((folder / "wandb").glob(f"*/files/{path}")) for path in pictures.values())
    assert sum(told[3]["evaluation/code_usage/values"]) == config.model.codebook_size
    assert [row["train/loss"] for row in told] == [row["loss"] for row in rows(config, "train")]


def test_a_run_that_begins_anew_is_another_one(fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train, config = toy_stage("tokenizer", fashion_folder, tmp_path)
    config = changed(config, log_with=("tensorboard",))
    with monkeypatch.context() as context:
        context.setattr(Run, "save_checkpoint", _refuse)
        with pytest.raises(OSError, match="full"):
            train(config)
    note = Path(config.output_dir) / "tracking.json"
    first = json.loads(note.read_text())["name"]
    train(changed(config, learning_rate=1e-3))
    assert json.loads(note.read_text())["name"] != first
    events = EventAccumulator(str(Path(config.output_dir) / "tokenizer"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))


def _refuse(*_: Any) -> None:
    raise OSError("full")
