"""Near codes and tokens replaced by them: exact neighbours, whole shares of tokens, draws of the image alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wvq.eval.metrics import perturbation
from wvq.eval.metrics.perturbation import nearest_other_codes, perturb_tokens
from wvq.tokenizer.errors import InputError


def draw_codes(size: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(size, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_neighbours_are_those_of_all_distances(offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perturbation, "_BLOCK", 7 * 50)  # seven rows at once, and one that is left
    codes = draw_codes(50, 3) + offset
    distances = torch.cdist(codes.double(), codes.double(), compute_mode="donot_use_mm_for_euclid_dist")
    expected = distances.argsort(dim=1)[:, 1:13]  # the first is the code itself
    found = nearest_other_codes(codes, 12)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), expected)


def test_a_copy_is_a_neighbour_and_the_code_itself_is_none() -> None:
    codes = draw_codes(6, 2).repeat(2, 1)
    found = nearest_other_codes(codes, 11)
    assert torch.equal(found[:, 0].long(), (torch.arange(12) + 6) % 12)
    assert all(set(row) == set(range(12)) - {code} for code, row in enumerate(found.tolist()))
    for count in (0, 12):
        with pytest.raises(InputError, match=f"count is {count}; it must be from 1 to the 11 other codes"):
            nearest_other_codes(codes, count)


@given(st.floats(0, 1), st.integers(1, 9), st.integers(1, 3), st.integers(0, 99))
def test_whole_shares_of_tokens_become_near_codes(rate: float, strength: int, books: int, seed: int) -> None:
    shape = (4, 5, 5) if books == 1 else (4, 5, 5, books)
    indices = torch.randint(10, shape, generator=torch.Generator().manual_seed(seed))
    neighbours = [nearest_other_codes(draw_codes(10, 2, book), 9) for book in range(books)]
    perturbed = perturb_tokens(indices, neighbours, rate, strength, range(4), seed)
    changed = perturbed != indices
    assert perturbed.shape == shape
    assert perturbed.dtype == indices.dtype
    assert changed.flatten(1).sum(dim=1).tolist() == [round(rate * 25 * books)] * 4
    pairs = (x.reshape(4, 25, books).unbind(dim=-1) for x in (indices, perturbed, changed))
    for near, before, after, replaced in zip(neighbours, *pairs, strict=True):
        allowed = near[before[replaced], :strength]
        assert (allowed == after[replaced][:, None]).any(dim=1).all()


def test_an_image_has_its_own_draws_whatever_is_beside_it() -> None:
    indices = torch.randint(10, (6, 4, 4), generator=torch.Generator().manual_seed(0))
    neighbours = [nearest_other_codes(draw_codes(10, 2), 5)]
    together = perturb_tokens(indices, neighbours, 0.5, 5, range(6), 3)
    parts = [perturb_tokens(indices[n : n + 2], neighbours, 0.5, 5, range(n, n + 2), 3) for n in (0, 2, 4)]
    assert torch.equal(torch.cat(parts), together)
    same = perturb_tokens(indices[:1].expand(2, -1, -1), neighbours, 0.5, 5, [0, 1], 3)
    assert not torch.equal(same[0], same[1])
    assert not torch.equal(perturb_tokens(indices, neighbours, 0.5, 5, range(6), 4), together)
    fewer = perturb_tokens(indices, neighbours, 0.25, 5, range(6), 3)
    assert torch.equal(torch.where(fewer != indices, fewer, together), together)


def test_every_neighbour_is_as_likely() -> None:
    neighbours = [nearest_other_codes(draw_codes(10, 2), 4)]
    perturbed = perturb_tokens(torch.zeros(500, 4, 4, dtype=torch.int64), neighbours, 1.0, 4, range(500), 0)
    counts = torch.bincount(perturbed.flatten(), minlength=10)[neighbours[0][0].long()]
    assert int(counts.sum()) == 8000
    assert (counts - 2000).abs().max() < 5 * (8000 * 0.25 * 0.75) ** 0.5
