"""Float32 in full whatever the user allows, and what is put back afterwards."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from fixtures import read_fashion_images
from torch import nn

from wvq.eval.features.registry import build_extractor
from wvq.tokenizer import TokenizerConfig, VanillaQuantizer, VQTokenizer, nearest_codes
from wvq.tokenizer.precision import full_precision, keeping_dtype

ALLOWED = {
    "nothing": "",
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "older flag": "torch.backends.cuda.matmul.allow_tf32 = True",
    "newer flag": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "both flags": "torch.backends.cuda.matmul.allow_tf32 = True; torch.backends.cuda.matmul.fp32_precision = 'ieee'",
    "all backends": "torch.backends.fp32_precision = 'tf32'",
    "convolutions": "torch.backends.cudnn.fp32_precision = 'tf32'; torch.backends.cudnn.allow_tf32 = False",
    "the CPU's": "torch.backends.mkldnn.set_flags(_fp32_precision='bf16')",
}
SCRIPT = """
import torch
from wvq.tokenizer.precision import full_precision
backends = torch.backends
places = (backends, backends.cudnn, backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul,
          backends.mkldnn.conv)
def settings():
    return [place.fp32_precision for place in places]
def follows():  # what is not set by itself asks what is above it
    own = backends.fp32_precision
    try:
        backends.fp32_precision = "ieee"
        return settings()
    finally:
        backends.fp32_precision = own
{allow}
before = settings(), follows()
with full_precision():
    assert settings() == ["ieee"] * 6, settings()
    with full_precision():
        pass
    assert settings() == ["ieee"] * 6
assert (settings(), follows()) == before, (settings(), before)
"""


@pytest.mark.parametrize("allowed", ALLOWED)
def test_precision_is_full_inside_and_the_users_outside(allowed: str):
    """In a process of its own, since torch never forgets that the newer flags were used."""
    script = SCRIPT.format(allow=ALLOWED[allowed])
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


USES: dict[str, Callable[[], Any]] = {
    "nearest codes": lambda: nearest_codes(torch.randn(9, 4), torch.randn(8, 4)),
    "quantizer": lambda: VanillaQuantizer(codebook_size=8, codebook_dim=4)(torch.randn(9, 4)),
    "extractor": lambda: build_extractor("efficientnet-lite0")(read_fashion_images()[0][:1]),
}


@pytest.mark.parametrize("use", USES)
def test_newer_flag_is_no_error(use: str):
    flags = torch.backends.cuda.matmul
    before, flags.fp32_precision = flags.fp32_precision, "tf32"
    try:
        USES[use]()
        assert flags.fp32_precision == "tf32"
    finally:
        flags.fp32_precision = before


@pytest.mark.parametrize("use", ["encode", "decode"])
def test_tokenizers_encode_and_decode_in_full_precision(use: str):
    tokenizer = VQTokenizer(TokenizerConfig(image_size=8, base_channels=8, channel_multipliers=(1, 2)))
    flags, seen = torch.backends.cuda.matmul, []
    part = tokenizer.encoder if use == "encode" else tokenizer.decoder
    part.register_forward_hook(lambda *_: seen.append(flags.fp32_precision))
    before, flags.fp32_precision = flags.fp32_precision, "tf32"
    try:
        indices = tokenizer.encode(torch.zeros(1, 3, 8, 8))
        tokenizer.decode(indices)
        tokenizer(torch.zeros(1, 3, 8, 8))
    finally:
        flags.fp32_precision = before
    assert seen == ["ieee", "tf32"]


def test_search_is_exact_at_medium_precision():
    """On a CPU with matrix units the products themselves would be rounded to bfloat16."""
    vectors, codes = (torch.randn(n, 32, generator=torch.Generator().manual_seed(n)) for n in (2000, 4000))
    expected = torch.cdist(vectors.double(), codes.double()).argmin(dim=1)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(nearest_codes(vectors, codes), expected)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_settings_are_put_back_after_an_error():
    flags = torch.backends.cuda.matmul
    before, flags.fp32_precision = flags.fp32_precision, "tf32"
    try:
        with pytest.raises(ZeroDivisionError), full_precision():
            raise ZeroDivisionError
        assert flags.fp32_precision == "tf32"
    finally:
        flags.fp32_precision = before


def test_keeping_dtype_moves_and_casts_nothing():
    layer = nn.Linear(2, 2)._apply(keeping_dtype(lambda t: t.to("meta", torch.float16)))
    assert (layer.weight.device.type, layer.weight.dtype) == ("meta", torch.float32)


TF32_SCRIPT = """
import torch
from wvq.tokenizer.precision import full_precision, layers_in_tf32
places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
{allow}
before = [place.fp32_precision for place in places]
with layers_in_tf32(torch.device("cpu")) as said:
    assert (said, [place.fp32_precision for place in places]) == ("float32", before)
with layers_in_tf32(torch.device("cuda")) as said:
    assert (said, places[0].fp32_precision) == {inside}, (said, places[0].fp32_precision)
    with full_precision():
        assert [place.fp32_precision for place in places] == ["ieee"] * 2
    assert places[0].fp32_precision == {inside}[1]
assert [place.fp32_precision for place in places] == before
"""


@pytest.mark.parametrize(
    ("allow", "inside"),
    [
        ("", ("TF32", "tf32")),
        ("torch.backends.cuda.matmul.fp32_precision = 'ieee'", ("float32", "ieee")),
        ("torch.backends.cuda.matmul.fp32_precision = 'tf32'", ("TF32", "tf32")),
    ],
)
def test_layers_are_in_tf32_on_gpus_and_quantizers_never(allow: str, inside: tuple[str, str]):
    script = TF32_SCRIPT.format(allow=allow, inside=inside)
    done = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
