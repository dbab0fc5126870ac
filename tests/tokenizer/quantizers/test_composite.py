"""Product and residual quantizers over any of the six."""

import pytest
import torch

from wvq.tokenizer import InputError, ProductQuantizer, ResidualQuantizer, VanillaQuantizer, build_quantizer
from wvq.tokenizer.quantizers.registry import QUANTIZERS


def three(name: str, dim: int) -> list:
    torch.manual_seed(0)
    return [build_quantizer(name, 16, dim, init_std=1.0) for _ in range(3)]


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("kind", [ProductQuantizer, ResidualQuantizer])
def test_lookup_gives_back_what_was_quantized(name: str, kind: type):
    quantizer = kind(*three(name, 4)).eval()
    z = torch.randn(2, quantizer.codebook_dim, 5, 6, requires_grad=True)
    output = quantizer(z)
    assert output.indices.shape == (2, 5, 6, 3)
    torch.testing.assert_close(output.quantized, quantizer.lookup(output.indices).movedim(-1, 1))
    downstream = torch.randn_like(z)
    (passed,) = torch.autograd.grad((output.quantized * downstream).sum(), z)
    torch.testing.assert_close(passed, downstream)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_product_is_each_quantizer_on_its_slice(name: str):
    torch.manual_seed(0)
    parts = [build_quantizer(name, 16, dim, init_std=1.0).eval() for dim in (2, 5, 1)]
    z = torch.randn(30, 8)
    output = ProductQuantizer(*parts)(z)
    alone = [part(piece) for part, piece in zip(parts, z.split([2, 5, 1], dim=1), strict=True)]
    assert torch.equal(output.indices, torch.stack([o.indices for o in alone], dim=-1))
    torch.testing.assert_close(output.loss, sum(o.loss for o in alone))
    assert output.terms.keys() == {f"{term}_{m}" for m, o in enumerate(alone) for term in o.terms}


@pytest.mark.parametrize("name", QUANTIZERS)
def test_residual_is_each_quantizer_on_what_is_left(name: str):
    parts = [part.eval() for part in three(name, 4)]
    z = torch.randn(30, 4)
    output = ResidualQuantizer(*parts)(z)
    left = z
    for m, part in enumerate(parts):
        alone = part(left)
        assert torch.equal(output.indices[..., m], alone.indices)
        left = left - alone.quantized
    torch.testing.assert_close(output.quantized, z - left)


@pytest.mark.parametrize("name", QUANTIZERS)
@pytest.mark.parametrize("kind", [ProductQuantizer, ResidualQuantizer])
def test_composites_train(name: str, kind: type):
    quantizer = kind(*three(name, 4))
    parameters = [p for p in quantizer.parameters() if p.requires_grad]
    z = torch.randn(400, quantizer.codebook_dim)
    before = [part.codebook.detach().clone() for part in quantizer.parts]
    output = quantizer(z)
    if parameters:
        output.loss.backward()
        torch.optim.SGD(parameters, lr=1.0).step()
    for part, codes in zip(quantizer.parts, before, strict=True):
        assert not torch.equal(part.codebook, codes)


def test_accumulation_reaches_every_part():
    quantizer = ResidualQuantizer(*three("ema", 4))
    quantizer.accumulation_steps = 3
    assert [part.accumulation_steps for part in quantizer.parts] == [3, 3, 3]


@pytest.mark.parametrize("kind", [ProductQuantizer, ResidualQuantizer])
def test_needs_a_quantizer(kind: type):
    with pytest.raises(InputError, match="was given no quantizer"):
        kind()


def test_residual_quantizers_of_one_dimension():
    with pytest.raises(InputError, match=r"codebook_dim \[2, 3\]"):
        ResidualQuantizer(VanillaQuantizer(4, 2), VanillaQuantizer(4, 3))


def test_product_of_another_dimension():
    with pytest.raises(InputError, match="axis 1 must be codebook_dim, 8"):
        ProductQuantizer(VanillaQuantizer(4, 4), VanillaQuantizer(4, 4))(torch.randn(2, 4))
