"""The two anchors of rarely used codes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.tokenizer import InputError, OnlineQuantizer
from wvq.tokenizer.quantizers.baselines.online import drawn_vectors


def used_after_one_update(anchor) -> int:
    """Codes that 8,192 features choose, of 4,096 that were drawn around 0 with deviation 0.01."""
    torch.manual_seed(0)
    quantizer = OnlineQuantizer(codebook_size=4096, codebook_dim=8, initialization="normal", anchor=anchor)
    generator = torch.Generator().manual_seed(1)
    quantizer(torch.randn(8192, 8, generator=generator))
    return len(quantizer.eval()(torch.randn(8192, 8, generator=generator)).indices.unique())


def test_drawn_anchors_use_more_of_the_codebook_after_one_update():
    nearest, probrandom = used_after_one_update("nearest"), used_after_one_update("probrandom")
    assert 800 < nearest < 1000
    assert 2800 < probrandom < 3000


def test_nearest_is_the_default():
    assert OnlineQuantizer(codebook_size=4, codebook_dim=2, initialization="normal").anchor == "nearest"


def test_anchors_are_drawn_by_the_exponential_of_the_cosine():
    torch.manual_seed(0)
    vectors = torch.tensor([[2.0, 0.0], [0.0, 0.1], [-3.0, 0.0], [1.0, 1.0]])
    code = torch.tensor([[5.0, 0.0]])
    drawn = drawn_vectors(code.expand(40_000, 2), vectors)
    counts = (drawn[:, None] == vectors).all(dim=2).double().sum(dim=0)
    assert counts.sum() == 40_000  # each is one of the vectors
    expected = F.cosine_similarity(vectors, code, dim=1).double().softmax(dim=0)
    torch.testing.assert_close(counts / 40_000, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("vectors", [torch.zeros(3, 2), torch.full((1, 2), 1e-30)])
def test_vectors_without_a_direction_are_drawn_all_the_same(vectors: Tensor):
    assert torch.equal(drawn_vectors(torch.zeros(5, 2), vectors), vectors[:1].expand(5, 2))


def test_unknown_anchors_are_named():
    with pytest.raises(InputError, match="anchor is 'closest'; valid are nearest, probrandom"):
        OnlineQuantizer(codebook_size=4, codebook_dim=2, initialization="normal", anchor="closest")  # pyright: ignore[reportArgumentType]
