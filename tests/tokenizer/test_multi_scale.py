"""Quantizers over scales: their tokens, what decodes them, their statistics, and what a single scale is."""

from pathlib import Path
from typing import Any

import pytest
import torch
from codebooks import PLAIN, TABLES, one_codebook
from hypothesis import given
from hypothesis import strategies as st
from tiny_pipelines import tiny_tokenizer
from torch import Tensor

from wvq.eval.codebook import examine_codebook
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.metrics import ReconstructionQuality, perplexity, token_entropy, utilization
from wvq.tokenizer.multi_scale import STATISTICS_WINDOW, MultiScaleQuantizer, scale_ends, split_scales

SCALES = (1, 2, 4)
KINDS = tuple(name for name in TABLES if name in PLAIN)


def build(**changes: Any) -> Any:
    options: Any = {"scales": SCALES} | changes
    return tiny_tokenizer(**options)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_alone_decode_to_what_training_saw(kind: str, images: Tensor, tmp_path: Path):
    tokenizer = build(quantizer=kind).train()
    optimizer = torch.optim.SGD([p for p in tokenizer.parameters() if p.requires_grad], lr=0.1)
    for _ in range(3):
        output = tokenizer(images)
        (output.quantizer.loss + output.reconstructions.square().mean()).backward()
        optimizer.step()
    output = tokenizer.eval()(images)
    indices = output.quantizer.indices
    assert indices.shape == (5, 21) == (5, *tokenizer.config.indices_shape)
    assert torch.equal(tokenizer.encode(images), indices)
    shown = output.reconstructions.detach().clamp(-1, 1)
    torch.testing.assert_close(tokenizer.decode(indices), shown, rtol=1e-4, atol=1e-4)
    tokenizer.save_pretrained(tmp_path)
    loaded = VQTokenizer.from_pretrained(tmp_path)
    assert loaded.fingerprint == tokenizer.fingerprint
    tokens = loaded.to_sequence(indices)
    assert torch.equal(loaded.decode(loaded.from_sequence(tokens)), tokenizer.decode(indices))


def test_each_scale_takes_off_a_part_of_what_is_left(images: Tensor):
    tokenizer = build(quantizer_options={"initialization": "data"}).train()
    while tokenizer.quantizer.sub_quantizers[0].waiting:
        tokenizer(images)
    tokenizer.eval().requires_grad_(False)
    features, indices = tokenizer.features(images), tokenizer.encode(images)
    ends = scale_ends(SCALES)
    left = [
        float((tokenizer.quantizer.lookup(indices[:, :end]).movedim(-1, 1) - features).square().mean()) for end in ends
    ]
    assert left[0] > left[1] > left[2]
    assert tokenizer.decode(indices[:, : ends[1]]).shape == images.shape


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("estimator", ["straight-through", "rotation"])
def test_one_scale_without_convolutions_is_the_plain_quantizer(kind: str, estimator: str):
    options = {"gradient_estimator": estimator, "init_std": 1.0}
    torch.manual_seed(0)
    plain = one_codebook(kind, **options)
    torch.manual_seed(0)
    scaled = MultiScaleQuantizer(one_codebook(kind, **options), (4,), num_convolutions=0)
    for step in range(3):
        z = [
            torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(step), requires_grad=True) for _ in range(2)
        ]
        outputs = [plain(z[0]), scaled(z[1])]
        for output in outputs:
            (output.loss + output.quantized.square().sum()).backward()
        assert torch.equal(outputs[0].indices.flatten(1), outputs[1].indices)
        torch.testing.assert_close(outputs[0].loss, outputs[1].loss)
        torch.testing.assert_close(z[0].grad, z[1].grad)
        assert outputs[0].terms.keys() == outputs[1].terms.keys()
    torch.testing.assert_close(plain.codebook, scaled.sub_quantizers[0].codebook)


@given(scales=st.sets(st.integers(1, 9), min_size=1, max_size=5), batch=st.integers(1, 3), data=st.data())
def test_tokens_are_cut_where_scales_end(scales: set[int], batch: int, data: st.DataObject):
    grown = sorted(scales)
    ends = scale_ends(grown)
    count = data.draw(st.integers(1, len(grown)))
    tokens = torch.arange(batch * ends[count - 1]).view(batch, -1)
    parts = split_scales(tokens, grown)
    assert [part.shape[1] for part in parts] == [scale**2 for scale in grown[:count]]
    assert torch.equal(torch.cat(parts, dim=1), tokens)


def test_statistics_are_those_of_the_vectors_of_all_scales(images: Tensor):
    """The same codes, window and distance as of a quantizer that was given these vectors in a batch of its own."""
    tokenizer = build(quantizer_options={"initialization": "normal"}).train()
    (own,) = tokenizer.quantizer.sub_quantizers
    torch.manual_seed(0)
    alone = one_codebook("wasserstein", 32, 4)
    alone.load_state_dict(own.state_dict())
    vectors = tokenizer.quantizer.vectors(tokenizer.features(images).detach())
    assert vectors.shape == (5 * 21, 4)
    terms, expected = tokenizer(images).quantizer.terms, alone(vectors).terms
    assert set(terms) - set(expected) == {"scale_loss"}
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value, msg=lambda text, n=name: f"{n}: {text}")
    for mine, its in zip(own.features.mean_and_covariance(), alone.features.mean_and_covariance(), strict=True):
        torch.testing.assert_close(mine, its)
    report = examine_codebook(vectors, own.codebook.detach())
    assert report.num_features == 5 * 21
    assert torch.equal(tokenizer.quantizer.unquantized(tokenizer.features(images)), tokenizer.features(images))


def test_codes_that_start_from_data_are_vectors_of_all_scales(images: Tensor):
    tokenizer = build(quantizer_options={"initialization": "data", "initialization_steps": 2}).train()
    (own,) = tokenizer.quantizer.sub_quantizers
    output = tokenizer(images)
    assert own.waiting
    assert torch.equal(output.reconstructions, tokenizer.images(output.features))  # features pass as they are
    assert float(output.quantizer.loss.detach()) == 0
    output.quantizer.loss.backward()
    assert all(parameter.grad is not None for parameter in tokenizer.quantizer.parameters())
    tokenizer(images)
    assert not own.waiting


def test_the_convolutions_learn_by_the_features_and_the_codes_by_their_own_rule(images: Tensor):
    tokenizer = build(quantizer="ema", scale_convolutions=2).train()
    assert len(tokenizer.quantizer.phis) == 2
    tokenizer(images).reconstructions.square().mean().backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in tokenizer.quantizer.phis.parameters())
    tokenizer(images).quantizer.loss.backward()
    assert all(float(parameter.grad.abs().sum()) > 0 for parameter in tokenizer.quantizer.phis.parameters())


def test_usage_is_counted_for_each_scale_and_together(images: Tensor):
    tokenizer = build().eval()
    quality = ReconstructionQuality(32, 4, SCALES)
    with torch.no_grad():
        features, indices = tokenizer.features(images), tokenizer.encode(images)
        codes = tokenizer.quantizer.lookup(indices)
    pixels = ((images + 1) * 127.5).to(torch.uint8)
    for rows in (slice(0, 2), slice(2, 5)):
        quality.update(pixels[rows], pixels[rows], features[rows], indices[rows], codes[rows])
    found = quality.compute()
    together = torch.bincount(indices.flatten(), minlength=32)
    assert found["utilization"] == float(utilization(together))
    assert found["perplexity"] == pytest.approx(float(perplexity(together)))
    bits = 0.0
    for scale, own in zip(SCALES, split_scales(indices, SCALES), strict=True):
        counts = torch.bincount(own.flatten(), minlength=32)
        assert found[f"utilization_{scale}x{scale}"] == float(utilization(counts))
        assert found[f"perplexity_{scale}x{scale}"] == pytest.approx(float(perplexity(counts)))
        bits += scale**2 * float(token_entropy(counts))
    assert found["token_entropy"] == pytest.approx(bits)


def test_normalized_scales_have_one_mean_and_covariance_and_codes_are_carried_back(images: Tensor):
    tokenizer = build(normalize_scales=True, quantizer_options={"initialization": "data"}, scale_convolutions=0).train()
    for _ in range(2 * STATISTICS_WINDOW):  # until nothing changes any more
        tokenizer(images)
    tokenizer.eval().requires_grad_(False)
    quantizer, features = tokenizer.quantizer, tokenizer.features(images)
    for own in quantizer.vectors(features).view(5, 21, 4).split([1, 4, 16], dim=1):
        own = own.flatten(0, 1)
        torch.testing.assert_close(own.mean(dim=0), torch.zeros(4), rtol=0, atol=1e-3)
        torch.testing.assert_close(own.mT.cov(), torch.eye(4), rtol=0, atol=0.01)
    output = tokenizer(images)
    carried = quantizer.lookup(output.quantizer.indices).movedim(-1, 1)
    torch.testing.assert_close(output.quantizer.quantized, carried, rtol=1e-4, atol=1e-4)
    assert float((carried - features).square().mean()) < float(features.var())


def test_half_precision_leaves_codes_and_convolutions_as_they_are(images: Tensor):
    tokenizer = build().eval().to(torch.bfloat16)
    assert {p.dtype for p in tokenizer.quantizer.parameters()} == {torch.float32}
    assert tokenizer.decode(tokenizer.encode(images)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": (1, 2)}, r"scales are \(1, 2\); the last must be .* \(4, 4\)"),
        ({"scales": (2, 1, 4)}, r"scales are \(2, 1, 4\); they must be integers from 1 on that grow"),
        ({"scales": (0, 4)}, "they must be integers from 1 on that grow"),
        ({"scales": (1.0, 4)}, "they must be integers from 1 on that grow"),
        ({"scale_convolutions": -1}, "num_convolutions is -1; it must be at least 0"),
        ({"quantizer": "residual"}, "but quantizer is 'residual'; scales share one codebook"),
        ({"quantizer": "spherical"}, "a SphericalQuantizer, whose codes do not lie where the features do"),
        ({"quantizer": "fsq", "quantizer_options": {}}, "a FSQuantizer, whose codes do not lie"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        build(**changes)


def test_other_sizes_are_refused():
    tokenizer = build().eval()
    with pytest.raises(InputError, match=r"z has shape \(1, 4, 3, 3\); of scales \(1, 2, 4\) it is"):
        tokenizer.quantizer(torch.zeros(1, 4, 3, 3))
    with pytest.raises(InputError, match=r"indices have shape \(1, 6\)"):
        tokenizer.decode(torch.zeros(1, 6, dtype=torch.int64))
