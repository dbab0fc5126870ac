"""Dead codes are moved to vectors of the step."""

from typing import Any

import pytest
import torch
from codebooks import TABLES, one_codebook
from torch import Tensor

from wvq.tokenizer import InputError
from wvq.tokenizer.quantizers.codebook import CodebookQuantizer
from wvq.tokenizer.quantizers.revival import Revival

REVIVED = [name for name in TABLES if name != "linear"]


def features(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))


def are_among(codes: Tensor, vectors: Tensor) -> Tensor:
    return (codes[:, None] == vectors).all(dim=2).any(dim=1)


def test_a_code_is_dead_once_its_use_is_below_the_share():
    """A code that nothing chooses has the use 0.99^n after n steps."""
    revival, codes = Revival(4, threshold=0.9), torch.arange(4.0).repeat(4, 1).T.clone()
    for step in range(1, 12):
        before, vectors = codes.clone(), features(20, step)
        revival.replace(codes, vectors, torch.arange(20) % 3)
        assert torch.equal(codes[:3], before[:3])
        assert bool(are_among(codes[3:], vectors)) == (step == 11)  # 0.99^11 = 0.895
    assert revival.usage[3] == 1
    assert (revival.usage[:3] > 1).all()


@pytest.mark.parametrize("count", [3, 50])
def test_no_vector_is_given_to_two_codes(count: int):
    revival, codes = Revival(16, threshold=0.999), torch.full((16, 4), 9.0)
    vectors = features(count)
    revival.replace(codes, vectors, torch.zeros(count, dtype=torch.int64))
    moved = codes[(codes != 9).all(dim=1)]
    assert len(moved) == len(moved.unique(dim=0)) == min(count, 15)
    assert are_among(moved, vectors).all()
    assert int((revival.usage < 0.999).sum()) == 15 - len(moved)  # these wait for the next step


def test_a_small_batch_kills_no_code_that_has_its_share():
    revival, codes = Revival(64, threshold=0.1), torch.zeros(64, 4)
    for step in range(200):
        revival.replace(codes, features(8, step), (torch.arange(8) + 8 * step) % 64)
    assert not codes.any()


def trained(name: str, micro_batches: int = 1, steps: int = 30, **options: Any) -> CodebookQuantizer:
    torch.manual_seed(0)
    quantizer = one_codebook(name, 32, 4, **{"init_std": 0.01, "revival": 0.95, **options})
    quantizer.accumulation_steps = micro_batches
    for step in range(steps):
        for part in (features(64, step) + 3).chunk(micro_batches):
            quantizer(part)
    return quantizer


@pytest.mark.parametrize("name", REVIVED)
def test_every_quantizer_of_a_table_revives(name: str):
    used = [len(trained(name, revival=share).eval()(features(4000) + 3).indices.unique()) for share in (0.0, 0.95)]
    assert used[1] > 25
    assert used[1] >= used[0] - 4


@pytest.mark.parametrize("name", ["vanilla", "ema"])
def test_revival_in_micro_batches_is_that_of_the_whole(name: str):
    torch.testing.assert_close(trained(name, 4).state_dict(), trained(name).state_dict())


@pytest.mark.parametrize("name", ["vanilla", "ema"])
def test_revival_goes_on_exactly(name: str):
    whole, first, second = trained(name), trained(name, steps=12), trained(name, steps=0)
    second.load_state_dict(first.state_dict())
    for step in range(12, 30):
        second(features(64, step) + 3)
    assert all(torch.equal(second.state_dict()[key], value) for key, value in whole.state_dict().items())


def test_there_is_no_state_without_revival():
    assert not [name for name in trained("vanilla", steps=0, revival=0.0).state_dict() if "dead_codes" in name]
    assert [name for name in trained("vanilla", steps=0).state_dict() if "dead_codes" in name] == [
        "dead_codes.usage",
        "dead_codes.steps",
    ]


@pytest.mark.parametrize(
    ("name", "share", "message"),
    [
        ("vanilla", 1.0, r"revival is 1.0; it must be in \[0, 1\), 0 for none"),
        ("ema", -0.1, "revival is -0.1; it must be"),
        ("linear", 0.1, "revival is 0.1; a linear map moves all codes at once, it must be 0"),
    ],
)
def test_shares_that_cannot_be_used(name: str, share: float, message: str):
    with pytest.raises(InputError, match=message):
        trained(name, revival=share)
