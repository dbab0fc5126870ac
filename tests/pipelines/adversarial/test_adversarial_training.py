"""The third loop: what trains when, what it leaves, how it resumes, and what it refuses."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from adversarial_runs import DISCRIMINATOR, toy_training
from safetensors.torch import load_file
from toy_runs import MODEL, assert_equal_runs, rows, untrained_tokenizer

from wvq.pipelines.adversarial.command import TokenizerRefinement, refine_tokenizer, train_stage_one
from wvq.pipelines.adversarial.players import Players, build_discriminator
from wvq.pipelines.train_tokenizer import TokenizerTraining, train_tokenizer
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.adversarial.config import PerceptualConfig
from wvq.tokenizer.data import load_splits, to_model


@pytest.fixture
def config(fashion_folder: Path, tmp_path: Path) -> TokenizerTraining:
    return toy_training(fashion_folder, tmp_path / "run")


def state(config: Any, step: int, file: str = "model") -> dict[str, torch.Tensor]:
    return load_file(Path(config.output_dir) / "checkpoints" / f"step-{step:08d}" / f"{file}.safetensors")


def test_the_discriminator_trains_before_it_is_used_and_its_weight_rises(config: TokenizerTraining):
    tokenizer = VQTokenizer.from_pretrained(train_stage_one(dataclasses.replace(config, keep_checkpoints=9)))
    lines = rows(config, "train")
    assert [row["step"] for row in lines if row["discriminator_loss"]] == list(range(4, 13))
    assert [row["step"] for row in lines if row["adversarial_loss"]] == list(range(7, 13))
    assert lines[6]["adversarial_weight"] > 0 == lines[5]["adversarial_weight"]
    assert all(row["lecam"] > 0 for row in lines[3:])
    assert lines[-1]["real_logits"] > lines[-1]["fake_logits"]
    before, trained = state(config, 3), state(config, 5)
    names = [name for name in before if name.startswith("discriminator.")]
    assert all(not torch.equal(before[name], trained[name]) for name in names)
    assert before["lecam.mean_real"] == 0 != trained["lecam.mean_real"]
    averaged = state(config, 12, "average")
    assert all(
        torch.equal(value, averaged[f"module.tokenizer.{name}"]) for name, value in tokenizer.state_dict().items()
    )
    assert [row["step"] for row in rows(config, "evaluation")] == [4, 5, 8, 12]


def test_the_checkpoint_before_the_switch_is_kept(config: TokenizerTraining):
    train_stage_one(dataclasses.replace(config, keep_checkpoints=1))
    found = sorted(path.name for path in (Path(config.output_dir) / "checkpoints").iterdir())
    assert found == ["step-00000005", "step-00000012"]


@pytest.mark.parametrize("kind", ["patch", "features"])
def test_each_loss_moves_its_own_player_alone(kind: Any):
    """Though both see the features of the same reconstructions."""
    settings = dataclasses.replace(DISCRIMINATOR, kind=kind, backbone="st-lpips-alex")
    tokenizer = VQTokenizer(dataclasses.replace(MODEL, image_size=32))
    judge = build_discriminator((1, 32, 32), settings)
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    _, game = Players(tokenizer, judge, settings).train()(images, plays=True, judges=True)
    losses = {game.adversarial_loss: (tokenizer.decoder, judge), game.discriminator_loss: (judge, tokenizer)}
    for loss, (moved, other) in losses.items():
        gradients = torch.autograd.grad(loss, list(moved.parameters()), retain_graph=True, allow_unused=True)
        assert any(gradient is not None and gradient.norm() > 0 for gradient in gradients)
        gradients = torch.autograd.grad(loss, list(other.parameters()), retain_graph=True, allow_unused=True)
        assert all(gradient is None for gradient in gradients)


def test_losses_share_no_weights(config: TokenizerTraining):
    """With one update for both, the discriminator's weights change as if the tokenizer did not look."""
    alone = dataclasses.replace(config, output_dir=config.output_dir + "-alone", steps=6, keep_checkpoints=9)
    fixed = dataclasses.replace(DISCRIMINATOR, adaptive=False, ramp=0)
    for weight in (1e-30, 1.0):
        folder = f"{config.output_dir}-{weight}"
        train_stage_one(dataclasses.replace(alone, output_dir=folder, adversarial_weight=weight, discriminator=fixed))
    tiny, large = (state(dataclasses.replace(alone, output_dir=f"{config.output_dir}-{w}"), 6) for w in (1e-30, 1.0))
    moved = {name for name in tiny if not torch.equal(tiny[name], large[name])}
    assert moved
    assert all(name.startswith("tokenizer.") for name in moved)


def test_a_run_with_both_weights_0_is_that_of_the_plain_loop(config: TokenizerTraining):
    plain = dataclasses.replace(config, adversarial_weight=0.0)
    train_stage_one(plain)
    other = dataclasses.replace(plain, output_dir=config.output_dir + "-plain")
    train_tokenizer(other)
    assert_equal_runs(plain, other)
    with pytest.raises(InputError, match=r"adversarial_weight 0.3; this loop knows neither"):
        train_tokenizer(config)


def test_a_moving_average_is_kept_where_there_is_a_discriminator(config: TokenizerTraining):
    assert dataclasses.replace(config, ema_decay=0.0).ema_decay == 0.999
    assert dataclasses.replace(config, ema_decay=0.0, adversarial_weight=0.0).ema_decay == 0


@pytest.mark.parametrize("refine", ["decoder", "all"])
def test_refining_changes_the_decoder_alone_or_all(refine: Any, config: TokenizerTraining, tmp_path: Path):
    source = untrained_tokenizer(tmp_path / "trained")
    shared = {name: getattr(config, name) for name in ("data", "steps", "batch_size", "evaluation_images", "ema_decay")}
    run = TokenizerRefinement(
        output_dir=config.output_dir, tokenizer=source, refine=refine, perceptual_weight=0.0, warmup_steps=0,
        discriminator=DISCRIMINATOR, learning_rate=1e-3, **shared,
    )  # fmt: skip
    folder = refine_tokenizer(run)
    before, after = VQTokenizer.from_pretrained(source), VQTokenizer.from_pretrained(folder)
    kept = {name for name, value in before.state_dict().items() if torch.equal(value, after.state_dict()[name])}
    moved = before.state_dict().keys() - kept
    assert any(name.startswith("decoder.") for name in moved)
    assert any(name.startswith("encoder.") for name in moved) == (refine == "all")
    images = to_model(load_splits(config.data)[1].take(torch.arange(20))["images"])
    assert torch.equal(before.encode(images), after.encode(images)) == (refine == "decoder")
    assert refine_tokenizer(run) == folder  # a finished run is left as it is


def test_a_step_whose_discriminator_is_not_finite_is_not_made(
    config: TokenizerTraining, monkeypatch: pytest.MonkeyPatch
):
    from wvq.pipelines.adversarial import players

    calls = []

    def spoiled(real: torch.Tensor, fake: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return players.hinge_generator_loss(fake) * (float("nan") if len(calls) == 2 else 1)

    monkeypatch.setattr(players, "hinge_discriminator_loss", spoiled)
    train_stage_one(config)
    assert [row["skipped_steps"] for row in rows(config, "train")] == [0] * 4 + [1] * 8
    assert all(value.isfinite().all() for value in state(config, 12).values() if value.is_floating_point())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adversarial_weight": -1.0}, "adversarial_weight is -1.0; it must be at least 0"),
        ({"rollback_psnr": 0.0}, "rollback_psnr is 0.0; it must be above 0"),
        ({"discriminator_start": 11}, "trains from step 11 and is used from step 13, but steps is 12"),
        ({"discriminator_start": -1}, "discriminator_start is -1; it must be at least 0"),
    ],
)
def test_what_cannot_be_is_refused(config: TokenizerTraining, changes: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        dataclasses.replace(config, **changes)


def test_images_that_are_too_small_are_refused_before_anything_is_written(config: TokenizerTraining):
    deep = dataclasses.replace(config, discriminator=dataclasses.replace(DISCRIMINATOR, num_layers=4))
    with pytest.raises(InputError, match=r"images are \(28, 28\); the discriminator takes 48 a side"):
        train_stage_one(deep)
    absent = dataclasses.replace(config, perceptual_weight=1.0, perceptual=PerceptualConfig(weights="/no/where"))
    with pytest.raises(InputError, match="st-lpips-vgg16"):
        train_stage_one(absent)
    assert not Path(config.output_dir).exists()


def test_settings_of_a_discriminator_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="lead is 0; it must be at least 1"):
        dataclasses.replace(DISCRIMINATOR, lead=0)
    with pytest.raises(InputError, match=r"discriminator.kind is 'pixel'; valid are patch and features"):
        dataclasses.replace(DISCRIMINATOR, kind="pixel")  # pyright: ignore[reportArgumentType]
