"""What trains: several precisions in one process, and trackers that are refused before any work."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from toy_runs import STAGES, changed, toy_stage, weights

from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.pipelines.training.accelerator import build_accelerator, check_trackers
from wvq.tokenizer import InputError


@pytest.mark.parametrize("stage", STAGES)
def test_runs_of_several_precisions_follow_one_another(fashion_folder: Path, tmp_path: Path, stage: str):
    train, config = toy_stage(stage, fashion_folder, tmp_path)
    for name, precision in (("first", "no"), ("half", "bf16"), ("again", "no")):
        train(changed(config, name, mixed_precision=precision))
        assert AcceleratorState().mixed_precision == precision
    first, half, again = (weights(changed(config, name)) for name in ("first", "half", "again"))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], half[name]) for name in first)


def test_an_accelerator_of_the_user_may_have_another_precision(tmp_path: Path):
    Accelerator(cpu=True)
    config = TokenizerTraining(output_dir=str(tmp_path), mixed_precision="bf16", gradient_accumulation_steps=2)
    accelerator = build_accelerator(config)
    assert (accelerator.mixed_precision, accelerator.gradient_accumulation_steps) == ("bf16", 2)
    assert Accelerator(cpu=True, mixed_precision="bf16").num_processes == 1
    build_accelerator(TokenizerTraining(output_dir=str(tmp_path)))  # so that other tests find what they expect


@pytest.fixture
def only_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wvq.pipelines.training.accelerator.get_available_trackers", lambda: ["tensorboard"])


@pytest.mark.usefixtures("only_tensorboard")
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("wandb",), "log_with has 'wandb', but it is not installed; pip install wandb"),
        (("tensorboard", "comet_ml"), "log_with has 'comet_ml', but it is not installed; pip install comet-ml"),
        (("nonsense",), "log_with has 'nonsense', which is no tracker; valid are all, .*tensorboard, wandb"),
        (("TensorBoard",), "log_with has 'TensorBoard', which is no tracker"),
    ],
)
def test_trackers_that_cannot_be_used_are_refused_before_any_work(
    fashion_folder: Path, tmp_path: Path, names: tuple[str, ...], message: str
):
    for stage in STAGES:
        train, config = toy_stage(stage, fashion_folder, tmp_path)
        with pytest.raises(InputError, match=message):
            train(changed(config, log_with=names))
        assert not Path(config.output_dir).exists()


@pytest.mark.usefixtures("only_tensorboard")
def test_trackers_that_can_be_used():
    check_trackers(())
    check_trackers(("tensorboard",))
    check_trackers(("all",))


def test_all_trackers_where_there_are_none(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("wvq.pipelines.training.accelerator.get_available_trackers", list)
    with pytest.raises(InputError, match="log_with has 'all', but it is not installed; pip install tensorboard"):
        check_trackers(("all",))


def test_a_tracker_that_does_not_start_is_named(fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("api_key not configured\nTraceback of the tracker's own")

    monkeypatch.setattr(Accelerator, "init_trackers", refuse)
    train, config = toy_stage("tokenizer", fashion_folder, tmp_path)
    with pytest.raises(InputError, match=r"a tracker of log_with does not start: api_key not configured$"):
        train(changed(config, log_with=("tensorboard",)))
