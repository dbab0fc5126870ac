"""One saved folder, and everybody who loads it: this package, diffusers and transformers draw the same."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from tiny_pipelines import tiny_pipeline, tiny_prior, tiny_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, LogitsProcessorList

from wvq.pipelines import ClassConditionalPipeline
from wvq.prior import PriorConfig, PriorSize, build_prior, load_prior, sample_tokens
from wvq.prior.generate import CodesInTurn
from wvq.prior.turns import check_turns
from wvq.tokenizer import InputError, VQTokenizer

CLASSES = torch.tensor([[32], [33], [34]])  # as prompts: 32 codes come before them


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Diffusers copies code that it is told to trust into a cache, from which it imports it."""
    cache = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", cache)
        patch.setattr(sys, "path", [*sys.path])
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(folder: Path) -> Any:
    pipeline = ClassConditionalPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def theirs(folder: Path, modules: None) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("output_type", ["pil", "np", "pt", "uint8", "latent"])
def test_images_of_diffusers_are_byte_identical(ours: Any, theirs: Any, output_type: str):
    options: dict[str, Any] = {"num_images_per_label": 2, "guidance_scale": 2.0, "output_type": output_type}
    own, other = (pipe(["Bag", 0], generator=seeded(), **options).images for pipe in (ours, theirs))
    assert [np.asarray(image).tobytes() for image in own] == [np.asarray(image).tobytes() for image in other]
    assert len({np.asarray(image).tobytes() for image in own}) > 1


def test_diffusers_takes_a_generator_an_image_and_the_samplers_options(ours: Any, theirs: Any):
    options: dict[str, Any] = {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "output_type": "uint8"}
    own, other = (pipe([0, 1], generator=[seeded(1), seeded(2)], **options).images for pipe in (ours, theirs))
    assert torch.equal(own, other)
    (alone,) = theirs(1, generator=[seeded(2)], return_dict=False, **options)
    assert torch.equal(alone, other[1:])


def test_callbacks_of_diffusers(theirs: Any):
    calls = []
    images = theirs([0, 1], output_type="latent", callback_on_step_end=lambda *given: calls.append(given)).images
    assert [(pipe, position, total) for pipe, position, total, _ in calls] == [(theirs, i, 16) for i in range(16)]
    assert torch.equal(calls[-1][3]["tokens"], images.flatten(1))

    class Counting(PipelineCallback):
        @property
        def tensor_inputs(self) -> list[str]:
            return []

        def callback_fn(self, pipeline: Any, step_index: int, timesteps: int, callback_kwargs: Any) -> Any:
            assert callback_kwargs == {}
            calls.append((pipeline, step_index))
            return callback_kwargs

    calls.clear()
    theirs(0, callback_on_step_end=Counting(cutoff_step_ratio=1.0, cutoff_step_index=None))
    assert len(calls) == 16
    with pytest.raises(InputError, match="callback_on_step_end_tensor_inputs has 'latents'; valid is tokens"):
        theirs(0, callback_on_step_end=calls.append, callback_on_step_end_tensor_inputs=["latents"])


def test_diffusers_runs_no_code_that_it_was_not_told_to_trust(folder: Path, modules: None):
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(folder)


def test_this_package_runs_no_code_of_a_folder(tmp_path: Path):
    tiny_pipeline().save_pretrained(tmp_path / "pipeline")
    for file in tmp_path.rglob("*.py"):
        file.write_text("raise SystemExit('ran')")
    ClassConditionalPipeline.from_pretrained(tmp_path / "pipeline")


def test_diffusers_casts_and_saves_for_everybody(folder: Path, modules: None, tmp_path: Path):
    half: Any = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
    own: Any = ClassConditionalPipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert half.dtype == half.tokenizer.dtype == torch.bfloat16
    images = [pipe(1, generator=seeded(), output_type="uint8").images for pipe in (half, own)]
    assert torch.equal(*images)
    half.save_pretrained(tmp_path / "half")
    half.to("cpu", torch.float32).save_pretrained(tmp_path / "whole")
    for name in ("half", "whole"):
        ClassConditionalPipeline.from_pretrained(tmp_path / name)
    other = tiny_tokenizer(seed=1)
    with pytest.raises(InputError, match="they do not belong together"):
        half.tokenizer = other


def test_parts_that_were_cast_as_they_were_loaded_belong_together(folder: Path):
    tokenizer = VQTokenizer.from_pretrained(folder, torch.float16, subfolder="tokenizer")
    prior = load_prior(folder, torch.float16, subfolder="prior")
    pipeline: Any = ClassConditionalPipeline(tokenizer, prior)
    assert pipeline.dtype == pipeline.prior.dtype == torch.float16
    with torch.no_grad():
        next(tokenizer.from_codebook.parameters()).add_(1)  # another one than was loaded
    with pytest.raises(InputError, match="they do not belong together"):
        ClassConditionalPipeline(tokenizer, prior)
    for load in (VQTokenizer.from_pretrained, load_prior):
        with pytest.raises(InputError, match=r"torch_dtype is torch.int8; valid are torch.float32"):
            load(folder, torch.int8)


@pytest.mark.parametrize("guidance_scale", [None, 2.0])
def test_greedy_tokens_of_transformers_are_ours(folder: Path, ours: Any, guidance_scale: float | None):
    prior: Any = AutoModelForCausalLM.from_pretrained(folder / "prior")
    guided = {"guidance_scale": guidance_scale, "negative_prompt_ids": torch.full_like(CLASSES, 35)}
    tokens = prior.generate(CLASSES, do_sample=False, **(guided if guidance_scale else {}))
    assert torch.equal(tokens[:, :1], CLASSES)
    options: dict[str, Any] = {"temperature": 0, "guidance_scale": guidance_scale or 1.0}
    assert torch.equal(tokens[:, 1:], sample_tokens(ours.prior, CLASSES[:, 0] - 32, 16, 32, **options))
    drawn = ours([0, 1, 2], output_type="latent", **options).images
    assert torch.equal(ours.tokenizer.from_sequence(tokens[:, 1:]), drawn)


def test_plain_generate_of_transformers_draws_images_of_codes_alone(folder: Path):
    prior: Any = AutoModelForCausalLM.from_pretrained(folder / "prior")
    with torch.no_grad():
        prior.lm_head.weight[32:] *= 50  # classes would be drawn most of the time
    torch.manual_seed(0)
    tokens = prior.generate(CLASSES.repeat(64, 1))
    assert tokens.shape == (192, 17)
    assert int(tokens[:, 1:].max()) < 32
    assert len(tokens[:, 1:].unique()) > 24  # and many of the 32 of them


def test_vllm_reads_the_same_files(folder: Path):
    """It has the transformers' configuration of the model, and of how it generates."""
    config = AutoConfig.from_pretrained(folder / "prior")
    assert config.architectures == ["LlamaForCausalLM"]
    assert (config.vocab_size, config.max_position_embeddings) == (32 + 3 + 1, 1 + 16)
    assert (config.bos_token_id, config.eos_token_id) == (None, None)
    defaults = GenerationConfig.from_pretrained(folder / "prior")
    assert (defaults.temperature, defaults.top_k, defaults.top_p, defaults.max_new_tokens) == (1, 0, 1, 16)


def test_codes_of_several_codebooks_are_drawn_in_turn():
    torch.manual_seed(0)
    size: dict[str, Any] = vars(PriorSize(architecture="gpt2", hidden_size=16, num_layers=1, num_heads=2))
    prior: Any = build_prior(PriorConfig(**size, num_codes=32, num_tokens=16, num_classes=3, codes_per_position=2))
    in_turn = LogitsProcessorList([CodesInTurn(32, 2)])
    with pytest.raises(InputError):
        check_turns("tokens", prior.generate(CLASSES.repeat(9, 1))[:, 1:], 32, 2)
    check_turns("tokens", prior.generate(CLASSES.repeat(9, 1), logits_processor=in_turn)[:, 1:], 32, 2)
    greedy = prior.generate(CLASSES, do_sample=False, logits_processor=in_turn)[:, 1:]
    expected = sample_tokens(prior, torch.tensor([0, 1, 2]), 16, 32, temperature=0, codes_per_position=2)
    assert torch.equal(greedy, expected)


def test_a_prior_that_is_loaded_and_saved_again_keeps_what_generate_needs(folder: Path, tmp_path: Path):
    load_prior(folder, subfolder="prior").save_pretrained(tmp_path)
    for name in ("generation_config.json", "config.json"):
        assert (tmp_path / name).read_bytes() == (folder / "prior" / name).read_bytes()
    assert tiny_prior(num_classes=0).generation_config.suppress_tokens == [32]
