"""Product and residual quantizers over any of the others."""

import pytest
import torch
from codebooks import NAMES, PLAIN, one_codebook

from wvq.tokenizer import InputError, ProductQuantizer, ResidualQuantizer, VanillaQuantizer
from wvq.tokenizer.quantizers.base import Quantizer

COMPOSED = [(ProductQuantizer, name) for name in NAMES]
COMPOSED += [(ResidualQuantizer, name) for name in NAMES if name != "fsq"]


def three(name: str, dim: int) -> list[Quantizer]:
    torch.manual_seed(0)
    return [one_codebook(name, 16, dim, init_std=1.0) for _ in range(3)]


def vanilla(dim: int) -> VanillaQuantizer:
    return VanillaQuantizer(codebook_size=4, codebook_dim=dim, initialization="normal")


@pytest.mark.parametrize(("kind", "name"), COMPOSED)
def test_lookup_gives_back_what_was_quantized(name: str, kind: type):
    quantizer = kind(*three(name, 4)).eval()
    z = torch.randn(2, quantizer.codebook_dim, 5, 6, requires_grad=True)
    output = quantizer(z)
    assert output.indices.shape == (2, 5, 6, 3)
    torch.testing.assert_close(output.quantized, quantizer.lookup(output.indices).movedim(-1, 1))
    downstream = torch.randn_like(z)
    (passed,) = torch.autograd.grad((output.quantized * downstream).sum(), z)
    assert name not in PLAIN or torch.allclose(passed, downstream)


@pytest.mark.parametrize("name", NAMES)
def test_product_is_each_quantizer_on_its_slice(name: str):
    torch.manual_seed(0)
    quantizers = [one_codebook(name, 16, dim, init_std=1.0).eval() for dim in (3, 4, 1)]
    z = torch.randn(30, 8)
    output = ProductQuantizer(*quantizers)(z)
    alone = [one(own) for one, own in zip(quantizers, z.split([3, 4, 1], dim=1), strict=True)]
    assert torch.equal(output.indices, torch.stack([o.indices for o in alone], dim=-1))
    torch.testing.assert_close(output.loss, sum(o.loss for o in alone))
    assert output.terms.keys() == {f"{term}_{m}" for m, o in enumerate(alone) for term in o.terms}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "fsq"])
def test_residual_is_each_quantizer_on_what_is_left(name: str):
    quantizers = [one.eval() for one in three(name, 4)]
    z = torch.randn(30, 4)
    output = ResidualQuantizer(*quantizers)(z)
    left = z
    for m, quantizer in enumerate(quantizers):
        alone = quantizer(left)
        assert torch.equal(output.indices[..., m], alone.indices)
        left = left - alone.quantized
    torch.testing.assert_close(output.quantized, z - left)


@pytest.mark.parametrize(("kind", "name"), COMPOSED)
def test_composites_train(name: str, kind: type):
    quantizer = kind(*three(name, 4))
    parameters = [p for p in quantizer.parameters() if p.requires_grad]
    z = torch.randn(400, quantizer.codebook_dim)
    before = [one.codebook.detach().clone() for one in quantizer.sub_quantizers]
    output = quantizer(z)
    if parameters:
        (output.loss + output.quantized.square().mean()).backward()
        torch.optim.SGD(parameters, lr=1.0).step()
    for one, codes in zip(quantizer.sub_quantizers, before, strict=True):
        assert not torch.equal(one.codebook, codes)


def test_accumulation_reaches_every_sub_quantizer():
    quantizer = ResidualQuantizer(*three("ema", 4))
    quantizer.accumulation_steps = 3
    assert [one.accumulation_steps for one in quantizer.sub_quantizers] == [3, 3, 3]


@pytest.mark.parametrize("kind", [ProductQuantizer, ResidualQuantizer])
def test_needs_a_quantizer(kind: type):
    with pytest.raises(InputError, match="was given no quantizer"):
        kind()


def test_residual_quantizers_of_one_dimension():
    with pytest.raises(InputError, match=r"codebook_dim \[2, 3\]"):
        ResidualQuantizer(vanilla(2), vanilla(3))


def test_product_of_another_dimension():
    with pytest.raises(InputError, match="axis 1 must be codebook_dim, 8"):
        ProductQuantizer(vanilla(4), vanilla(4))(torch.randn(2, 4))
