"""Product and residual quantizers through both stages: trained, saved, tokenized, sampled, edited and examined."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_runs import MODEL, changed, rows, toy_stage

from wvq.eval.codebook import examine_tokenizer
from wvq.pipelines import ClassConditionalPipeline, ReconstructionPipeline
from wvq.pipelines.editing.masked_images import masked_images
from wvq.pipelines.train_prior import train_pipeline
from wvq.prior import PriorConfig, build_prior
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data import DataConfig, load_splits, to_model
from wvq.tokenizer.tokens import TokenDataset

CODES, PER_POSITION, GRID = 32, 2, 7


@pytest.fixture(scope="module", params=["product", "residual"])
def trained(request: pytest.FixtureRequest, fashion_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of a tokenizer with this quantizer and, on its tokens, of a prior: 8 steps of each."""
    folder = tmp_path_factory.mktemp(request.param)
    options = {"quantizers": PER_POSITION, "quantizer": "wasserstein", "alignment": "transport", "init_std": 0.3}
    model = dataclasses.replace(MODEL, quantizer=request.param, quantizer_options=options)
    train, config = toy_stage("tokenizer", fashion_folder, folder)
    saved = train(changed(config, model=model))
    _, config = toy_stage("prior", fashion_folder, folder)
    train_pipeline(changed(config, tokenizer=str(saved)))
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
    assert 0 < scores["utilization"] <= 1
    assert 1 <= scores["perplexity"] <= PER_POSITION * CODES
    terms = rows(config, "train")[-1]
    assert {f"wasserstein_distance_{m}" for m in range(PER_POSITION)} <= terms.keys()
    assert (trained / "prior" / "images" / "step-00000008.png").exists()
    description = json.loads((trained / "prior" / "model" / "config.json").read_text())
    found = [description[name] for name in ("num_codes", "num_tokens", "codes_per_position")]
    assert found == [CODES * PER_POSITION, GRID**2 * PER_POSITION, PER_POSITION]


def test_tokens_are_the_encoded_images(trained: Path, images: torch.Tensor, fashion_folder: Path):
    (cache,) = (path.parent for path in (trained / "tokens").glob("*/tokens.json"))
    dataset = TokenDataset(cache, "evaluation")
    assert (dataset.num_codes, dataset.num_tokens, dataset.codes_per_position) == (64, 98, 2)
    tokenizer = VQTokenizer.from_pretrained(trained / "tokenizer" / "model")
    indices = tokenizer.encode(to_model(images))
    assert indices.shape == (6, GRID, GRID, PER_POSITION)
    assert torch.equal(tokenizer.from_sequence(dataset.tokens[:6]), indices)


def test_images_are_drawn_of_valid_codes(pipeline):
    drawn = [pipeline([0, 3], 4, output_type=kind, generator=torch.Generator().manual_seed(0)).images
             for kind in ("latent", "uint8")]  # fmt: skip
    assert drawn[0].shape == (8, GRID, GRID, PER_POSITION)
    assert 0 <= int(drawn[0].min()) <= int(drawn[0].max()) < CODES
    decoder = ReconstructionPipeline(pipeline.tokenizer)
    assert torch.equal(decoder.decode(drawn[0], "uint8").images, drawn[1])
    best = pipeline([0, 3], best_of=3, output_type="latent", generator=torch.Generator().manual_seed(0)).images
    assert best.shape == (2, GRID, GRID, PER_POSITION)


def test_all_codes_of_a_position_are_edited_together(pipeline, images: torch.Tensor):
    mask = torch.zeros(28, 28, dtype=torch.bool)
    mask[9, 17] = True
    images = masked_images(images, mask, pipeline.tokenizer.config).pixels
    indices = pipeline.tokenizer.encode(to_model(images))
    made = pipeline.inpaint(images, mask, [0] * 6, output_type="latent", temperature=3.0).images
    drawn = torch.zeros(GRID, GRID, dtype=torch.bool)
    drawn[2, 4] = True
    assert torch.equal(made[:, ~drawn], indices[:, ~drawn])
    assert not torch.equal(made, indices)
    editor = ReconstructionPipeline(pipeline.tokenizer)
    combined = editor.combine(images[:3], images[3:], drawn, "latent").images
    assert torch.equal(combined[:, drawn], indices[3:, drawn])
    assert torch.equal(combined[:, ~drawn], indices[:3, ~drawn])
    steps = editor.interpolate(images[:3], images[3:], 4, "latent").images
    assert steps.shape == (12, GRID, GRID, PER_POSITION)


def test_likelihood_is_that_of_the_tokens(pipeline, images: torch.Tensor):
    bits = pipeline.likelihood(images, [0] * 6)
    assert (bits["bits_per_token"] > 0).all()
    torch.testing.assert_close(bits["bits_per_token"] * 98, bits["bits_per_pixel"] * 28 * 28)


def test_a_prior_of_other_turns_does_not_belong_to_it(pipeline):
    size: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
    prior = build_prior(PriorConfig(**size, num_codes=64, num_tokens=98, num_classes=10))
    with pytest.raises(InputError, match="made for 1 codes at each position, the tokenizer has 2; they do not belong"):
        ClassConditionalPipeline(pipeline.tokenizer, prior)


def test_a_report_is_about_one_codebook(pipeline, fashion_folder: Path):
    dataset = load_splits(DataConfig(source=str(fashion_folder), channels=1))[1]
    with pytest.raises(InputError, match=r"the tokenizer has a .* quantizer of 2 codebooks; a report is about one"):
        examine_tokenizer(pipeline.tokenizer, dataset)
