"""A tokenizer with scales and its prior through every command: trained, resumed, tokenized, drawn, scored, examined."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_pipelines import NAMES, tiny_tokenizer
from toy_runs import MODEL, assert_equal_runs, changed, rows, toy_stage
from transformers import AutoModelForCausalLM

from wvq.eval.codebook import examine_tokenizer
from wvq.pipelines import ClassConditionalPipeline, ReconstructionPipeline
from wvq.pipelines.command_line import main
from wvq.pipelines.train_prior import train_pipeline
from wvq.pipelines.training.run import Run
from wvq.prior import PriorConfig, build_prior
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data import DataConfig, load_splits, to_model
from wvq.tokenizer.tokens import TokenDataset

SCALES, TOKENS, CODES = (1, 3, 7), 59, 32


@pytest.fixture(scope="module")
def trained(fashion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a tokenizer with scales and, on its tokens, of a prior: 8 steps of each."""
    folder = tmp_path_factory.mktemp("scales")
    options = {"initialization": "data"}
    model = dataclasses.replace(MODEL, scales=SCALES, normalize_scales=True, quantizer_options=options)
    train, config = toy_stage("tokenizer", fashion_folder, folder)
    saved = train(changed(config, model=model))
    _, config = toy_stage("prior", fashion_folder, folder)
    train_pipeline(changed(config, tokenizer=str(saved), code_geometry=8))
    return folder


@pytest.fixture(scope="module")
def pipeline(trained: Path) -> Any:
    pipeline = ClassConditionalPipeline.from_pretrained(trained / "prior" / "pipeline")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def images(fashion_folder: Path) -> torch.Tensor:
    return load_splits(DataConfig(source=str(fashion_folder), channels=1))[1].take(list(range(6)))["images"]


def test_both_stages_leave_their_files(trained: Path):
    _, config = toy_stage("tokenizer", Path(), trained)
    scores = rows(config, "evaluation")[-1]
    assert {f"{name}_{scale}x{scale}" for name in ("utilization", "perplexity") for scale in SCALES} <= scores.keys()
    assert max(scores[f"utilization_{scale}x{scale}"] for scale in SCALES) <= scores["utilization"] <= 1
    assert "scale_loss" in rows(config, "train")[-1]
    assert (trained / "prior" / "images" / "step-00000008.png").exists()
    description = json.loads((trained / "prior" / "model" / "config.json").read_text())
    assert (description["scales"], description["num_tokens"]) == ([1, 3, 7], TOKENS)
    assert type(AutoModelForCausalLM.from_pretrained(trained / "prior" / "model")).__name__ == "LlamaForCausalLM"


def test_tokens_are_the_encoded_images(trained: Path, images: torch.Tensor):
    (cache,) = (path.parent for path in (trained / "tokens").glob("*/tokens.json"))
    dataset = TokenDataset(cache, "evaluation")
    assert (dataset.scales, dataset.num_tokens) == (SCALES, TOKENS)
    tokenizer = VQTokenizer.from_pretrained(trained / "tokenizer" / "model")
    assert torch.equal(tokenizer.encode(to_model(images)), dataset.tokens[:6])


def test_images_are_drawn_in_a_pass_for_each_scale(pipeline):
    seen = []
    options: dict[str, Any] = {"guidance_scale": 2.0, "top_p": 0.9, "num_images_per_label": 2}
    generators = [torch.Generator().manual_seed(number) for number in range(4)]
    latent = pipeline(
        [0, 3], generator=generators, output_type="latent",
        callback_on_step_end=lambda _, at, count, __: seen.append((at, count)), **options,
    ).images  # fmt: skip
    assert latent.shape == (4, TOKENS)
    assert seen == [(0, TOKENS), (9, TOKENS), (58, TOKENS)]
    alone = pipeline(3, generator=[torch.Generator().manual_seed(3)], output_type="latent",
                     **options | {"num_images_per_label": 1}).images  # fmt: skip
    assert torch.equal(alone[0], latent[3])
    best = pipeline([0, 3], best_of=3, output_type="latent", known_tokens=latent[:2].clone().fill_(-1)).images
    assert best.shape == (2, TOKENS)
    decoder = ReconstructionPipeline(pipeline.tokenizer)
    assert decoder.decode(latent, "uint8").images.shape == (4, 1, 28, 28)
    assert decoder.decode(latent[:, :10], "uint8").images.shape == (4, 1, 28, 28)  # of the first two scales alone


def test_images_are_compared_but_not_edited_by_position(pipeline, images: torch.Tensor, fashion_folder: Path):
    bits = pipeline.likelihood(images, [0] * 6)
    torch.testing.assert_close(bits["bits_per_token"] * TOKENS, bits["bits_per_pixel"] * 28 * 28)
    with pytest.raises(InputError, match="tokens of scales have no position of their own"):
        pipeline.complete(images, 16, [0] * 6)
    editor = ReconstructionPipeline(pipeline.tokenizer)
    fine = torch.arange(TOKENS) >= 10
    combined = editor.combine(images[:3], images[3:], fine, "latent").images
    own, taken = pipeline.tokenizer.encode(to_model(images)).split(3)
    assert torch.equal(combined, torch.where(fine, taken, own))
    dataset = load_splits(DataConfig(source=str(fashion_folder), channels=1))[1]
    assert examine_tokenizer(pipeline.tokenizer, dataset).num_features == len(dataset) * TOKENS


def test_a_pipeline_is_saved_whole_and_refuses_what_does_not_belong_to_it(pipeline, tmp_path: Path):
    pipeline.save_pretrained(tmp_path / "pipeline")
    loaded: Any = ClassConditionalPipeline.from_pretrained(tmp_path / "pipeline")
    loaded.set_progress_bar_config(disable=True)
    drawn = [
        one(5, 3, output_type="uint8", generator=torch.Generator().manual_seed(0)).images for one in (pipeline, loaded)
    ]
    assert torch.equal(*drawn)
    size: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
    prior = build_prior(PriorConfig(**size, num_codes=CODES, num_tokens=21, num_classes=3))
    with pytest.raises(InputError, match=r"made for \(\) as scales, the tokenizer has \(1, 2, 4\); they do not belong"):
        ClassConditionalPipeline(tiny_tokenizer(scales=(1, 2, 4)), prior, NAMES)


class Interruption(Exception):
    """Power failure, say."""


@pytest.mark.parametrize("stage", ["tokenizer", "prior"])
def test_a_resumed_run_is_the_uninterrupted_one(
    stage: str, trained: Path, fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    train, config = toy_stage(stage, fashion_folder, tmp_path)
    if stage == "tokenizer":  # codes start between the checkpoint and the interruption
        options = {"initialization": "data", "initialization_steps": 4}
        model = dataclasses.replace(MODEL, scales=SCALES, normalize_scales=True, quantizer_options=options)
        config = changed(config, model=model)
    else:
        config = changed(config, tokenizer=str(trained / "tokenizer" / "model"), sample_every=0)
    straight = changed(config, "straight")
    train(straight)
    log = Run.log

    def log_and_break(run: Run, step: int, split: str, values: dict[str, float]) -> None:
        log(run, step, split, values)
        if step == 5:
            raise Interruption

    monkeypatch.setattr(Run, "log", log_and_break)
    with pytest.raises(Interruption):
        train(config)
    monkeypatch.undo()
    torch.manual_seed(12345)  # a new process has other random numbers
    train(config)
    assert_equal_runs(config, straight)


def test_the_commands(fashion_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each with the options that somebody would type."""
    monkeypatch.chdir(tmp_path)
    short = ["--steps=2", "--batch-size=8", "--warmup-steps=0", "--evaluate-every=2", "--checkpoint-every=2"]
    data = [f"--data.source={fashion_folder}", "--data.channels=1"]
    main(["train-tokenizer", *data, *short, "--model.base-channels=8", "--model.channel-multipliers=[1,1]",
          "--model.patch-size=2", "--model.num-blocks=1", "--model.latent-channels=8", "--model.codebook-size=16",
          "--model.codebook-dim=4", "--model.scales=[1,3,7]", "--evaluation-images=16"])  # fmt: skip
    main(["train-prior", *data, *short, "--model.hidden-size=16", "--model.num-layers=1", "--model.num-heads=2",
          "--sample-every=0"])  # fmt: skip
    main(["sample", "--pipeline=runs/prior/pipeline", "--num-images-per-class=1", "--guidance-scale=2"])
    main(["reconstruct", "--tokenizer=runs/tokenizer/model", *data, "--num-images=4"])
    assert len(list((tmp_path / "runs" / "samples" / "images").rglob("*.png"))) == 10
