"""pFID of a tokenizer: its formula, what changes it and what does not, in `wvq evaluate` and in processes."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_evaluations import Tiny, tiny_pipeline_folder

from wvq.eval import PerturbationScores, SomeImages, evaluate_perturbation, extract_features
from wvq.eval import evaluate as command
from wvq.eval.evaluate import Evaluation, evaluate
from wvq.eval.features import chunks
from wvq.eval.features.chunks import Chunks
from wvq.eval.metrics.frechet import frechet_distance, mean_and_factor
from wvq.eval.metrics.perturbation import nearest_other_codes, perturb_tokens
from wvq.eval.perturbation import RATES, STRENGTHS
from wvq.eval.score_names import INCEPTION_SHA256
from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset, load_splits
from wvq.tokenizer.data.decoding import to_model, to_uint8


@pytest.fixture(scope="module")
def held_out(fashion_folder: Path) -> ImageDataset:
    return load_splits(DataConfig(source=str(fashion_folder), image_size=28, channels=3))[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline_folder(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> VQTokenizer:
    return VQTokenizer.from_pretrained(folder / "tokenizer")


def build(quantizer: str, size: int, **options: Any) -> VQTokenizer:
    torch.manual_seed(0)
    small = {"base_channels": 4, "channel_multipliers": (1, 1, 1), "num_blocks": 1, "latent_channels": 4}
    config = TokenizerConfig(
        **small, codebook_size=size, codebook_dim=4, quantizer=quantizer, quantizer_options=options
    )
    return VQTokenizer(config).eval()


def score(tokenizer: VQTokenizer, images: Any, **options: Any) -> PerturbationScores:
    return evaluate_perturbation(tokenizer, images, Tiny(), progress=False, **options)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vanilla", "residual"])
def test_it_is_the_mean_distance_over_rates_and_strengths(kind: str, held_out: ImageDataset) -> None:
    tokenizer = build(kind, 256, init_std=1.0, **({"quantizers": 2} if kind == "residual" else {}))
    scores = score(tokenizer, held_out, seed=5)
    images = held_out.take(range(len(held_out)))["images"]
    original = mean_and_factor(Tiny()(images))
    tokens = tokenizer.encode(to_model(images))
    neighbours = [nearest_other_codes(codes, 6) for codes in tokenizer.codebooks]
    distances = []
    for rate, strength in product(RATES, (3, 4, 6)):  # 200, 280 and 360 of 16,384 codes are so many of 256
        perturbed = perturb_tokens(tokens, neighbours, rate, strength, range(len(images)), 5)
        vectors = Tiny()(to_uint8(tokenizer.decode(perturbed)))
        distances.append(float(frechet_distance(*original, *mean_and_factor(vectors))))
    assert [one["distance"] for one in scores.by_setting] == pytest.approx(distances, rel=1e-4)
    assert [(one["rate"], one["strength"]) for one in scores.by_setting] == list(product(RATES, STRENGTHS))
    assert scores.perturbed_frechet_distance == pytest.approx(sum(distances) / 15, rel=1e-4)
    assert scores.num_images == len(held_out) == 100
    assert scores.protocol["nearest_codes"] == [3, 4, 6]
    assert json.loads(json.dumps(scores.as_dict(), allow_nan=False)) == scores.as_dict()


def test_batches_given_features_and_the_mode_change_nothing(tokenizer: VQTokenizer, held_out: ImageDataset) -> None:
    some = SomeImages(held_out, 30)
    alone = score(tokenizer, some)
    tokenizer.train()
    given = score(tokenizer, some, batch_size=7, originals=extract_features(some, Tiny(), progress=False))
    assert tokenizer.training
    tokenizer.eval()
    assert given.protocol == alone.protocol
    assert given.perturbed_frechet_distance == pytest.approx(alone.perturbed_frechet_distance, rel=1e-4)
    assert score(tokenizer, some, seed=1).perturbed_frechet_distance != alone.perturbed_frechet_distance
    with pytest.raises(InputError, match="at least 2 of the same are needed"):
        score(tokenizer, SomeImages(held_out, 29), originals=extract_features(some, Tiny(), progress=False))
    with pytest.raises(InputError, match="there are 1 images"):
        score(tokenizer, SomeImages(held_out, 1))


def test_the_smallest_codebook_has_one_neighbour(held_out: ImageDataset) -> None:
    scores = score(build("vanilla", 2, init_std=1.0), SomeImages(held_out, 20))
    assert scores.protocol["nearest_codes"] == [1, 1, 1]


def test_it_is_called_pfid_with_the_standard_weights_alone(
    tokenizer: VQTokenizer, held_out: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = SomeImages(held_out, 20)
    assert score(tokenizer, some).protocol["score"] == "pFD[tiny]"
    monkeypatch.setattr(Tiny, "weights_sha256", INCEPTION_SHA256)
    assert score(tokenizer, some).protocol["score"] == "pFID"


def test_what_was_stopped_goes_on_with_the_same_result(
    tokenizer: VQTokenizer, held_out: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_SIZE", 16)
    some = SomeImages(held_out, 40)
    undisturbed = score(tokenizer, some, chunks=Chunks(tmp_path / "one"))
    extractor, seen = Tiny(), 0
    extract = extractor.features

    def stop_at_200(images: torch.Tensor) -> torch.Tensor:
        nonlocal seen
        seen += len(images)
        if seen > 200:
            raise KeyboardInterrupt
        return extract(images)

    monkeypatch.setattr(extractor, "features", stop_at_200)
    with pytest.raises(KeyboardInterrupt):
        evaluate_perturbation(tokenizer, some, extractor, progress=False, chunks=Chunks(tmp_path / "two"))
    monkeypatch.setattr(extractor, "features", extract)
    resumed = evaluate_perturbation(tokenizer, some, extractor, progress=False, chunks=Chunks(tmp_path / "two"))
    assert resumed == undisturbed


def test_the_command_gives_it_where_asked_for(
    folder: Path, held_out: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "build_extractor", lambda name, weights: Tiny())
    monkeypatch.chdir(tmp_path)
    data = DataConfig(source=held_out.description["source"])
    config = Evaluation(tokenizer=str(folder / "tokenizer"), data=data, perturbed_images=30, output="scores.json")
    text = evaluate(config)
    assert text is not None
    scores = json.loads((tmp_path / "scores.json").read_text())
    expected = score(VQTokenizer.from_pretrained(folder / "tokenizer"), SomeImages(held_out, 30))
    found = scores["perturbation"]["perturbed_frechet_distance"]
    assert found == pytest.approx(expected.perturbed_frechet_distance, rel=1e-9)
    assert text.splitlines()[1] == f"pFD[tiny] {found:.3f} (30 evaluation images)"
    evaluate(replace(config, perturbed_images=0))
    assert set(json.loads((tmp_path / "scores.json").read_text())) == {"reconstruction"}
    with pytest.raises(InputError, match="of 12 perturbed images in 12 dimensions"):
        evaluate(replace(config, perturbed_images=12))


def test_impossible_numbers_of_images_are_refused() -> None:
    for count in (-1, 1):
        with pytest.raises(InputError, match=f"perturbed_images is {count}; it must be at least 2, or 0 for none"):
            Evaluation(tokenizer="a", perturbed_images=count)
    with pytest.raises(InputError, match="images, a, have no tokens"):
        Evaluation(images="a", reference="b", perturbed_images=100)
