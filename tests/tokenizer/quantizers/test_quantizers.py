"""What each loss term moves, shapes and precisions, the window of statistics, and the paper's claim at toy size."""

import numpy as np
import pytest
import torch
from torch import Tensor

from wvq.tokenizer import (
    CodebookUsage,
    InputError,
    LinearQuantizer,
    MMDQuantizer,
    VanillaQuantizer,
    WassersteinQuantizer,
    build_quantizer,
    gaussian_wasserstein_distance,
    maximum_mean_discrepancy,
    nearest_codes,
)
from wvq.tokenizer.quantizers.gaussian import MomentWindow, mean_and_covariance
from wvq.tokenizer.quantizers.registry import QUANTIZERS, quantizer_options

NAMES = tuple(QUANTIZERS)
LEARNT = ("vanilla", "online", "wasserstein", "mmd")  # codes that are parameters themselves
WEIGHTS = {
    "commitment_loss": "commitment_weight",
    "codebook_loss": "codebook_weight",
    "wasserstein_distance": "wasserstein_weight",
    "mmd": "mmd_weight",
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


# What moves what


@pytest.mark.parametrize("name", NAMES)
def test_gradient_passes_straight_through(name: str):
    quantizer = build_quantizer(name, 16, 4, init_std=1.0)
    z, downstream = torch.randn(3, 4, 5, 5, requires_grad=True), torch.randn(3, 4, 5, 5)
    (quantizer(z).quantized * downstream).sum().backward()
    assert torch.equal(gradient(z), downstream)
    assert not gradient(quantizer.weight).any()


@pytest.mark.parametrize("name", NAMES)
def test_commitment_moves_only_the_vectors(name: str):
    others = {option: 0.0 for option in quantizer_options(name) if option.endswith("_weight")}
    quantizer = build_quantizer(name, 16, 4, init_std=1.0, **others | {"commitment_weight": 3.0})
    z = torch.randn(20, 4, requires_grad=True)
    codes = quantizer.codebook.detach().clone()
    output = quantizer(z)
    output.loss.backward()
    difference = z - codes[output.indices]
    torch.testing.assert_close(output.terms["commitment_loss"], difference.square().mean())
    torch.testing.assert_close(gradient(z), 3 * 2 * difference.detach() / z.numel())
    assert not gradient(quantizer.weight).any()


@pytest.mark.parametrize("name", LEARNT)
def test_codebook_loss_moves_only_the_codes(name: str):
    others = {option: 0.0 for option in quantizer_options(name) if option.endswith("_weight")}
    quantizer = build_quantizer(name, 16, 4, init_std=1.0, **others | {"codebook_weight": 2.0})
    z = torch.randn(20, 4, requires_grad=True)
    codes = quantizer.codebook.detach().clone()
    output = quantizer(z)
    output.loss.backward()
    expected = torch.zeros(16, 4).index_add_(0, output.indices, 2 * 2 * (codes[output.indices] - z).detach() / 80)
    torch.testing.assert_close(gradient(quantizer.weight), expected)
    assert not gradient(z).any()


def test_linear_codebook_loss_moves_only_the_map():
    quantizer = LinearQuantizer(16, 4, commitment_weight=0, codebook_weight=2.0)
    z = torch.randn(20, 4, requires_grad=True)
    output = quantizer(z)
    output.loss.backward()
    error = 2 * 2 * (quantizer.codebook[output.indices] - z).detach() / 80
    torch.testing.assert_close(quantizer.map.weight.grad, error.T @ quantizer.weight[output.indices])
    torch.testing.assert_close(quantizer.map.bias.grad, error.sum(dim=0))
    assert quantizer.weight.grad is None
    assert not gradient(z).any()


def test_mmd_loss_moves_every_code_and_nothing_else():
    quantizer = MMDQuantizer(16, 4, 1.0, commitment_weight=0, codebook_weight=0, mmd_weight=0.25)
    z = torch.randn(200, 4, requires_grad=True)
    output = quantizer(z)
    output.loss.backward()
    codes = quantizer.codebook.detach().clone().requires_grad_()
    discrepancy = maximum_mean_discrepancy(z.detach(), codes)
    (0.25 * discrepancy).backward()
    torch.testing.assert_close(output.terms["mmd"], discrepancy.detach())
    torch.testing.assert_close(gradient(quantizer.weight), gradient(codes))
    assert (gradient(quantizer.weight).norm(dim=1) > 0).all()
    assert not gradient(z).any()


def test_wasserstein_loss_moves_every_code_and_nothing_else():
    quantizer = WassersteinQuantizer(16, 4, 1.0, commitment_weight=0, codebook_weight=0, wasserstein_weight=0.25)
    z = torch.randn(200, 4, requires_grad=True)
    output = quantizer(z)
    output.loss.backward()
    assert not gradient(z).any()

    codes = quantizer.codebook.detach().clone().requires_grad_()
    features = mean_and_covariance(z.detach())
    distance = gaussian_wasserstein_distance(*features, *mean_and_covariance(codes))
    scaled = distance / features[1].diagonal().max().sqrt()
    (0.25 * scaled).backward()
    torch.testing.assert_close(output.terms["wasserstein_distance"], scaled.detach().float())
    torch.testing.assert_close(gradient(quantizer.weight), gradient(codes))
    assert (gradient(quantizer.weight).norm(dim=1) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_loss_is_the_weighted_sum_of_the_terms(name: str):
    quantizer = build_quantizer(name, 16, 4)
    output = quantizer(torch.randn(50, 4, requires_grad=True))
    total = sum(getattr(quantizer, WEIGHTS[term]) * value for term, value in output.terms.items())
    torch.testing.assert_close(output.loss, total)
    assert output.loss.requires_grad
    assert not any(value.requires_grad for value in output.terms.values())


def test_wasserstein_term_ignores_a_common_scale():
    quantizer = WassersteinQuantizer(32, 4, init_std=1.0)
    z = torch.randn(100, 4) + 1
    before = quantizer(z).terms["wasserstein_distance"]
    scaled = WassersteinQuantizer(32, 4)
    scaled.weight.data = quantizer.weight.data * 1024
    torch.testing.assert_close(scaled(z * 1024).terms["wasserstein_distance"], before)


@pytest.mark.parametrize("codes", ["collapsed", "spread"])
@pytest.mark.parametrize("features", ["constant", "spread"])
def test_loss_and_gradient_stay_finite(features: str, codes: str):
    quantizer = WassersteinQuantizer(32, 4)
    if codes == "collapsed":
        quantizer.weight.data[:] = quantizer.weight.data[0]
    z = torch.randn(64, 4) if features == "spread" else torch.ones(64, 4)
    output = quantizer(z)
    output.loss.backward()
    assert output.loss.isfinite()
    assert gradient(quantizer.weight).isfinite().all()


# Shapes and precisions


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(6, 4), (1, 4), (2, 4, 3, 5), (1, 4, 1, 1), (2, 4, 7), (2, 4, 2, 3, 2)])
def test_shapes(name: str, shape: tuple[int, ...]):
    quantizer = build_quantizer(name, 16, 4, init_std=1.0)
    z = torch.randn(shape)
    codes = quantizer.codebook.detach().clone()
    output = quantizer(z)
    assert output.quantized.shape == shape
    assert output.indices.shape == (shape[0], *shape[2:])
    assert output.indices.dtype == torch.int64
    assert output.loss.shape == ()
    # Each position holds the code of its own vector.
    torch.testing.assert_close(output.quantized, codes[output.indices].movedim(-1, 1))
    assert torch.equal(output.indices.flatten(), nearest_codes(z.movedim(1, -1).reshape(-1, 4), codes))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_output_has_the_precision_of_the_input_and_is_computed_in_float32(name: str, dtype: torch.dtype):
    quantizer = build_quantizer(name, 512, 4, init_std=1.0).eval()
    z = torch.randn(100, 4).to(dtype)
    output = quantizer(z)
    assert output.quantized.dtype == dtype
    assert output.loss.dtype == torch.float32
    assert {term.dtype for term in output.terms.values()} == {torch.float32}
    assert torch.equal(output.indices, quantizer(z.float()).indices)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name: str):
    z = torch.randn(400, 8, requires_grad=True)
    outputs = []
    for enabled in (False, True):
        torch.manual_seed(1)
        quantizer = build_quantizer(name, 1024, 8, init_std=1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = quantizer(z)
        output.loss.backward()
        outputs.append((output.quantized, output.indices, output.loss, gradient(quantizer.weight)))
    for expected, actual in zip(*outputs, strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("name", NAMES)
def test_lookup_takes_any_shape(name: str):
    quantizer = build_quantizer(name, 16, 4)
    indices = torch.arange(12).reshape(2, 3, 2)
    assert torch.equal(quantizer.lookup(indices), quantizer.codebook[indices])


# State


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_changes_no_state(name: str):
    quantizer = build_quantizer(name, 16, 4)
    quantizer(torch.randn(30, 4))
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer.eval()(torch.randn(30, 4) + 5)
    assert all(torch.equal(before[key], value) for key, value in quantizer.state_dict().items())


def test_window_is_numpys_mean_and_covariance_of_the_last_batches():
    window = MomentWindow(dim=3, window=3)
    rng = np.random.default_rng(0)
    batches = [rng.normal(size=(size, 3)) * 3 + 100 for size in (7, 1, 20, 5, 13, 2, 2)]
    for number, batch in enumerate(batches, start=1):
        window.push(torch.from_numpy(batch))
        seen = np.concatenate(batches[max(0, number - 3) : number])
        mean, covariance = window.mean_and_covariance()
        np.testing.assert_allclose(mean.numpy(), seen.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(covariance.numpy(), np.cov(seen.T), rtol=1e-9, atol=1e-9)


def test_window_of_float32_vectors_with_a_large_mean_keeps_its_digits():
    vectors = torch.randn(1000, 4) + 1e4
    window = MomentWindow(dim=4, window=1)
    window.push(vectors)
    np.testing.assert_allclose(window.mean_and_covariance()[1].numpy(), np.cov(vectors.double().numpy().T), atol=1e-6)


def test_window_goes_on_from_a_saved_state():
    quantizer, resumed = WassersteinQuantizer(16, 4), WassersteinQuantizer(16, 4)
    for _ in range(11):
        quantizer(torch.randn(9, 4))
    resumed.load_state_dict(quantizer.state_dict())
    z = torch.randn(9, 4)
    assert torch.equal(quantizer(z).loss, resumed(z).loss)


# Construction


def test_names_and_options():
    assert isinstance(build_quantizer("vanilla", 4, 2), VanillaQuantizer)
    quantizer = build_quantizer("wasserstein", 64, 2, statistics_window=3, init_std=0.5)
    assert isinstance(quantizer, WassersteinQuantizer)
    assert len(quantizer.features.counts) == 3
    assert 0.4 < quantizer.codebook.std().item() < 0.6
    assert "wasserstein_weight" in quantizer_options("wasserstein")


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("wassersteen", 16, 4), {}, r"quantizer is 'wassersteen' \(did you mean 'wasserstein'\?\); valid are vanilla"),
        (("none", 16, 4), {}, "quantizer is 'none'.*; valid are vanilla, ema, online, linear, wasserstein, mmd"),
        (("vanilla", 16, 4), {"gamma": 1}, "quantizer 'vanilla' has no option 'gamma'; it has init_std"),
        (("vanilla", 1, 4), {}, "codebook_size is 1; a codebook needs at least 2 codes"),
        (("vanilla", 16, 0), {}, "codebook_dim is 0; it must be at least 1"),
        (("vanilla", 16, 4), {"init_std": 0}, "init_std is 0; it must be above 0"),
        (("vanilla", 16, 4), {"initialization": "xavier"}, "initialization is 'xavier'; valid are normal, uniform"),
        (("ema", 16, 4), {"gradient_estimator": "none"}, "gradient_estimator is 'none'; valid are straight-through"),
        (("ema", 16, 4), {"decay": 1}, r"decay is 1; it must be in \[0, 1\)"),
        (("online", 16, 4), {"decay": -0.1}, r"decay is -0.1; it must be in \[0, 1\)"),
        (("mmd", 16, 4), {"max_points": 1}, "max_points is 1; it must be at least 2"),
        (("wasserstein", 16, 4), {"alignment": "map"}, "alignment is 'map'; valid are loss, transport"),
        (("wasserstein", 16, 4), {"transport_step": 2}, r"transport_step is 2; it must be in \[0, 1\]"),
        (
            ("wasserstein", 16, 4),
            {"decay": 1, "alignment": "transport"},
            r"decay is 1; it must be in \[0, 1\), or None",
        ),
        (("wasserstein", 16, 4), {"decay": 0.9}, "decay is 0.9, but alignment 'loss' moves the codes by gradient"),
        (("wasserstein", 4, 4), {}, "codebook_size is 4; it must be above codebook_dim, 4"),
        (("wasserstein", 16, 4), {"statistics_window": 0}, "statistics_window is 0; it must be at least 1 batch"),
    ],
)
def test_arguments_that_cannot_be_used(arguments: tuple[str, int, int], options: dict[str, float], message: str):
    with pytest.raises(InputError, match=message):
        build_quantizer(*arguments, **options)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("z", "message"),
    [
        (torch.zeros(4), "axis 1 must be codebook_dim, 4"),
        (torch.zeros(6, 5), "axis 1 must be codebook_dim, 4"),
        (torch.zeros(2, 5, 4, 4), "axis 1 must be codebook_dim, 4"),
        (torch.zeros(6, 4, dtype=torch.int64), "z has dtype torch.int64; it must be floating-point"),
        (torch.zeros(0, 4), r"z has shape \(0, 4\); it holds no vector"),
        (torch.zeros(2, 4, 0, 3), "it holds no vector"),
        (torch.tensor([[1.0, torch.nan, torch.inf, -torch.inf]]), "z holds 1 NaN and 2 infinite values of 4"),
    ],
)
def test_input_that_cannot_be_quantized(name: str, z: Tensor, message: str):
    with pytest.raises(InputError, match=message):
        build_quantizer(name, 16, 4)(z)


# The claim


@pytest.mark.parametrize(("name", "low", "high"), [("vanilla", 0.0, 0.2), ("wasserstein", 0.9, 1.0)])
def test_only_the_wasserstein_loss_brings_codes_to_far_away_features(name: str, low: float, high: float):
    """The paper's study of shifted features at toy size: same start, learning rate and steps for both."""
    quantizer = build_quantizer(name, codebook_size=256, codebook_dim=8, init_std=1.0)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    for _ in range(150):
        loss = quantizer(torch.randn(1024, 8) + 4).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    usage = CodebookUsage(256)
    usage.update(quantizer.eval()(torch.randn(20_000, 8) + 4).indices)
    assert low <= usage.compute()["utilization"] <= high
