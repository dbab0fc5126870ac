"""More than classes to images: completion, inpainting, likelihood, best of n, and pixels that no batch changes."""

import dataclasses
from typing import Any

import pytest
import torch
from PIL import Image
from tiny_pipelines import TOKENIZER, tiny_pipeline
from torch import Tensor

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.editing.known_tokens import drawn_positions
from wvq.pipelines.editing.masked_images import masked_images
from wvq.pipelines.editing.masks import outside
from wvq.prior import PriorConfig, build_prior, sample_tokens
from wvq.prior.likelihood import bits_per, log_likelihood
from wvq.tokenizer import InputError, VQTokenizer


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def sampled(pipeline: Any, known: Tensor | None = None, seed: int = 0, **options: Any) -> Tensor:
    """Tokens (3, 16)."""
    own = torch.Generator().manual_seed(seed)
    return sample_tokens(pipeline.prior, torch.arange(3), 16, 32, generator=own, known_tokens=known, **options)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
@pytest.mark.parametrize("given", [0, 5, 15, 16])
def test_a_sequence_completed_from_its_own_prefix_is_itself(pipeline, given, guidance):
    whole = sampled(pipeline, guidance_scale=guidance)
    assert torch.equal(sampled(pipeline, whole[:, :given], guidance_scale=guidance), whole)
    other = sampled(pipeline, whole[:, :given], seed=1, guidance_scale=guidance)
    assert torch.equal(other[:, :given], whole[:, :given])
    assert torch.equal(other, whole) == (given == 16)


def test_known_tokens_anywhere_are_kept_and_the_others_follow_them(pipeline):
    whole = sampled(pipeline)
    hole = torch.zeros(3, 16, dtype=torch.bool)
    hole[0, 4:9], hole[1, 7], hole[2, ::3] = True, True, True
    known = whole.masked_fill(hole, -1)
    assert torch.equal(sampled(pipeline, known), whole)  # the same numbers draw the same tokens
    other = sampled(pipeline, known, seed=5)
    assert torch.equal(other[~hole], whole[~hole])
    assert not torch.equal(other, whole)
    changed = known.clone()
    changed[0, 0] = (changed[0, 0] + 1) % 32
    assert not torch.equal(sampled(pipeline, changed)[0, 4:9], whole[0, 4:9])


def test_completion_keeps_the_tokens_of_the_upper_rows(pipeline, images):
    for rows in (0, 8, 12, 16):
        filled = images[:, :, [min(row, rows - 1) for row in range(16)]] if rows else images
        tokens = pipeline.tokenizer.encode(filled / 127.5 - 1)
        kept = ~drawn_positions(pipeline.tokenizer, outside((0, 0, 16, rows), 16)[None])[0]
        assert kept.any() == (rows > 0)
        made = pipeline.complete(images, rows, [0, 1, 2], output_type="latent", generator=generators(1, 2, 3)).images
        assert torch.equal(made[:, kept], tokens[:, kept])
        assert torch.equal(made, tokens) == (rows == 16)


def test_inpainting_draws_the_other_tokens_from_those_that_are_known(pipeline, images):
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[0, 3, 3], mask[1, 5:9, 12] = True, True
    tokens = pipeline.tokenizer.encode(masked_images(images, mask, TOKENIZER).pixels / 127.5 - 1)
    made = pipeline.inpaint(images, mask, [0, 1, 2], output_type="latent", generator=generators(1, 2, 3)).images
    drawn = drawn_positions(pipeline.tokenizer, mask)
    assert drawn[0, 0, 0] & drawn[1, 1:3, 3].all() & ~drawn[2].any()
    assert torch.equal(made[~drawn], tokens[~drawn])
    expected = sampled(pipeline, tokens.masked_fill(drawn, -1).flatten(1), seed=0)
    single = pipeline.inpaint(images, mask, [0, 1, 2], output_type="latent", generator=torch.Generator().manual_seed(0))
    assert torch.equal(single.images.flatten(1), expected)


def test_images_are_encoded_in_the_blocks_that_both_models_compute(pipeline, images, monkeypatch: pytest.MonkeyPatch):
    rows, encode = [], pipeline.tokenizer.encode
    monkeypatch.setattr(pipeline.tokenizer, "encode", lambda x: rows.append(len(x)) or encode(x))
    for count, generator, block_size in (
        (3, None, None),
        (3, generators(1, 2, 3), 2),
        (1, generators(1), 2),
        (3, None, 2),
    ):
        pipeline.complete(images[:count], 8, [0] * count, generator=generator, block_size=block_size)
    assert rows == [3, 2, 2, 2, 2, 2]


def test_a_prior_without_classes_completes_and_rates(images):
    plain = tiny_pipeline(num_classes=0)
    made = plain.complete(images, 8, output_type="latent", generator=generators(1, 2, 3)).images
    assert made.shape == (3, 4, 4)
    assert plain.likelihood(images)["bits_per_token"].shape == (3,)


@pytest.mark.parametrize("num_classes", [3, 0])
def test_several_results_of_an_image_follow_each_other(images, num_classes: int):
    several = tiny_pipeline(num_classes)
    labels, twice = ([2, 0, 1], [2, 2, 0, 0, 1, 1]) if num_classes else (None, None)
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[0, 3:9, 3], mask[1, 5:9, 12], mask[2, :, 4:] = True, True, True
    for calls in (
        (several.inpaint(images, mask, labels, num_images_per_label=2, **how()),
         several.inpaint(images.repeat_interleave(2, 0), mask.repeat_interleave(2, 0), twice, **how())),
        (several.complete(images, 4, labels, num_images_per_label=2, **how()),
         several.complete(images.repeat_interleave(2, 0), 4, twice, **how())),
        (several.outpaint(images, (2, 2, 9, 12), labels, num_images_per_label=2, **how()),
         several.outpaint(images.repeat_interleave(2, 0), (2, 2, 9, 12), twice, **how())),
    ):  # fmt: skip
        found, expected = (call.images for call in calls)
        assert torch.equal(found, expected)
        assert not torch.equal(found[0], found[1])
    with pytest.raises(InputError, match="num_images_per_label is 0; it must be at least 1"):
        several.complete(images, 4, labels, num_images_per_label=0)


def how() -> dict[str, Any]:
    return {"generator": generators(*range(6)), "output_type": "uint8", "block_size": 2}


def test_likelihood_counts_the_same_bits_over_tokens_and_over_pixels(pipeline, images):
    bits = pipeline.likelihood(images, [0, 1, 2])
    torch.testing.assert_close(bits["bits_per_token"] * 16, bits["bits_per_pixel"] * 256)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    assert torch.equal(pipeline.likelihood(pictures, [0, 1, 2])["bits_per_token"], bits["bits_per_token"])
    assert pipeline.likelihood(pictures[1].resize((40, 50)), [1])["bits_per_pixel"].shape == (1,)
    with pytest.raises(InputError, match="images has one of type Tensor; give a uint8 tensor"):
        pipeline.likelihood(list(images), [0, 1, 2])
    for nothing in (images[:0], []):
        with pytest.raises(InputError, match="images is empty; give at least one"):
            pipeline.likelihood(nothing, [])
    drawn = pipeline([0, 1, 2], temperature=0.0, output_type="latent").images
    assert bits["bits_per_token"].min() > 0
    assert drawn.shape == (3, 4, 4)


def test_best_of_n_is_the_most_probable_of_its_candidates(pipeline):
    candidates = [pipeline([1], generator=own, output_type="latent").images for own in generators(7) * 6]
    best = pipeline([1], generator=generators(7), best_of=6, output_type="latent").images
    nats = [float(-_bits(pipeline, tokens)) for tokens in candidates]
    assert torch.equal(best, candidates[nats.index(max(nats))])
    assert max(nats) > min(nats)


def _bits(pipeline: Any, grid: Tensor) -> Tensor:
    return bits_per(log_likelihood(pipeline.prior, grid.flatten(1), torch.tensor([1]), 32), 16)


def test_pixels_of_an_image_are_the_same_in_any_batch():
    torch.manual_seed(0)
    tokenizer = VQTokenizer(dataclasses.replace(TOKENIZER, base_channels=32, latent_channels=32))
    size: Any = {"hidden_size": 128, "num_layers": 2, "num_heads": 2}
    prior = build_prior(PriorConfig(num_codes=32, num_tokens=16, num_classes=3, **size))
    wide = ClassConditionalPipeline(tokenizer, prior)
    wide.set_progress_bar_config(disable=True)

    def pixels_of(numbers: range) -> Tensor:
        labels = [number % 3 for number in numbers]
        return wide(labels, guidance_scale=2.0, generator=generators(*numbers), output_type="uint8").images

    together = pixels_of(range(64))
    assert torch.equal(torch.cat([pixels_of(range(s, min(s + 7, 64))) for s in range(0, 64, 7)]), together)
    assert torch.equal(torch.cat([pixels_of(range(i, i + 1)) for i in (0, 17, 63)]), together[[0, 17, 63]])


def test_a_gpt2_pipeline_is_saved_and_loaded(tmp_path):
    torch.manual_seed(0)
    size = PriorConfig(
        architecture="gpt2", hidden_size=16, num_layers=1, num_heads=2, num_codes=32, num_tokens=16, num_classes=3
    )
    made = ClassConditionalPipeline(VQTokenizer(TOKENIZER), build_prior(size))
    made.save_pretrained(tmp_path / "pipeline")
    loaded = ClassConditionalPipeline.from_pretrained(tmp_path / "pipeline")
    assert type(loaded.prior).__name__ == "GPT2LMHeadModel"
    first, second = (p([0, 1], generator=generators(0, 1), output_type="uint8").images for p in (made, loaded))
    assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, i: p.complete(i, 20, [0, 1, 2]), "rows is 20; it must be from 0 to 16"),
        (lambda p, i: p.complete(i, -1, [0, 1, 2]), "rows is -1; it must be from 0 to 16"),
        (lambda p, i: p.complete(i, 8, [0, 1, 2], known_tokens=torch.zeros(3, 4, 4)), "known_tokens was given; here"),
        (lambda p, i: p.complete(i, 8, [0]), r"class_labels is \[0\]; give one for each of 3 images"),
        (lambda p, i: p.complete(i, 8, 1), r"class_labels is 1; give one for each of 3 images"),
        (lambda p, i: p.complete(i.float(), 8, [0, 1, 2]), "images have dtype torch.float32"),
        (lambda p, i: p.likelihood(i, [0]), r"tokens have shape \(3, 16\); it must be \(B, T\) for 1 labels"),
        (lambda p, i: p([0], best_of=0), "best_of is 0; it must be at least 1"),
        (lambda p, i: p([0], known_tokens=torch.zeros(1, 5, 4)), r"known_tokens has shape \(1, 5, 4\)"),
        (lambda p, i: p([0], known_tokens=torch.full((1, 4, 4), 32)), "known_tokens reach from 32 to 32; valid are 0"),
        (lambda p, i: p([0], guidance_interval=(3, 17)), r"guidance_interval is \(3, 17\)"),
        (lambda p, i: sampled(p, torch.zeros(3, 17, dtype=torch.int64)), r"\(3, n\) with n <= 16, the tokens of an im"),
        (lambda p, i: sampled(p, torch.zeros(2, 3, dtype=torch.int64)), r"known_tokens has shape \(2, 3\)"),
        (lambda p, i: sampled(p, torch.zeros(3, 3)), r"known_tokens has shape \(3, 3\) and dtype torch.float32"),
        (lambda p, i: sampled(p, block_size=0), "block_size is 0; it must be at least 1"),
        (lambda p, i: sample_tokens(p.prior, torch.tensor([0]), 16, 40), "num_codes is 40; this prior has 32"),
        (
            lambda p, i: sample_tokens(tiny_pipeline(num_classes=0).prior, torch.tensor([0]), 16, 32, guidance_scale=2),
            "guidance was asked of a prior without classes",
        ),
    ],
)
def test_what_cannot_be_done_is_named(pipeline, images, call, message):
    with pytest.raises(InputError, match=message):
        call(pipeline, images)
