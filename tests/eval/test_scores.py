"""Scores of reconstructions and of generated images, against their formulas."""

import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.functional.image import structural_similarity_index_measure

from wvq.eval import (
    CodebookUsage,
    Extractor,
    FrechetDistance,
    ReferenceStatistics,
    evaluate_generation,
    evaluate_reconstruction,
    reference_statistics,
)
from wvq.eval.metrics.image_quality import psnr_luma
from wvq.tokenizer import TokenizerConfig, VQTokenizer
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset, load_splits
from wvq.tokenizer.data.decoding import to_model, to_uint8
from wvq.tokenizer.errors import InputError


class Projection(Extractor):
    """A small extractor that counts the images it sees."""

    name = "projection"
    dimension: ClassVar[int] = 12
    input_size = 28
    resize = "none"
    weights_sha256 = "0" * 64

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(3 * 28 * 28, self.dimension, bias=False)
        nn.init.normal_(self.network.weight, std=0.01, generator=torch.Generator().manual_seed(0))
        self.seen = 0
        self.eval()

    def features(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self.network(images.flatten(1).float())


@pytest.fixture(scope="module")
def splits(fashion_folder: Path) -> tuple[ImageDataset, ImageDataset]:
    return load_splits(DataConfig(source=str(fashion_folder), channels=1))


@pytest.fixture(scope="module")
def dataset(splits: tuple[ImageDataset, ImageDataset]) -> ImageDataset:
    return splits[1]


@pytest.fixture(scope="module")
def tokenizer() -> VQTokenizer:
    torch.manual_seed(0)
    config = TokenizerConfig(
        image_size=28,
        channels=1,
        base_channels=8,
        channel_multipliers=(1, 1, 1),
        num_blocks=1,
        latent_channels=8,
        codebook_size=32,
        codebook_dim=4,
        quantizer="wasserstein",
        quantizer_options={"init_std": 0.3},
    )
    return VQTokenizer(config)


@torch.no_grad()
def test_reconstruction_scores_equal_their_formulas(tokenizer: VQTokenizer, dataset: ImageDataset) -> None:
    scores = evaluate_reconstruction(tokenizer, dataset, Projection(), batch_size=37, progress=False)

    tokenizer = tokenizer.eval()
    originals = dataset.__getitems__(range(len(dataset)))["images"]
    z = tokenizer.features(to_model(originals)).movedim(1, -1).reshape(-1, 4).double()
    codes = tokenizer.quantizer.lookup(torch.arange(32)).double()
    distances = torch.cdist(z, codes).square()
    counts = torch.bincount(distances.argmin(dim=1), minlength=32)
    shares = counts[counts > 0].double() / counts.sum()
    reconstructions = to_uint8(tokenizer.decode(tokenizer.encode(to_model(originals))))
    errors = ((originals.double() - reconstructions.double()) ** 2).mean(dim=(1, 2, 3))
    ssim = structural_similarity_index_measure(reconstructions.float(), originals.float(), data_range=255.0)

    assert isinstance(ssim, Tensor)
    assert scores.num_images == len(dataset) == 100
    assert torch.equal(scores.code_histogram, counts)
    assert len(shares) > 1, "the test would say nothing about usage"
    assert scores.utilization == pytest.approx(len(shares) / 32)
    assert scores.perplexity == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())))
    assert scores.token_entropy == pytest.approx(49 * float(-(shares * shares.log2()).sum()))
    assert scores.quantization_error == pytest.approx(float(distances.min(dim=1).values.mean()), rel=1e-6)
    relative = distances.min(dim=1).values.mean() / z.var(dim=0, correction=0).sum()
    assert scores.relative_quantization_error == pytest.approx(float(relative), rel=1e-6)
    assert scores.psnr == pytest.approx(float((10 * torch.log10(255**2 / errors)).mean()), rel=1e-6)
    assert scores.psnr_luma == pytest.approx(float(psnr_luma(originals, reconstructions).mean()), rel=1e-6)
    assert scores.ms_ssim is None
    assert scores.lpips is None
    assert scores.ssim == pytest.approx(float(ssim), rel=1e-4)
    assert scores.reconstruction_loss == pytest.approx(float(errors.mean()) / 127.5**2, rel=1e-6)

    distance = FrechetDistance(Projection())
    distance.update(originals, real=True)
    distance.update(reconstructions, real=False)
    assert scores.reconstruction_frechet_distance == pytest.approx(float(distance.compute()), rel=1e-6)


def test_usage_is_that_of_the_metric(tokenizer: VQTokenizer, dataset: ImageDataset) -> None:
    scores = evaluate_reconstruction(tokenizer, dataset, Projection(), progress=False)
    usage = CodebookUsage(32)
    for batch in dataset.batches(16):
        usage.update(tokenizer.eval().encode(to_model(batch["images"])))
    assert torch.equal(usage.histogram, scores.code_histogram)
    assert float(usage.compute()["perplexity"]) == pytest.approx(scores.perplexity)


def test_the_batch_size_and_a_given_reference_change_nothing(tokenizer: VQTokenizer, dataset: ImageDataset) -> None:
    extractor = Projection()
    alone = evaluate_reconstruction(tokenizer, dataset, extractor, batch_size=100, progress=False)
    assert extractor.seen == 200
    reference = reference_statistics(dataset, extractor, batch_size=100, progress=False)
    assert extractor.seen == 300
    given = evaluate_reconstruction(tokenizer, dataset, extractor, reference, batch_size=9, progress=False)
    assert extractor.seen == 400, "originals must not be seen again"
    assert given.protocol == alone.protocol
    for name, value in alone.as_dict().items():
        if isinstance(value, float):
            assert getattr(given, name) == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_every_part_of_the_tokenizer_stays_in_its_mode(tokenizer: VQTokenizer, dataset: ImageDataset) -> None:
    tokenizer.train()
    tokenizer.encoder.eval()
    before = {name: module.training for name, module in tokenizer.named_modules()}
    weights = tokenizer.fingerprint
    evaluate_reconstruction(tokenizer, dataset, Projection(), progress=False)
    assert {name: module.training for name, module in tokenizer.named_modules()} == before
    assert tokenizer.fingerprint == weights

    tokenizer.train()
    rgb = load_splits(DataConfig(source=dataset.description["source"], channels=3))[1]
    with pytest.raises(InputError, match="takes"):
        evaluate_reconstruction(tokenizer, rgb, Projection(), progress=False)
    assert tokenizer.training


def test_scores_and_protocol_go_into_json(tokenizer: VQTokenizer, dataset: ImageDataset) -> None:
    scores = evaluate_reconstruction(tokenizer, dataset, Projection(), progress=False)
    written = json.loads(json.dumps(scores.as_dict(), allow_nan=False))
    assert written == scores.as_dict()
    assert "code_histogram" not in written
    assert written["protocol"]["score"] == "rFD[projection]"
    assert written["protocol"]["extractor"] == Projection().protocol
    assert written["protocol"]["reference"]["fingerprint"] == dataset.fingerprint
    assert written["protocol"]["tokenizer"] == tokenizer.fingerprint


def test_reconstructions_are_only_compared_with_their_own_originals(
    tokenizer: VQTokenizer, splits: tuple[ImageDataset, ImageDataset]
) -> None:
    train, evaluation = splits
    reference = reference_statistics(train, Projection(), progress=False)
    with pytest.raises(InputError, match=f"of other images: fingerprint {train.fingerprint} there"):
        evaluate_reconstruction(tokenizer, evaluation, Projection(), reference, progress=False)


def test_generation_distance_and_protocol(dataset: ImageDataset, fashion_images: tuple[Tensor, Tensor]) -> None:
    generated = fashion_images[0][::4]
    extractor = Projection()
    reference = reference_statistics(dataset, extractor, progress=False)
    sampling = {"seed": 3, "temperature": 1.0}
    scores = evaluate_generation(iter(generated.split(64)), reference, extractor, sampling, progress=False)

    distance = FrechetDistance(extractor)
    distance.update(dataset.__getitems__(range(len(dataset)))["images"], real=True)
    distance.update(generated, real=False)
    assert scores.generation_frechet_distance == pytest.approx(float(distance.compute()), rel=1e-6)
    assert (scores.num_generated, scores.num_reference) == (150, 100)
    assert json.loads(json.dumps(scores.as_dict()))["protocol"] == {
        "score": "FD[projection]",
        "extractor": extractor.protocol,
        "reference": dataset.description,
        "num_reference": 100,
        "num_generated": 150,
        "sampling": sampling,
    }


def test_a_data_set_serves_as_reference(dataset: ImageDataset) -> None:
    images = (batch["images"] for batch in dataset.batches(30))
    scores = evaluate_generation(images, dataset, Projection(), progress=False)
    assert scores.generation_frechet_distance == pytest.approx(0, abs=1e-6)


def test_generated_images_are_uint8_two_at_least_and_of_the_same_extractor(dataset: ImageDataset) -> None:
    extractor = Projection()
    reference = reference_statistics(dataset, extractor, progress=False)
    with pytest.raises(InputError, match=r"must be torch\.uint8"):
        evaluate_generation([torch.rand(4, 1, 28, 28)], reference, extractor, progress=False)
    with pytest.raises(InputError, match="generated side has 0 images"):
        evaluate_generation([], reference, extractor, progress=False)
    other = replace(reference, extractor={**reference.extractor, "weights_sha256": "1" * 64})
    with pytest.raises(InputError, match="weights_sha256 is '1111"):
        evaluate_generation([], other, extractor, progress=False)


def test_bars_are_shown_if_asked(
    dataset: ImageDataset, tokenizer: VQTokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    reference: ReferenceStatistics = reference_statistics(dataset, Projection())
    evaluate_reconstruction(tokenizer, dataset, Projection(), reference)
    evaluate_generation((b["images"] for b in dataset.batches(50)), reference, Projection(), num_images=100)
    shown = capsys.readouterr().err
    for name in ("reference", "reconstructions", "generated"):
        assert f"{name}: 100%" in shown
    reference_statistics(dataset, Projection(), progress=False)
    assert not capsys.readouterr().err
