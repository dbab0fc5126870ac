"""Both training loops, on a few real images."""

import dataclasses
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.utils import set_seed
from PIL import Image
from torch.optim.swa_utils import AveragedModel
from toy_runs import MODEL, STAGES, assert_close_runs, assert_equal_runs, changed, rows, toy_stage, untimed, weights

from wvq.pipelines.class_conditional import ClassConditionalPipeline, load_prior
from wvq.pipelines.train_prior import PriorTraining, train_prior
from wvq.pipelines.train_tokenizer import TokenizerTraining, train_tokenizer
from wvq.prior import PriorConfig, PriorSize, build_prior
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data.batches import ShuffledBatches
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.decoding import to_model


@pytest.fixture(params=STAGES)
def stage(request: pytest.FixtureRequest, fashion_folder: Path, tmp_path: Path) -> tuple[Callable[[Any], Path], Any]:
    """(train function, configuration) of each stage."""
    return toy_stage(request.param, fashion_folder, tmp_path)


@pytest.fixture
def stage_one(fashion_folder: Path, tmp_path: Path) -> TokenizerTraining:
    return toy_stage("tokenizer", fashion_folder, tmp_path)[1]


@pytest.fixture
def stage_two(fashion_folder: Path, tmp_path: Path) -> PriorTraining:
    return toy_stage("prior", fashion_folder, tmp_path)[1]


def assert_picture(path: Path) -> None:
    first = Image.open(path).convert("L").crop((2, 2, 58, 58))
    assert len(np.unique(np.asarray(first))) > 5


def test_a_tokenizer_run_learns_and_leaves_its_files(stage_one):
    config = changed(stage_one, steps=40, log_every=10, evaluate_every=20, checkpoint_every=15, keep_checkpoints=2)
    folder = train_tokenizer(config)
    run = Path(config.output_dir)
    assert folder == run / "model"
    assert json.loads((run / "run.json").read_text())["model"]["codebook_size"] == 32
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-00000030", "step-00000040"]
    assert sorted(path.name for path in (run / "images").iterdir()) == ["step-00000020.png", "step-00000040.png"]
    for picture in (run / "images").iterdir():
        assert_picture(picture)

    train, evaluation = rows(config, "train"), rows(config, "evaluation")
    assert [row["step"] for row in train] == [10, 20, 30, 40]
    assert [row["step"] for row in evaluation] == [20, 40]
    losses = {"loss", "reconstruction_loss", "commitment_loss", "codebook_loss", "wasserstein_distance"}
    assert set(train[0]) == {"step", "split", "learning_rate", "skipped_steps", "images_per_second", "seconds"} | losses
    scores = {"reconstruction_loss", "psnr", "ssim", "utilization", "perplexity", "token_entropy"}
    assert set(evaluation[0]) == {"step", "split", "quantization_error", "relative_quantization_error"} | scores
    assert all(np.isfinite(value) for row in train + evaluation for value in row.values() if not isinstance(value, str))
    assert train[-1]["reconstruction_loss"] < 0.7 * train[0]["reconstruction_loss"]
    assert evaluation[1]["psnr"] > evaluation[0]["psnr"]
    assert train[0]["learning_rate"] > train[-1]["learning_rate"] > 0.1 * config.learning_rate


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ema_decay": 1.0}, r"ema_decay is 1.0; it must be in \[0, 1\)"),
        (
            {"data": DataConfig(channels=3)},
            "model is for 1 x 28 x 28 images, data has 3 x 28 x 28",
        ),
        ({"steps": 8, "warmup_steps": 8}, "warmup_steps is 8; it must be at least 0 and below steps, 8"),
        ({"checkpoint_every": 0}, "checkpoint_every is 0; it must be at least 1"),
    ],
)
def test_bad_options_of_stage_one_are_named(stage_one, changes, message):
    with pytest.raises(InputError, match=message):
        changed(stage_one, **changes)


def test_a_saved_tokenizer_is_the_one_that_was_evaluated(stage_one):
    tokenizer = VQTokenizer.from_pretrained(train_tokenizer(stage_one))
    images = load_splits(stage_one.data)[1].__getitems__(range(100))["images"]
    with torch.no_grad():
        reconstructions = tokenizer(to_model(images)).reconstructions
    assert tokenizer.config == MODEL
    pixels = ((reconstructions + 1) * 127.5).clamp(0, 255).round()
    loss = 4 * ((pixels.double() - images.double()) / 255).square().mean()
    assert rows(stage_one, "evaluation")[-1]["reconstruction_loss"] == pytest.approx(loss.item(), rel=1e-3)


def test_a_prior_run_learns_and_leaves_its_files(stage_two, capfd):
    config = changed(stage_two, steps=60, log_every=20, evaluate_every=30, sample_every=25, checkpoint_every=60)
    folder = train_prior(config)
    assert "model shards" not in capfd.readouterr().err  # no bar of transformers
    run = Path(config.output_dir)
    assert json.loads((run / "run.json").read_text())["model"]["hidden_size"] == 16
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000060"]
    names = ["step-00000025.png", "step-00000050.png", "step-00000060.png"]
    assert sorted(path.name for path in (run / "images").iterdir()) == names
    for picture in (run / "images").iterdir():
        assert_picture(picture)

    train, evaluation = rows(config, "train"), rows(config, "evaluation")
    assert [row["step"] for row in train] == [20, 40, 60]
    assert [row["step"] for row in evaluation] == [30, 60]
    assert set(train[0]) == {"step", "split", "loss", "learning_rate", "skipped_steps", "tokens_per_second", "seconds"}
    baselines = {f"{name}_bits_per_token" for name in ("uniform", "unigram", "bigram")}
    assert set(evaluation[0]) == {"step", "split", "loss", "bits_per_token"} | baselines
    assert train[-1]["loss"] < 0.9 * train[0]["loss"]
    last = evaluation[-1]
    assert last["bits_per_token"] == pytest.approx(last["loss"] / np.log(2))
    assert last["bits_per_token"] < last["unigram_bits_per_token"]

    prior = load_prior(folder)
    tokenizer = VQTokenizer.from_pretrained(stage_two.tokenizer)
    assert prior.config.tokenizer_fingerprint == tokenizer.fingerprint
    assert (prior.config.num_codes, prior.config.num_tokens, prior.config.num_classes) == (32, 49, 10)
    assert prior.config.class_names[0] == "Ankle boot"
    ClassConditionalPipeline(tokenizer, prior, prior.config.class_names)
    assert prior.config.token_fingerprint == tokenizer.token_fingerprint
    tokenizer.decoder.layers[0].bias.data.add_(1)  # pyright: ignore
    ClassConditionalPipeline(tokenizer, prior)  # whose tokens are the same
    tokenizer.to_codebook.bias.data.add_(1)  # pyright: ignore
    with pytest.raises(InputError, match="they do not belong together"):
        ClassConditionalPipeline(tokenizer, prior)


def test_a_batch_in_two_parts_is_the_whole_batch_to_rounding(stage):
    train, config = stage
    config = changed(config, steps=6, warmup_steps=0)
    if train is train_tokenizer:  # the Wasserstein window counts parts
        options = {"initialization": "normal"}
        model = dataclasses.replace(config.model, quantizer="vanilla", quantizer_options=options)
        config = changed(config, model=model)
    else:  # Muon rounds to bfloat16, drop-out is drawn for each part
        config = changed(config, optimizer="adamw", class_dropout=0.0)
    whole, parts = changed(config, "whole"), changed(config, "parts", gradient_accumulation_steps=2)
    train(whole)
    train(parts)
    for one, other in zip(untimed(whole), untimed(parts), strict=True):
        assert other.pop("split") == one.pop("split")
        assert other == pytest.approx(one, rel=1e-4)


def test_each_step_sees_the_images_of_its_place_in_the_permutations(stage_one, monkeypatch):
    config = changed(stage_one, data=dataclasses.replace(stage_one.data, horizontal_flip=True), batch_size=100, steps=6)
    seen: list[torch.Tensor] = []
    forward = VQTokenizer.forward

    def watched(model: VQTokenizer, images: torch.Tensor):
        if model.training:
            seen.append(images)
        return forward(model, images)

    monkeypatch.setattr(VQTokenizer, "forward", watched)
    train_tokenizer(config)
    originals = load_splits(config.data)[0].__getitems__(range(500))["images"]
    batches = list(ShuffledBatches(500, 100, 0, 6, config.seed))
    assert sorted(itertools.chain(*batches[:5])) == list(range(500))  # an epoch has every image once
    mirrored = 0
    for images, indices in zip(seen, batches, strict=True):
        plain = to_model(originals[indices])
        flipped = (images != plain).flatten(1).any(1)
        assert torch.equal(images, torch.where(flipped[:, None, None, None], plain.flip(-1), plain))
        mirrored += int(flipped.sum())
    assert 250 < mirrored < 350  # of 600


def test_the_average_of_the_weights_is_what_is_saved(stage, monkeypatch):
    train, config = stage
    config = changed(config, ema_decay=0.75, steps=3)
    seen: list[dict[str, torch.Tensor]] = []
    update = AveragedModel.update_parameters

    def watched(average: AveragedModel, model: torch.nn.Module) -> None:
        seen.append({name: value.detach().clone() for name, value in model.named_parameters()})
        update(average, model)

    monkeypatch.setattr(AveragedModel, "update_parameters", watched)
    train(config)
    saved = weights(config)
    for name, first in seen[0].items():
        expected = 0.75 * (0.75 * first + 0.25 * seen[1][name]) + 0.25 * seen[2][name]
        torch.testing.assert_close(saved[name.removeprefix("prior.")], expected, msg=name)


def test_bfloat16_learns_with_an_average_and_saves_float32(stage):
    train, config = stage
    config = changed(config, mixed_precision="bf16", ema_decay=0.5)
    train(config)
    first, *_, last = rows(config, "train")
    assert last["loss"] < first["loss"]
    assert not {value.dtype for value in weights(config).values()} & {torch.bfloat16, torch.float16}
    straight = changed(config, "float32", mixed_precision="no")
    train(straight)
    for row, reference in zip(rows(config, "evaluation"), rows(straight, "evaluation"), strict=True):
        name = "psnr" if train is train_tokenizer else "loss"
        assert row[name] == pytest.approx(reference[name], rel=0.05)
        assert row[name] != reference[name]


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_layers_computed_again_in_the_backward_pass_train_the_same_prior(stage_two, architecture, monkeypatch):
    size = PriorSize(architecture, hidden_size=16, num_layers=2, num_heads=2, attention_dropout=0.2)
    passes = 0

    def attention(*arguments: Any, **options: Any) -> Any:
        nonlocal passes
        passes += torch.is_grad_enabled()
        return attend(*arguments, **options)

    attend = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    runs, counts = [], []
    for again in (False, True):
        passes = 0
        runs.append(changed(stage_two, f"again-{again}", model=size, gradient_checkpointing=again, sample_every=0))
        train_prior(runs[-1])
        counts.append(passes)
    assert_equal_runs(*runs)
    assert counts == [16, 32]  # steps * layers, once and twice


@pytest.mark.slow  # the compiler takes its time
@pytest.mark.filterwarnings("ignore")  # what the compiler itself gives rise to
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_compiled_layers_train_the_same_prior_to_rounding(stage_two, architecture):
    size = PriorSize(architecture, hidden_size=16, num_layers=2, num_heads=2)
    # Muon makes whole steps out of the rounding of small gradients.
    options: dict[str, Any] = {"model": size, "optimizer": "adamw", "sample_every": 0}
    runs = [changed(stage_two, f"compiled-{c}", compile=c, **options) for c in (False, True)]
    for run in runs:
        train_prior(run)
    assert_close_runs(*runs, metrics=1e-5, rtol=1e-3, atol=1e-4)


def test_images_without_classes_give_a_prior_without_classes(fashion_folder, stage_two, tmp_path):
    for index, file in enumerate(sorted(fashion_folder.rglob("*.png"))):
        if index % 5 == 0:
            (tmp_path / "flat").mkdir(exist_ok=True)
            (tmp_path / "flat" / f"{index}.png").write_bytes(file.read_bytes())
    data = dataclasses.replace(stage_two.data, source=str(tmp_path / "flat"), evaluation_fraction=0.3)
    dropping, keeping = (changed(stage_two, f"drop-{p}", data=data, class_dropout=p) for p in (0.5, 0.0))
    prior = load_prior(train_prior(dropping))
    train_prior(keeping)
    assert_equal_runs(dropping, keeping)  # there is nothing to drop
    assert prior.config.num_classes == 0
    assert prior.config.vocab_size == 33
    assert_picture(Path(dropping.output_dir) / "images" / "step-00000008.png")
    tokenizer = VQTokenizer.from_pretrained(stage_two.tokenizer)
    pipeline: Any = ClassConditionalPipeline(tokenizer, prior)
    assert pipeline(num_images_per_label=2, output_type="uint8").images.shape == (2, 1, 28, 28)


@pytest.mark.parametrize("class_dropout", [0.0, 1.0])
def test_dropped_classes_train_the_null_class_and_kept_ones_their_own(stage_two, class_dropout):
    config = changed(stage_two, class_dropout=class_dropout, optimizer="adamw", weight_decay=0.0)
    prior = load_prior(train_prior(config))
    set_seed(config.seed)
    untrained = build_prior(PriorConfig(**vars(config.model), num_codes=32, num_tokens=49, num_classes=10))
    moved = (prior.model.embed_tokens.weight != untrained.model.embed_tokens.weight).any(dim=1)
    assert moved[32:42].tolist() == [class_dropout == 0.0] * 10
    assert bool(moved[42]) == (class_dropout == 1.0)
