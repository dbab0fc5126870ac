"""Where codes start: from a distribution, or from as many steps of vectors as it takes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from codebooks import TABLES, one_codebook
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from wvq.tokenizer import (
    InputError,
    ResidualQuantizer,
    TokenizerConfig,
    VanillaQuantizer,
    VQTokenizer,
    gaussian_wasserstein_distance,
)
from wvq.tokenizer.quantizers.codebook import CodebookQuantizer
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance
from wvq.tokenizer.quantizers.initialization import codes_from_data


def build(name: str = "vanilla", size: int = 16, **options: Any) -> CodebookQuantizer:
    torch.manual_seed(0)
    return one_codebook(name, size, 4, **{"initialization": "data", **options})


def features(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed)) + 7


def are_among(codes: Tensor, vectors: Tensor) -> bool:
    return bool((codes[:, None] == vectors).all(dim=2).any(dim=1).all())


@pytest.mark.parametrize("initialization", ["data", "kmeans++"])
@pytest.mark.parametrize("name", TABLES)
def test_features_pass_until_there_are_vectors_for_all_codes(name: str, initialization: str):
    quantizer = build(name, initialization=initialization)
    batch, steps = 10, 2 if initialization == "data" else 7  # 16 and 64 vectors
    quantizer.eval()(features(batch))
    assert quantizer.waiting
    quantizer.train()
    names = None
    for step in range(steps):
        assert quantizer.waiting
        z = features(batch, step).requires_grad_()
        output = quantizer(z)
        names = output.terms.keys()
        assert torch.equal(output.quantized, quantizer.project(z))
        assert output.indices.dtype == torch.int64
        assert 0 <= output.indices.min() <= output.indices.max() < 16
        assert not output.loss
        assert not any(output.terms.values())
        output.loss.backward()
        assert not any(p.grad.any() for p in quantizer.parameters() if p.grad is not None)
        assert all(p.grad is not None for p in quantizer.parameters() if p.requires_grad)  # what DDP waits for
        assert z.grad is not None
        assert not z.grad.any()
    assert not quantizer.waiting
    seen = quantizer.project(torch.cat([features(batch, step) for step in range(steps)]))
    codes = quantizer.codebook.detach()
    distances = torch.cdist(codes, seen)
    torch.testing.assert_close(distances.amin(dim=1), torch.zeros(16), atol=1e-3, rtol=0)
    assert len(distances.argmin(dim=1).unique()) == 16  # sixteen different vectors
    z = features(batch, 9)
    output = quantizer(z)
    assert output.terms.keys() == names  # which were 0 meanwhile
    torch.testing.assert_close(output.quantized, codes[quantizer.eval()(z).indices], rtol=1, atol=1)
    assert not quantizer.waiting


def test_one_large_batch_is_enough_and_codes_are_drawn_once():
    quantizer = build()
    quantizer(features(40))
    codes = quantizer.codebook.detach().clone()
    assert are_among(codes, features(40))
    quantizer(features(40, 1))
    assert torch.equal(quantizer.codebook, codes)


def test_codes_wait_for_a_number_of_steps_and_come_from_the_last_of_them():
    quantizer = build(initialization_steps=5)
    for step in range(5):
        assert quantizer.waiting
        quantizer(features(8, step))
    assert not quantizer.waiting
    assert are_among(quantizer.codebook.detach(), torch.cat([features(8, step) for step in (2, 3, 4)]))


def test_evaluation_meanwhile_quantizes_by_the_latest_vectors():
    quantizer = build(initialization_steps=9)
    quantizer(features(5))
    shown = quantizer.eval()(features(5))
    torch.testing.assert_close(shown.quantized, features(5))
    for step in range(4):
        quantizer.train()(features(5, step))
    assert are_among(quantizer.codebook.detach(), torch.cat([features(5, step) for step in range(4)]))


@pytest.mark.parametrize("name", ["vanilla", "ema", "linear", "transport"])
@pytest.mark.parametrize("stop", range(6))
def test_a_run_that_stops_meanwhile_goes_on_exactly(name: str, stop: int):
    whole, first, second = (build(name, initialization_steps=3) for _ in range(3))
    for step in range(6):
        whole(features(6, step))
        first(features(6, step)) if step < stop else None
    saved = first.state_dict()
    second.load_state_dict(saved)
    assert ("first_vectors.latest" in saved) == first.waiting * (stop > 0)
    for step in range(stop, 6):
        second(features(6, step))
    expected, found = whole.state_dict(), second.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[key]) for key, value in expected.items())


def test_the_state_is_what_it_was_before_anything_is_seen_and_once_codes_are_drawn():
    quantizer = build()
    assert list(quantizer.state_dict()) == ["weight", "initialized"]
    quantizer(features(40))
    saved = copy.deepcopy(quantizer.state_dict())
    assert list(saved) == ["weight", "initialized"]
    loaded = build()
    loaded(features(10, 3))
    loaded.load_state_dict(saved)
    loaded(features(40, 1))
    assert torch.equal(loaded.codebook, quantizer.codebook)


@pytest.mark.parametrize("parts", [2, 4])
def test_micro_batches_are_vectors_of_one_step(parts: int):
    whole, split = build("ema"), build("ema")
    split.accumulation_steps = parts
    for step in range(4):
        whole(features(8, step))
        for part in features(8, step).chunk(parts):
            split(part)
    torch.testing.assert_close(split.state_dict(), whole.state_dict())
    assert not whole.waiting


def test_an_abandoned_step_gives_no_vectors():
    quantizer = build()
    quantizer.accumulation_steps = 2
    quantizer(features(40, 5))
    quantizer.abandon_step()
    for part in features(20).chunk(2):
        quantizer(part)
    assert are_among(quantizer.codebook.detach(), features(20))


def test_a_moving_average_keeps_its_buffers_in_place():
    quantizer: Any = build("wasserstein")
    model = nn.Sequential(nn.Linear(4, 4), quantizer)
    average: Any = AveragedModel(model)
    for step in range(4):
        model(features(10, step))
        average.update_parameters(model)
    assert torch.equal(average.module[1].features.sums, quantizer.features.sums)


def test_each_of_a_residual_quantizer_starts_from_what_those_before_leave_over():
    quantizers = [build(), build()]
    composite = ResidualQuantizer(*quantizers)
    z = features(20)
    assert torch.equal(composite(z).quantized, z)
    assert [one.waiting for one in quantizers] == [False, True]
    first = quantizers[0].codebook.detach().clone()
    left = z - quantizers[0](z).quantized
    composite(z)
    assert [one.waiting for one in quantizers] == [False, False]
    assert torch.equal(quantizers[0].codebook, first)
    torch.testing.assert_close(
        torch.cdist(quantizers[1].codebook, left).amin(dim=1), torch.zeros(16), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("decay", [None, 0.9])
def test_codes_from_data_are_not_carried_away_by_transport(decay: float | None):
    quantizer = build("transport", 64, transport_step=0.0, decay=decay)
    quantizer(features(80))
    codes = quantizer.codebook.detach().clone()
    quantizer(features(80, 1) + 50)
    if decay is None:
        assert torch.equal(quantizer.codebook, codes)
    moments = mean_and_covariance(codes), mean_and_covariance(features(80))
    assert gaussian_wasserstein_distance(*moments[0], *moments[1]) < 0.5


def test_kmeans_plus_plus_finds_every_far_apart_group():
    centres = torch.randn(8, 4, generator=torch.Generator().manual_seed(1)) * 100
    vectors = centres.repeat(50, 1) + features(400) * 0.01
    codes = codes_from_data("kmeans++", vectors, 8)
    assert len(torch.cdist(codes, centres).argmin(dim=1).unique()) == 8


def test_kmeans_plus_plus_in_rounds_is_spread_out_as_one_by_one(monkeypatch: pytest.MonkeyPatch):
    """The mean squared distance to the nearest code, which random vectors do not reach."""
    vectors = features(4000)

    def error(codes: Tensor) -> float:
        return float(torch.cdist(vectors, codes).amin(dim=1).square().mean())

    rounds, drawn = (error(codes_from_data(name, vectors, 800)) for name in ("kmeans++", "data"))
    monkeypatch.setattr("wvq.tokenizer.quantizers.initialization._ONE_BY_ONE", 800)
    one_by_one = error(codes_from_data("kmeans++", vectors, 800))
    assert rounds < 1.03 * one_by_one < 0.9 * drawn


def test_kmeans_plus_plus_of_few_different_vectors_repeats_them():
    codes = codes_from_data("kmeans++", torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(10, 1), 8)
    assert {tuple(code) for code in codes.tolist()} == {(1.0, 0.0), (0.0, 1.0)}


def test_uniform_codes_lie_within_one_over_their_number():
    codes = VanillaQuantizer(codebook_size=100, codebook_dim=4, initialization="uniform").codebook
    assert 0.009 < codes.abs().max() <= 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"initialization_steps": -1}, "initialization_steps is -1; it must be at least 0"),
        ({"initialization": "normal", "initialization_steps": 3}, "steps is 3, but initialization 'normal' needs no"),
    ],
)
def test_steps_that_cannot_be_waited(options: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        build(**options)


def test_a_tokenizer_that_is_saved_meanwhile_can_be_loaded(tmp_path: Path):
    network: dict[str, Any] = {"base_channels": 8, "channel_multipliers": (1,), "num_blocks": 1, "latent_channels": 8}
    options = {"initialization": "data", "initialization_steps": 9}
    config = TokenizerConfig(image_size=4, codebook_size=16, codebook_dim=4, quantizer_options=options, **network)
    tokenizer = VQTokenizer(config)
    tokenizer(torch.randn(4, 3, 4, 4).clamp(-1, 1))
    tokenizer.save_pretrained(tmp_path / "saved")
    loaded = VQTokenizer.from_pretrained(tmp_path / "saved")
    assert torch.equal(loaded.codebooks[0], tokenizer.codebooks[0])
