"""The Wasserstein quantizer: its loss, its window of statistics, and the paper's claim at toy size."""

import numpy as np
import pytest
import torch
from codebooks import one_codebook
from torch import Tensor

from wvq.tokenizer import CodebookUsage, WassersteinQuantizer, gaussian_wasserstein_distance
from wvq.tokenizer.quantizers.gaussian import MomentWindow, mean_and_covariance


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def test_wasserstein_loss_moves_every_code_and_nothing_else():
    quantizer = WassersteinQuantizer(
        codebook_size=16,
        codebook_dim=4,
        initialization="normal",
        init_std=1.0,
        commitment_weight=0,
        codebook_weight=0,
        wasserstein_weight=0.25,
    )
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


def test_wasserstein_term_ignores_a_common_scale():
    quantizer = WassersteinQuantizer(codebook_size=32, codebook_dim=4, initialization="normal", init_std=1.0)
    z = torch.randn(100, 4) + 1
    before = quantizer(z).terms["wasserstein_distance"]
    scaled = WassersteinQuantizer(codebook_size=32, codebook_dim=4, initialization="normal")
    scaled.weight.data = quantizer.weight.data * 1024
    torch.testing.assert_close(scaled(z * 1024).terms["wasserstein_distance"], before)


@pytest.mark.parametrize("codes", ["collapsed", "spread"])
@pytest.mark.parametrize("features", ["constant", "spread"])
def test_loss_and_gradient_stay_finite(features: str, codes: str):
    quantizer = WassersteinQuantizer(codebook_size=32, codebook_dim=4, initialization="normal")
    if codes == "collapsed":
        quantizer.weight.data[:] = quantizer.weight.data[0]
    z = torch.randn(64, 4) if features == "spread" else torch.ones(64, 4)
    output = quantizer(z)
    output.loss.backward()
    assert output.loss.isfinite()
    assert gradient(quantizer.weight).isfinite().all()


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
    quantizer, resumed = (
        WassersteinQuantizer(codebook_size=16, codebook_dim=4, initialization="normal"),
        WassersteinQuantizer(codebook_size=16, codebook_dim=4, initialization="normal"),
    )
    for _ in range(11):
        quantizer(torch.randn(9, 4))
    resumed.load_state_dict(quantizer.state_dict())
    z = torch.randn(9, 4)
    assert torch.equal(quantizer(z).loss, resumed(z).loss)


@pytest.mark.parametrize(("name", "low", "high"), [("vanilla", 0.0, 0.2), ("wasserstein", 0.9, 1.0)])
def test_only_the_wasserstein_loss_brings_codes_to_far_away_features(name: str, low: float, high: float):
    """The paper's study of shifted features at toy size: same start, learning rate and steps for both."""
    quantizer = one_codebook(name, codebook_size=256, codebook_dim=8, init_std=1.0)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
    for _ in range(150):
        loss = quantizer(torch.randn(1024, 8) + 4).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    usage = CodebookUsage(256)
    usage.update(quantizer.eval()(torch.randn(20_000, 8) + 4).indices)
    assert low <= usage.compute()["utilization"] <= high
