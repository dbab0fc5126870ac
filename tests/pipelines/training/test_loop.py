"""A third loop on `Loop`: two networks against each other, written with no line that the two stages' loops have too."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from wvq.pipelines.training.accelerator import build_accelerator
from wvq.pipelines.training.config import TrainingConfig
from wvq.pipelines.training.loop import Loop
from wvq.pipelines.training.run import Run
from wvq.tokenizer import InputError, progress
from wvq.tokenizer.data import DataConfig, load_splits, to_model

MODULES = ("generator", "discriminator")


class Adversaries(nn.Module):
    """An autoencoder of one convolution each way, and a discriminator of its images."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Conv2d(1, 2, 4, stride=4), nn.ConvTranspose2d(2, 1, 4, stride=4))
        self.discriminator = nn.Sequential(nn.Conv2d(1, 4, 4, stride=4), nn.ReLU(), nn.Conv2d(4, 1, 1))

    def forward(self, images: Tensor, name: str) -> Tensor:
        return getattr(self, name)(images)

    def save_pretrained(self, folder: Path) -> None:
        (folder / "config.json").write_text("{}")


def train(config: TrainingConfig, spoil: int = 0) -> Loop:
    """The third loop; with `spoil` the discriminator's loss of that step is NaN."""
    accelerator = build_accelerator(config)
    run = Run(config.output_dir, config, accelerator)
    torch.manual_seed(config.seed)
    model = Adversaries()
    optimizers = [
        torch.optim.AdamW([{"params": getattr(model, name).parameters(), "peak": config.learning_rate}])
        for name in MODULES
    ]
    loop = Loop(run, "adversaries", model, optimizers, load_splits(config.data)[0])
    generator, discriminator = loop.optimizers
    with loop:
        for batch in loop:
            images = to_model(batch["images"])
            with loop.step():
                made = loop.model(images, "generator")
                loss = F.mse_loss(made, images) - 0.1 * loop.model(made, "discriminator").mean()
                loop.backward(loss)
                loop.update(generator, generator=model.generator.parameters())
                generator_weights = model.generator.get_parameter("0.weight").detach().clone()

                scores = loop.model(torch.cat([images, made.detach()]), "discriminator").chunk(2)
                hinge = F.relu(1 - scores[0]).mean() + F.relu(1 + scores[1]).mean()
                if spoil == loop.step_number + 1:
                    hinge = hinge * float("nan")
                loop.backward(hinge, {"hinge": hinge})
                loop.update(discriminator, discriminator=model.discriminator.parameters())
            assert torch.equal(model.generator.get_parameter("0.weight"), generator_weights), (
                "only its own optimizer moves it"
            )
            if loop.due(config.log_every):
                loop.log("images", config.batch_size)
            if loop.due(config.evaluate_every):
                loop.log_evaluation({"score": 1.0}, "one")
        run.save_model(model)
    return loop


@pytest.fixture
def config(fashion_folder: Path, tmp_path: Path) -> TrainingConfig:
    torch.set_num_threads(1)
    data = DataConfig(source=str(fashion_folder), channels=1)
    schedule: dict[str, Any] = {"steps": 8, "batch_size": 20, "warmup_steps": 2, "log_every": 1, "evaluate_every": 4}
    return TrainingConfig(
        output_dir=str(tmp_path / "run"), data=data, checkpoint_every=3, gradient_accumulation_steps=2, **schedule
    )


def state(config: TrainingConfig, step: int) -> dict[str, Tensor]:
    folder = Path(config.output_dir) / "checkpoints" / f"step-{step:08d}"
    return {
        f"{file}.{name}": value
        for file in ("model", "optimizers", "processes")
        for name, value in load_file(folder / f"{file}.safetensors").items()
    }


def test_both_learn_and_the_lines_of_metrics_hold_both_losses(config: TrainingConfig):
    loop = train(config)
    rows = [row for row in loop.run.metrics() if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert all({"loss", "hinge", "images_per_second", "learning_rate"} <= row.keys() for row in rows)
    torch.manual_seed(config.seed)
    begun = Adversaries().state_dict()
    assert all(not torch.equal(value, begun[name]) for name, value in loop.evaluated.state_dict().items())
    assert [row["step"] for row in loop.run.metrics() if row["split"] == "evaluation"] == [4, 8]


def test_a_resumed_run_is_the_uninterrupted_one(config: TrainingConfig):
    train(config)
    other = dataclasses.replace(config, output_dir=config.output_dir + "-resumed")
    train(other)
    for step in (8, 6):  # as if it had been killed after step 3's checkpoint
        folder = Path(other.output_dir) / "checkpoints" / f"step-{step:08d}"
        assert folder.is_dir()
    for path in (Path(other.output_dir) / "model", Path(other.output_dir) / "checkpoints" / "step-00000008"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    assert train(other).step_number == 8
    one, two = state(config, 8), state(other, 8)
    assert one.keys() == two.keys()
    assert [name for name in one if not torch.equal(one[name], two[name])] == []


def test_beside_other_trainings_each_line_says_whose_it_is(
    config: TrainingConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    train(config)
    assert "step 8: one\n" in capsys.readouterr().out.splitlines(keepends=True)
    monkeypatch.setattr(progress, "_line", 2)
    train(dataclasses.replace(config, output_dir=config.output_dir + "-beside"))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("/")[2] for line in lines] == ["run-beside: step 4: one", "run-beside: step 8: one"]


def test_an_update_that_is_not_finite_is_not_made_and_counted(config: TrainingConfig):
    loop = train(config, spoil=3)
    rows = [row for row in loop.run.metrics() if row["split"] == "train"]
    assert [row["skipped_steps"] for row in rows] == [0, 0, 1, 1, 1, 1, 1, 1]
    assert all(value.isfinite().all() for value in state(config, 8).values() if value.is_floating_point())


def test_a_moving_average_is_evaluated_and_kept(config: TrainingConfig):
    loop = train(dataclasses.replace(config, ema_decay=0.5))
    assert loop.average is not None
    assert loop.evaluated is loop.average.module
    folder = Path(config.output_dir) / "checkpoints" / "step-00000008"
    saved = load_file(folder / "average.safetensors")
    assert torch.equal(saved["module.generator.0.weight"], loop.evaluated.generator[0].weight)
    assert not torch.equal(loop.evaluated.generator[0].weight, loop.model.generator[0].weight)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"batch_size": 7, "gradient_accumulation_steps": 2}, "batch_size is 7; it must divide by"),
        ({"warmup_steps": 8}, "warmup_steps is 8; it must be at least 0 and below steps, 8"),
        ({"final_learning_rate": 2.0}, "final_learning_rate is 2.0; it is a share of the peak, 0 to 1"),
        ({"ema_decay": 1.0}, r"ema_decay is 1.0; it must be in \[0, 1\)"),
    ],
)
def test_a_schedule_that_cannot_be_is_refused(config: TrainingConfig, changes: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(config, **changes)


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine():
    config = TrainingConfig(steps=12, warmup_steps=2, final_learning_rate=0.1)
    scales = [config.lr_scale(step) for step in range(13)]
    assert scales[:3] == [0.5, 1.0, 1.0]
    assert scales[7] == pytest.approx(0.55)
    assert scales[12] == pytest.approx(0.1)
    assert sorted(scales[2:], reverse=True) == scales[2:]
