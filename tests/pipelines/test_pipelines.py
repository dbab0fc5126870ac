"""What a user calls: `ClassConditionalPipeline` and `ReconstructionPipeline`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_pipelines import NAMES, tiny_pipeline, tiny_prior, tiny_tokenizer

from wvq.pipelines import ClassConditionalPipeline, ImagePipelineOutput, ReconstructionPipeline
from wvq.pipelines.class_conditional import load_prior
from wvq.prior import sample_tokens
from wvq.tokenizer import InputError
from wvq.tokenizer.data.decoding import sized_pixels, to_model, to_uint8


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return tiny_pipeline()


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def latents(pipeline: Any, labels: Any, **options) -> torch.Tensor:
    return pipeline(labels, output_type="latent", generator=seeded(), **options).images


def test_numbers_names_and_lists_of_both_are_the_same_call(pipeline):
    assert torch.equal(latents(pipeline, 2), latents(pipeline, "Bag"))
    assert torch.equal(latents(pipeline, [2]), latents(pipeline, "2"))
    assert torch.equal(latents(pipeline, [2, "Sneaker"]), latents(pipeline, ["Bag", 0]))
    assert not torch.equal(latents(pipeline, 2), latents(pipeline, 1))


def test_images_of_a_label_lie_together_and_are_those_of_the_sampler(pipeline):
    options = {"guidance_scale": 2.0, "temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.01}
    grids = latents(pipeline, ["Bag", "Sneaker"], num_images_per_label=2, **options)
    expected = sample_tokens(pipeline.prior, torch.tensor([2, 2, 0, 0]), 16, 32, generator=seeded(), **options)
    assert torch.equal(grids, expected.reshape(4, 4, 4))


def test_an_image_of_a_generator_per_image_is_independent_of_the_others(pipeline):
    together = pipeline([0, 1], 2, output_type="latent", generator=[seeded(i) for i in range(4)]).images
    alone = pipeline(1, output_type="latent", generator=[seeded(2)]).images
    assert torch.equal(together[2:3], alone)


def test_in_blocks_of_one_size_it_is_so_to_the_last_bit(pipeline, monkeypatch):
    rows: list[int] = []
    decode = type(pipeline.tokenizer).decode

    def counted(tokenizer: Any, indices: torch.Tensor) -> torch.Tensor:
        rows.append(len(indices))
        return decode(tokenizer, indices)

    monkeypatch.setattr(type(pipeline.tokenizer), "decode", counted)
    together = pipeline([0, 1], 9, output_type="pt", generator=[seeded(i) for i in range(18)], block_size=8).images
    assert rows == [8, 8, 8]
    alone = pipeline(1, output_type="pt", generator=[seeded(17)], block_size=8).images
    assert torch.equal(together[17:], alone)
    pipeline(1, generator=[seeded(17)])
    assert rows == [8, 8, 8, 8, 1]  # one image is computed as one


@pytest.mark.parametrize("channels", [1, 3])
def test_every_output_type_shows_the_same_images(channels):
    pipeline = tiny_pipeline(channels=channels)
    outputs = {
        kind: pipeline([0, 1], generator=seeded(), output_type=kind).images
        for kind in ("pil", "np", "pt", "uint8", "latent")
    }
    pixels = outputs["uint8"]
    assert pixels.shape == (2, channels, 16, 16)
    assert pixels.dtype == torch.uint8
    assert torch.equal(to_uint8(pipeline.tokenizer.decode(outputs["latent"])), pixels)
    assert torch.equal(outputs["pt"], pixels.float() / 255)
    assert outputs["np"].shape == (2, 16, 16, channels)
    assert outputs["np"].dtype == np.float32
    assert np.array_equal(outputs["np"], outputs["pt"].permute(0, 2, 3, 1).numpy())
    assert [image.mode for image in outputs["pil"]] == ["L" if channels == 1 else "RGB"] * 2
    shown = np.stack([np.asarray(image).reshape(16, 16, channels) for image in outputs["pil"]])
    assert np.array_equal(shown, pixels.permute(0, 2, 3, 1).numpy())


def test_without_a_dictionary_a_tuple_is_returned(pipeline):
    assert isinstance(pipeline(0), ImagePipelineOutput)
    (images,) = pipeline(0, output_type="latent", generator=seeded(), return_dict=False)
    assert torch.equal(images, latents(pipeline, 0))


def test_the_callback_gets_every_position(pipeline):
    calls = []
    grid = latents(pipeline, [0, 1], callback_on_step_end=lambda *arguments: calls.append(arguments))
    assert [(pipe, position, total) for pipe, position, total, _ in calls] == [(pipeline, i, 16) for i in range(16)]
    for position, (_, _, _, values) in enumerate(calls):
        assert torch.equal(values["tokens"], grid.reshape(2, 16)[:, : position + 1])


def test_nothing_is_shown_of_writing_and_reading_a_few_matrices(pipeline, tmp_path: Path, capfd):
    pipeline.save_pretrained(tmp_path / "pipeline")
    ClassConditionalPipeline.from_pretrained(tmp_path / "pipeline")
    assert capfd.readouterr() == ("", "")


def test_the_progress_bar_takes_the_options_of_tqdm(capsys):
    pipeline = tiny_pipeline()
    pipeline.set_progress_bar_config(desc="drawing a bag")
    pipeline("Bag")
    assert "drawing a bag: 100%" in capsys.readouterr().err
    pipeline.set_progress_bar_config(disable=True)
    pipeline("Bag")
    assert not capsys.readouterr().err


def test_a_saved_pipeline_draws_identical_images_and_is_saved_identically_again(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path / "first")
    loaded: Any = ClassConditionalPipeline.from_pretrained(tmp_path / "first")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.class_names == NAMES
    assert not any(module.training for component in loaded.components.values() for module in component.modules())
    options = {"num_images_per_label": 2, "guidance_scale": 1.5, "output_type": "uint8"}
    assert torch.equal(
        loaded(list(NAMES), generator=seeded(), **options).images,
        pipeline(list(NAMES), generator=seeded(), **options).images,
    )
    loaded.save_pretrained(tmp_path / "second")
    files = sorted(path.relative_to(tmp_path / "first") for path in (tmp_path / "first").rglob("*") if path.is_file())
    assert {file.suffix for file in files} == {".json", ".safetensors", ".py"}
    for file in files:
        assert (tmp_path / "first" / file).read_bytes() == (tmp_path / "second" / file).read_bytes(), file


def test_a_prior_without_classes_draws_from_no_label():
    pipeline = tiny_pipeline(num_classes=0)
    assert latents(pipeline, None, num_images_per_label=3).shape == (3, 4, 4)
    with pytest.raises(InputError, match="class_labels is 'Bag'; this prior has no classes, it takes only None"):
        pipeline("Bag")
    with pytest.raises(InputError, match=r"guidance_scale is 2.0; a prior without classes takes only 1"):
        pipeline(guidance_scale=2.0)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ("Sneeker", {}, "class 'Sneeker' does not exist; did you mean Sneaker"),
        (["Bag", "xyz"], {}, "class 'xyz' does not exist; valid are Sneaker, Sandal, Bag"),
        (3, {}, "class 3 does not exist; this prior has classes 0 to 2"),
        ("-1", {}, "class -1 does not exist; this prior has classes 0 to 2"),
        ("--1", {}, "class '--1' does not exist"),
        (None, {}, "class_labels is None; this prior has 3 classes, give numbers or names"),
        ([], {}, r"class_labels has shape \(0,\)"),
        (0, {"num_images_per_label": 0}, "num_images_per_label is 0; it must be at least 1"),
        (0, {"output_type": "jpg"}, "output_type is 'jpg'; valid are pil, np, pt"),
        (0, {"top_p": 2.0}, "top_p is 2.0"),
    ],
)
def test_bad_arguments_are_named(pipeline, labels, options, message):
    with pytest.raises(InputError, match=message):
        pipeline(labels, **options)


def test_components_that_do_not_belong_together_are_refused():
    tokenizer = tiny_tokenizer()
    with pytest.raises(InputError, match="made for 31 codes and 16 tokens an image, the tokenizer has 32 and 16"):
        ClassConditionalPipeline(tokenizer, tiny_prior(num_codes=31))
    with pytest.raises(InputError, match="made for 32 codes and 9 tokens an image, the tokenizer has 32 and 16"):
        ClassConditionalPipeline(tokenizer, tiny_prior(num_tokens=9))
    with pytest.raises(InputError, match="2 class_names were given, the prior has 3 classes"):
        ClassConditionalPipeline(tokenizer, tiny_prior(), NAMES[:2])
    prior = tiny_prior()
    prior.config.tokenizer_fingerprint = tokenizer.fingerprint
    other = tiny_tokenizer(seed=1)
    message = f"trained on tokens of tokenizer {tokenizer.fingerprint[:12]}, this tokenizer is {other.fingerprint[:12]}"
    with pytest.raises(InputError, match=message):
        ClassConditionalPipeline(other, prior)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("_class_name", "ReconstructionPipeline", "does not describe a ClassConditionalPipeline"),
        ("prior", ["os", "system"], r"has prior = \['os', 'system'\]; a ClassConditionalPipeline has \['transformers'"),
        ("tokenizer", None, "has tokenizer = None"),
    ],
)
def test_an_index_that_names_other_classes_is_refused(pipeline, tmp_path, key, value, message):
    pipeline.save_pretrained(tmp_path / "pipeline")
    index = tmp_path / "pipeline" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {key: value}))
    with pytest.raises(InputError, match=message):
        ClassConditionalPipeline.from_pretrained(tmp_path / "pipeline")


def test_a_folder_without_an_index_or_a_component_is_refused(pipeline, tmp_path):
    with pytest.raises(InputError, match=r"model_index\.json does not exist"):
        ClassConditionalPipeline.from_pretrained(tmp_path)
    pipeline.save_pretrained(tmp_path / "pipeline")
    (tmp_path / "pipeline" / "prior" / "config.json").unlink()
    with pytest.raises(InputError, match=r"prior/config\.json does not exist"):
        ClassConditionalPipeline.from_pretrained(tmp_path / "pipeline")


def test_a_prior_is_loaded_whole_or_refused(tmp_path):
    prior = tiny_prior()
    prior.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    name = "model.layers.0.mlp.up_proj.weight"

    def refusal(content: dict[str, torch.Tensor]) -> str:
        save_file(content, file, metadata={"format": "pt"})
        with pytest.raises(InputError) as refused:
            load_prior(tmp_path)
        return str(refused.value)

    left_out = {key: value for key, value in weights.items() if key != name}
    assert refusal(left_out).endswith(f"does not hold the weights its config.json describes: {name} is missing")
    assert refusal(weights | {"odd": torch.zeros(2)}).endswith("odd is no part of it")
    assert f"{name} has the shape (3, 3), not (" in refusal(weights | {name: torch.zeros(3, 3)})
    file.write_bytes(b"no weights at all")
    with pytest.raises(InputError, match=r"does not hold the weights its config\.json describes"):
        load_prior(tmp_path)
    file.unlink()
    torch.save(weights, tmp_path / "pytorch_model.bin")  # a pickle is not looked at
    with pytest.raises(InputError, match=r"model\.safetensors does not exist"):
        load_prior(tmp_path)


def test_a_language_model_of_another_kind_is_no_prior(tmp_path):
    prior = tiny_prior()
    delattr(prior.config, "num_tokens")
    prior.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no num_tokens; it is not a prior made by build_prior"):
        load_prior(tmp_path)


@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_get_the_crop_and_resize_of_training(channels):
    pipeline: Any = ReconstructionPipeline(tiny_tokenizer(channels=channels))
    gradient = Image.linear_gradient("L").resize((40, 23))
    pictures = [gradient, gradient.convert("RGB"), gradient.convert("RGBA"), gradient.convert("CMYK"),
                gradient.convert("P"), gradient.resize((16, 16))]  # fmt: skip
    pixels = torch.from_numpy(np.stack([sized_pixels(picture, 16, channels) for picture in pictures]))
    assert pixels.shape == (6, channels, 16, 16)
    from_pictures = pipeline(pictures, output_type="uint8").images
    assert torch.equal(from_pictures, pipeline(pixels, output_type="uint8").images)
    assert torch.equal(
        pipeline(pictures[0], output_type="uint8").images, pipeline(pixels[:1], output_type="uint8").images
    )


def test_reconstructions_are_decoded_tokens(tmp_path):
    pipeline: Any = ReconstructionPipeline(tiny_tokenizer())
    images = torch.randint(256, (3, 3, 16, 16), dtype=torch.uint8, generator=seeded())
    tokens = pipeline(images, output_type="latent").images
    assert torch.equal(tokens, pipeline.tokenizer.encode(to_model(images)))
    expected = to_uint8(pipeline.tokenizer.decode(tokens))
    assert torch.equal(pipeline(images, output_type="uint8").images, expected)
    assert np.array_equal(np.stack(pipeline(images).images), expected.permute(0, 2, 3, 1).numpy())
    pipeline.save_pretrained(tmp_path / "pipeline")
    loaded: Any = ReconstructionPipeline.from_pretrained(tmp_path / "pipeline")
    assert torch.equal(loaded(images, output_type="uint8").images, expected)
    with pytest.raises(InputError, match="does not describe a ClassConditionalPipeline"):
        ClassConditionalPipeline.from_pretrained(tmp_path / "pipeline")


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "images is empty; give at least one"),
        (torch.zeros(1, 3, 16, 16), r"images have dtype torch.float32; tensors must be uint8, 0 to 255"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), r"images have shape \(1, 1, 16, 16\)"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), r"images have shape \(3, 16, 16\)"),
        (Image.new("F", (16, 16)), "an image cannot be used: floating-point pixels have no defined white"),
    ],
)
def test_bad_images_are_named(images, message):
    with pytest.raises(InputError, match=message):
        ReconstructionPipeline(tiny_tokenizer())(images)


def test_loading_from_a_path_that_is_none_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="is no folder, and no repository of that name"):
        ReconstructionPipeline.from_pretrained(tmp_path / "absent")
