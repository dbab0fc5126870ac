"""A pipeline in half precision does what one in float32 does, is saved, and is loaded again."""

import copy
from typing import Any

import pytest
import torch
from tiny_pipelines import tiny_pipeline, tiny_tokenizer
from torch import Tensor

from wvq.pipelines import ClassConditionalPipeline, ReconstructionPipeline
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.errors import NonFiniteError

HALF = [torch.bfloat16, torch.float16]
LATENT: dict[str, Any] = {"output_type": "latent"}


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=seeded())


@pytest.mark.parametrize("dtype", HALF)
def test_every_call_works_in_half_precision(images: Tensor, dtype: torch.dtype):
    whole, half = tiny_pipeline(), tiny_pipeline().to(dtype)
    assert half.dtype == half.tokenizer.dtype == half.prior.dtype == dtype
    assert half([0, 1], output_type="uint8").images.shape == (2, 3, 16, 16)
    expected = whole.likelihood(images, [0, 1])["bits_per_token"]
    torch.testing.assert_close(half.likelihood(images, [0, 1])["bits_per_token"], expected, rtol=0.15, atol=0)
    assert torch.equal(half.complete(images, 8, [0, 1], output_type="uint8").images[:, :, :8], images[:, :, :8])
    tokens = half.tokenizer.encode(images.float() / 127.5 - 1)
    assert torch.equal(half.inpaint(images, torch.zeros(16, 16) > 0, [0, 1], **LATENT).images, tokens)
    assert half(0, best_of=2, output_type="uint8").images.shape == (1, 3, 16, 16)


@pytest.mark.parametrize("dtype", HALF)
def test_reconstruction_works_in_half_precision(images: Tensor, dtype: torch.dtype):
    whole: Any = ReconstructionPipeline(tiny_tokenizer())
    half: Any = ReconstructionPipeline(tiny_tokenizer()).to(dtype)
    difference = whole(images, output_type="pt").images - half(images, output_type="pt").images
    assert float(difference.abs().mean()) < 0.05
    assert half.interpolate(images, images.flip(0), 3, output_type="uint8").images.shape == (6, 3, 16, 16)


@pytest.mark.parametrize("dtype", HALF)
def test_a_cast_pipeline_is_saved_and_loaded(tmp_path, dtype: torch.dtype):
    half = tiny_pipeline().to(dtype)
    half.save_pretrained(tmp_path / "half")
    loaded: Any = ClassConditionalPipeline.from_pretrained(tmp_path / "half")
    assert (loaded.tokenizer.dtype, loaded.prior.dtype) == (torch.float32, dtype)
    for torch_dtype in (torch.float32, dtype):
        again: Any = ClassConditionalPipeline.from_pretrained(tmp_path / "half", torch_dtype=torch_dtype)
        assert again.tokenizer.dtype == again.prior.dtype == torch_dtype
        assert again.tokenizer.fingerprint == half.tokenizer.fingerprint
    drawn = [pipe([0, 1], generator=seeded(), output_type="uint8").images for pipe in (half, again)]
    assert torch.equal(*drawn)
    again.to(torch.float32).save_pretrained(tmp_path / "whole")
    ClassConditionalPipeline.from_pretrained(tmp_path / "whole")


def test_a_pipeline_is_loaded_in_half_precision(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "whole")
    half: Any = ClassConditionalPipeline.from_pretrained(tmp_path / "whole", torch_dtype=torch.bfloat16)
    expected = tiny_pipeline().to("cpu", torch.bfloat16)
    assert torch.equal(half(0, generator=seeded(), **LATENT).images, expected(0, generator=seeded(), **LATENT).images)
    half.save_pretrained(tmp_path / "half")
    ClassConditionalPipeline.from_pretrained(tmp_path / "half")


@pytest.mark.parametrize("targets", [(torch.bfloat16,), ("cpu", torch.bfloat16), (torch.device("cpu"), torch.bfloat16)])
def test_device_and_dtype_are_given_as_to_a_module(targets):
    pipeline = tiny_pipeline()
    assert pipeline.to(*targets) is pipeline
    assert (pipeline.device, pipeline.dtype) == (torch.device("cpu"), torch.bfloat16)
    pipeline.to(dtype=torch.float32).to(device="cpu", dtype=torch.bfloat16)
    assert (pipeline.device, pipeline.dtype) == (torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.float64, "dtype is torch.float64; valid are torch.float32, torch.bfloat16, torch.float16"),
        (torch.int8, "dtype is torch.int8; valid are"),
        ("gpu", "device is 'gpu': "),
    ],
)
def test_what_cannot_be_moved_or_cast_to_is_named(target, message):
    with pytest.raises(InputError, match=message):
        tiny_pipeline().to(target)


def test_a_tokenizer_that_was_cast_before_its_pipeline_is_named():
    pipeline = tiny_pipeline()
    with pytest.raises(InputError, match=r"cast the pipeline, not the tokenizer before it"):
        ClassConditionalPipeline(copy.deepcopy(pipeline.tokenizer).to(torch.bfloat16), pipeline.prior)


def test_only_a_repository_has_a_revision(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    for load in (ClassConditionalPipeline.from_pretrained, VQTokenizer.from_pretrained):
        with pytest.raises(InputError, match=r"revision is 'main', but '.*' is a folder; only a repository has one"):
            load(tmp_path / "pipe", revision="main")


@pytest.mark.parametrize("name", ["decoder", "from_codebook"])
def test_a_bad_weight_of_the_tokenizer_is_an_error_and_no_black_image(images: Tensor, name: str):
    pipeline = tiny_pipeline()
    with torch.no_grad():
        next(pipeline.tokenizer.get_submodule(name).parameters()).fill_(float("nan"))
    for call in (lambda: pipeline(0), lambda: ReconstructionPipeline(pipeline.tokenizer)(images)):
        with pytest.raises(NonFiniteError, match="the decoded images are not finite"):
            call()
