"""A discriminator that does harm: the run goes back to where it was not used, with half its weight."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from adversarial_runs import DISCRIMINATOR, toy_training
from processes import run
from toy_runs import assert_equal_runs, rows

from wvq.pipelines.adversarial import rollbacks as module
from wvq.pipelines.adversarial.command import train_stage_one
from wvq.pipelines.sharing.origin import describe_run
from wvq.pipelines.training.accelerator import build_accelerator
from wvq.pipelines.training.run import Run
from wvq.tokenizer import InputError, VQTokenizer

COLLAPSE: dict[str, Any] = {  # the discriminator's learning rate is 100 times that of the other tests
    "steps": 26, "learning_rate": 0.01, "final_learning_rate": 1.0, "discriminator_start": 12,
    "adversarial_weight": 50.0,
    "discriminator": dataclasses.replace(DISCRIMINATOR, learning_rate=0.3, adaptive=False, max_rollbacks=2),
    "evaluate_every": 3, "checkpoint_every": 20, "rollback_psnr": 0.2, "ema_decay": 1e-4,
}  # fmt: skip
TURNED = 14


def collapsing(images: Path, folder: Path) -> Any:
    config = toy_training(images, folder, **COLLAPSE)
    train_stage_one(config)
    return config


def rollbacks(config: Any) -> list[dict[str, float]]:
    return json.loads((Path(config.output_dir) / "rollbacks.json").read_text())


@pytest.fixture(scope="module")
def collapsed(fashion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return collapsing(fashion_folder, tmp_path_factory.mktemp("collapsed"))


def test_a_collapse_is_rolled_back_and_the_run_ends_with_a_whole_model(collapsed: Any):
    VQTokenizer.from_pretrained(Path(collapsed.output_dir) / "model")
    records, evaluations = rollbacks(collapsed), rows(collapsed, "evaluation")
    before = next(row["psnr"] for row in evaluations if row["step"] == TURNED)
    assert len(records) == 2
    for record, share in zip(records, (0.5, 0.0), strict=True):
        assert record["back_to"] == TURNED < record["step"]
        assert record["psnr"] < before - 0.2 == pytest.approx(record["psnr_before"] - 0.2)
        assert record["share"] == share, "half of the weight, and after the last of two returns none"
    assert [row["step"] for row in evaluations] == [3, 6, 9, 12, 14, 15, 18, 21, 24, 26]
    assert evaluations[-1]["psnr"] > before - 0.2
    assert all(row["adversarial_weight"] == 0 for row in rows(collapsed, "train"))
    assert describe_run(Path(collapsed.output_dir))["rollbacks"] == records


def test_a_run_that_is_killed_as_it_goes_back_ends_the_same(
    collapsed: Any, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):  # fmt: skip
    write = module.write_json

    def killed(path: Path, content: list[Any]) -> None:
        """Before the first return is noted, and after the second."""
        if len(content) == 2:
            write(path, content)
        elif not (tmp_path / "was killed").exists():
            (tmp_path / "was killed").touch()
        else:
            return write(path, content)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_json", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            collapsing(fashion_folder, tmp_path / "run")
    assert "psnr fell from" in capsys.readouterr().err
    config = collapsing(fashion_folder, tmp_path / "run")
    assert rollbacks(config) == rollbacks(collapsed)
    assert_equal_runs(config, collapsed)


def test_all_processes_go_back_together(collapsed: Any, fashion_folder: Path, tmp_path: Path):
    run(2, collapsing, fashion_folder, tmp_path / "two")
    config = toy_training(fashion_folder, tmp_path / "two", **COLLAPSE)
    assert [record["step"] for record in rollbacks(config)] == [record["step"] for record in rollbacks(collapsed)]
    assert (Path(config.output_dir) / "model" / "model.safetensors").is_file()


def test_without_the_checkpoint_to_go_back_to_nothing_is_removed(
    fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = toy_training(fashion_folder, tmp_path / "run")
    train_stage_one(config)
    found = Run.checkpoints
    monkeypatch.setattr(Run, "checkpoints", lambda self: found(self)[1:])
    rollbacks = module.Rollbacks(Run(config.output_dir, config, build_accelerator(config)), limit=1)
    with pytest.raises(InputError, match=r"psnr fell from .* to 3.00, and .* has no checkpoint of step 5 to go back"):
        rollbacks.after(12, "psnr", 3.0, fall=1.0)
