"""Shapes, precisions and state of every quantizer, and what it cannot quantize."""

import pytest
import torch
from codebooks import NAMES, one_codebook
from torch import Tensor

from wvq.tokenizer import InputError, nearest_codes


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def gradient(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(6, 4), (1, 4), (2, 4, 3, 5), (1, 4, 1, 1), (2, 4, 7), (2, 4, 2, 3, 2)])
def test_shapes(name: str, shape: tuple[int, ...]):
    quantizer = one_codebook(name, init_std=1.0)
    z = torch.randn(shape)
    codes = quantizer.codebook.detach().clone()
    output = quantizer(z)
    assert output.quantized.shape == shape
    assert output.indices.shape == (shape[0], *shape[2:])
    assert output.indices.dtype == torch.int64
    assert output.loss.shape == ()
    # Each position holds the code of its own vector.
    torch.testing.assert_close(output.quantized, codes[output.indices].movedim(-1, 1))
    if name not in ("fsq", "sinkhorn"):  # which do not take the nearest in training
        assert torch.equal(output.indices.flatten(), nearest_codes(z.movedim(1, -1).reshape(-1, 4), codes))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(6, 4), (2, 4, 3, 5)])
def test_unquantized_vectors_lie_where_the_codes_do(name: str, shape: tuple[int, ...]):
    """Features far from where the codes lie are no error, and the code of a code is itself."""
    quantizer = one_codebook(name, init_std=1.0).eval().requires_grad_(False)
    z = 10 * torch.randn(shape)
    with torch.autocast("cpu", torch.bfloat16):
        found = quantizer.unquantized(z)
    assert found.shape == shape
    assert found.dtype == torch.float32
    if name == "spherical":
        torch.testing.assert_close(found, z / z.norm(dim=1, keepdim=True))
    elif name == "fsq":
        apart = quantizer.unquantized(z) - quantizer(z).quantized
        assert float(apart.abs().max()) < 10, "not as far as the features are from the codes"
        fine = one_codebook("fsq", 4**4, 4, levels=(4, 4, 4, 4))  # no map in between: half a level of 2 at the most
        assert float((fine.unquantized(z) - fine(z).quantized).abs().max()) <= 0.2501
    else:
        assert torch.equal(found, z)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_output_has_the_precision_of_the_input_and_is_computed_in_float32(name: str, dtype: torch.dtype):
    quantizer = one_codebook(name, 512, 4, init_std=1.0).eval()
    z = torch.randn(100, 4).to(dtype)
    output = quantizer(z)
    assert output.quantized.dtype == dtype
    assert output.loss.dtype == torch.float32
    assert {term.dtype for term in output.terms.values()} <= {torch.float32}
    assert torch.equal(output.indices, quantizer(z.float()).indices)


@pytest.mark.parametrize("name", NAMES)
def test_autocast_changes_nothing(name: str):
    z = torch.randn(400, 8, requires_grad=True)
    outputs = []
    for enabled in (False, True):
        torch.manual_seed(1)
        quantizer = one_codebook(name, 1024, 8, init_std=1.0)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = quantizer(z)
        (output.loss + output.quantized.square().sum()).backward()
        outputs.append((output.quantized, output.indices, output.loss, *map(gradient, quantizer.parameters())))
    for expected, actual in zip(*outputs, strict=True):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("name", NAMES)
def test_lookup_takes_any_shape(name: str):
    quantizer = one_codebook(name)
    indices = torch.arange(12).reshape(2, 3, 2)
    assert torch.equal(quantizer.lookup(indices), quantizer.codebook[indices])


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_changes_no_state(name: str):
    quantizer = one_codebook(name)
    quantizer(torch.randn(30, 4))
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    quantizer.eval()(torch.randn(30, 4) + 5)
    assert all(torch.equal(before[key], value) for key, value in quantizer.state_dict().items())


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
        one_codebook(name)(z)
