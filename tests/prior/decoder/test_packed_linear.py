"""Products by reordered matrices, `wvq.prior.decoder.packed_linear`, against plain ones in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wvq.prior.decoder import packed_linear
from wvq.prior.decoder.packed_linear import FEW_ROWS, GatedLinear, Int8Linear, PackedLinear, library_for

ROWS = 5


@pytest.fixture(params=["batched", "mkl", "onednn", "torch"])
def library(request, monkeypatch):
    """Each of the libraries, whatever the processor."""
    if request.param in ("batched", "mkl") and not torch.backends.mkl.is_available():
        pytest.skip("this torch has no MKL")
    if request.param in ("batched", "onednn") and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(packed_linear, "library_for", lambda weight, rows: request.param)
    return request.param


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bias", [None, normal(24)])
@pytest.mark.parametrize("rows", [1, 2, 3, ROWS, 33])
def test_it_multiplies_for_any_number_of_rows(library, rows, bias):
    weight, x, other = normal(24, 12), normal(rows, 12), normal(rows, 24)
    product = PackedLinear(weight, bias, ROWS)
    assert product.backend == library
    expected = F.linear(x.double(), weight.double(), None if bias is None else bias.double())

    def equal(actual: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(actual, expected.float(), rtol=1e-5, atol=1e-5)

    equal(product(x), expected)
    assert product(x).stride() == (24, 1)  # of one row as well, which what follows reads as the transposed otherwise
    equal(product.activated(x, "silu"), F.silu(expected))
    equal(product.activated(x, "gelu_tanh"), F.gelu(expected, approximate="tanh"))
    equal(product.plus(x, other), expected + other)
    equal(product.times(x, other), expected * other)


@pytest.mark.parametrize("rows", [1, FEW_ROWS + 1])
def test_rounded_weights_are_added_to_bfloat16_as_well(rows):
    x, other = normal(rows, 16).bfloat16(), normal(rows, 8).bfloat16()
    product = Int8Linear(normal(8, 16), None, rows)
    torch.testing.assert_close(product.plus(x, other), product(x) + other, rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("width", [4, 16, 24, 32, 60, 64, 100])
def test_rounded_weights_of_any_width_are_read_to_their_end_and_no_further(width: int):
    weight, x = normal(8, width), normal(1, width).bfloat16()
    scales = weight.abs().amax(dim=1, keepdim=True) / 127
    expected = x.double() @ ((weight / scales).round() * scales).double().T
    torch.testing.assert_close(Int8Linear(weight, None, 1)(x).double(), expected, rtol=3e-2, atol=3e-2 * width**0.5)


@pytest.mark.parametrize("rows", [1, 2, ROWS])
def test_gate_and_up_are_multiplied_together(library, rows):
    gate, up, x = normal(16, 12), normal(16, 12) + 1, normal(rows, 12)
    expected = F.silu(x.double() @ gate.double().T) * (x.double() @ up.double().T)
    gated = GatedLinear(gate, up, ROWS, torch.float32)
    assert len(gated.products) == (2 if library == "onednn" else 1)
    torch.testing.assert_close(gated(x), expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "of_few", "of_many"),
    [("Intel Xeon", "torch", "mkl"), ("AMD EPYC", "batched", "onednn"), (None, "onednn", "onednn")],
)
def test_float32_is_multiplied_by_the_library_of_the_processor(name, of_few, of_many, monkeypatch):
    if not (torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()):
        pytest.skip("this torch has one library at most")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name}, raising=False)
    packed_linear._processor.cache_clear()
    try:
        for rows, library in ((2, of_few), (ROWS, of_many)):
            assert library_for(torch.empty(16, 2), rows) == library
            assert library_for(torch.empty(9, 2), rows) == ("onednn" if library == "batched" else library)
            assert library_for(torch.empty(16, 2, dtype=torch.bfloat16), rows) == "onednn"
            assert library_for(torch.empty(16, 2, dtype=torch.float64), rows) == "torch"
            assert library_for(torch.empty(16, 2, device="meta"), rows) == "torch"
    finally:
        packed_linear._processor.cache_clear()
