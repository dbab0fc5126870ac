"""The transport quantizer: how far the codes are carried, and by what they follow their vectors."""

import pytest
import torch

from wvq.tokenizer import TransportQuantizer, build_quantizer, gaussian_wasserstein_distance
from wvq.tokenizer.quantizers.gaussian import mean_and_covariance


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("decay", [None, 0.9])
def test_first_step_carries_the_codes_all_the_way(decay: float | None):
    quantizer = TransportQuantizer(codebook_size=64, codebook_dim=4, initialization="normal", decay=decay)
    z = torch.randn(500, 4) @ torch.randn(4, 4) + 10
    output = quantizer(z)
    reached = gaussian_wasserstein_distance(*mean_and_covariance(quantizer.codebook), *mean_and_covariance(z))
    assert reached < 1e-4
    assert output.terms["wasserstein_distance"] < 1e-4


def test_later_steps_go_a_part_of_the_way():
    quantizer = TransportQuantizer(
        codebook_size=64, codebook_dim=4, initialization="normal", transport_step=0.25, statistics_window=1
    )
    quantizer(torch.randn(500, 4))
    before, z = quantizer.codebook.detach().clone(), torch.randn(500, 4) + 8
    quantizer(z)
    whole = z.mean(dim=0) - before.mean(dim=0)
    torch.testing.assert_close(quantizer.codebook.mean(dim=0) - before.mean(dim=0), whole / 4, atol=1e-4, rtol=0)


def test_transport_follows_by_gradient_or_by_averages():
    assert TransportQuantizer(codebook_size=64, codebook_dim=4, initialization="normal").weight.requires_grad
    assert not TransportQuantizer(
        codebook_size=64, codebook_dim=4, initialization="normal", decay=0.9
    ).weight.requires_grad


@pytest.mark.parametrize("decay", [None, 0.9])
def test_the_alignment_of_the_wasserstein_quantizer_is_this_quantizer(decay: float | None):
    """Recipes and saved models name it so; weights have the names that they had as an alignment."""
    states = []
    for name, alignment in (("transport", {}), ("wasserstein", {"alignment": "transport"})):
        torch.manual_seed(1)
        quantizer = build_quantizer(name, 64, 4, transport_step=0.25, decay=decay, **alignment)
        assert type(quantizer) is TransportQuantizer
        for _ in range(3):
            quantizer(torch.randn(200, 4) + 3)
        states.append(quantizer.state_dict())
    window = ["features.counts", "features.sums", "features.outers", "features.position"]
    averages = [] if decay is None else ["means.counts"]
    assert list(states[0]) == list(states[1]) == ["weight", "initialized", *window, *averages]
    assert all(torch.equal(states[1][key], value) for key, value in states[0].items())
