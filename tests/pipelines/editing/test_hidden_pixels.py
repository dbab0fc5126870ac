"""Nothing that is drawn knows what was hidden: noise in its place changes no bit of a result."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from app_models import no_report, tiny_model
from PIL import Image
from tiny_pipelines import tiny_pipeline, tiny_tokenizer
from torch import Tensor

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.app.drawing import draw_marked, pixels_of
from wvq.pipelines.app.values import sampling_options
from wvq.pipelines.base import to_pil
from wvq.pipelines.edit import Edit, edit
from wvq.pipelines.editing.masks import outside
from wvq.prior import PriorConfig, build_prior

HOLE = ~outside((3, 4, 11, 9), 16)
Call = Callable[..., Any]
EDITS: dict[str, tuple[Call, Tensor]] = {
    "complete": (lambda pipe, images, **options: pipe.complete(images, 7, **options), outside((0, 0, 16, 7), 16)),
    "inpaint": (lambda pipe, images, **options: pipe.inpaint(images, HOLE, **options), HOLE),
    "outpaint": (
        lambda pipe, images, **options: pipe.outpaint(images, (4, 0, 13, 10), **options), outside((4, 0, 13, 10), 16)
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return tiny_pipeline()


@pytest.fixture(scope="module")
def free_order() -> Any:
    """A pipeline whose prior draws tokens in any order."""
    tokenizer = tiny_tokenizer()
    size: Any = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "token_order": "random"}
    prior = build_prior(PriorConfig(num_codes=32, num_tokens=16, num_classes=3, **size))
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter *= 12 if parameter.ndim == 2 else 1  # else all codes are nearly as probable
    return ClassConditionalPipeline(tokenizer, prior)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("output_type", ["uint8", "latent"])
@pytest.mark.parametrize("options", [{}, {"best_of": 2, "guidance_scale": 2.0}])
def test_noise_in_place_of_what_is_hidden_changes_nothing(pipeline, name, output_type, options):
    call, hidden = EDITS[name]
    images = noise(3, 3, 16, 16)
    other = torch.where(hidden, noise(3, 3, 16, 16, seed=1), images)

    def made(given: Tensor, seeds: tuple[int, ...] = (1, 2, 3)) -> Tensor:
        drawn = generators(*seeds)
        return call(pipeline, given, class_labels=[0, 1, 2], generator=drawn, output_type=output_type, **options).images

    assert torch.equal(made(other), made(images))
    assert not torch.equal(made(images, (4, 5, 6)), made(images))
    if output_type == "uint8":
        assert torch.equal(made(images)[:, :, ~hidden], images[:, :, ~hidden])
        assert not torch.equal(made(images)[:, :, hidden], images[:, :, hidden])


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("num_passes", [None, 4])
def test_a_prior_of_free_order_does_not_look_either(free_order, name, num_passes):
    call, hidden = EDITS[name]
    images = noise(3, 3, 16, 16)
    other = torch.where(hidden, noise(3, 3, 16, 16, seed=1), images)
    options: Any = {"class_labels": [0, 1, 2], "num_passes": num_passes, "output_type": "uint8"}
    one, two = (call(free_order, given, generator=generators(1, 2, 3), **options).images for given in (images, other))
    assert torch.equal(one, two)
    assert torch.equal(one[:, :, ~hidden], images[:, :, ~hidden])
    assert not torch.equal(one[:, :, hidden], images[:, :, hidden])


@pytest.mark.parametrize("name", EDITS)
def test_pictures_are_edited_as_their_pixels_are(pipeline, name):
    call, hidden = EDITS[name]
    images = noise(2, 3, 16, 16)
    options = {"class_labels": [0, 1], "output_type": "uint8"}
    expected = call(pipeline, images, generator=generators(1, 2), **options).images
    assert torch.equal(call(pipeline, to_pil(images), generator=generators(1, 2), **options).images, expected)
    mask = Image.fromarray(hidden.numpy())
    made = pipeline.inpaint(to_pil(images), [mask, mask], generator=generators(1, 2), **options).images
    assert torch.equal(made, expected)


@pytest.mark.parametrize("name", EDITS)
def test_an_image_is_edited_the_same_in_any_batch(pipeline, name):
    call, _ = EDITS[name]
    images = noise(5, 3, 16, 16)
    together = call(pipeline, images, class_labels=[0] * 5, generator=generators(*range(5)), output_type="uint8").images
    for number in range(5):
        own = {"generator": generators(number), "output_type": "uint8"}
        assert torch.equal(
            call(pipeline, images[number : number + 1], class_labels=[0], **own).images[0], together[number]
        )


def test_the_application_does_not_look_under_a_mark():
    model, image = tiny_model(), noise(3, 16, 16)
    marked = [5, 6, 9, 15]
    other = torch.where(pixels_of(marked, (4, 4), 4), noise(3, 16, 16, seed=1), image)
    options = sampling_options(2.0, 0.9, 20, 0.95, 0.01, 7)
    one, two = (draw_marked(model, given, marked, "Bag", 3, options, no_report) for given in (image, other))
    assert torch.equal(one, two)
    assert torch.equal(
        one[:, :, ~pixels_of(marked, (4, 4), 4)], image.expand(3, -1, -1, -1)[:, :, ~pixels_of(marked, (4, 4), 4)]
    )


def test_boxes_that_do_not_fit_are_named(pipeline):
    for box in ((0, 0, 17, 4), (5, 0, 4, 4), (-1, 0, 4, 4), (0, 9, 16, 8)):
        with pytest.raises(ValueError, match=r"box is .* in this order, 0 to"):
            pipeline.outpaint(noise(1, 3, 16, 16), box, [0])


@pytest.mark.parametrize("asked", [{"mask": "mask.png"}, {"rows": 5}, {"box": (2, 2, 9, 12)}])
def test_the_command_does_not_look_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]):
    monkeypatch.chdir(tmp_path)
    tiny_pipeline().save_pretrained("pipe")
    picture, other = (Image.fromarray(noise(40, 48, 3, seed=seed).numpy()) for seed in (0, 1))
    mask = Image.new("L", picture.size)
    if "mask" in asked:
        mask.paste(255, (10, 9, 33, 30))
        mask.save("mask.png")
    else:
        hidden = outside(asked.get("box", (0, 0, 16, asked.get("rows", 0))), 16)
        mask.paste(Image.fromarray(hidden.numpy()).resize((40, 40), Image.Resampling.NEAREST), (4, 0))
    written = []
    for given in (picture, Image.composite(other, picture, mask)):
        given.save("photo.png")
        edit(Edit(pipeline="pipe", image="photo.png", class_label="Bag", num_images=2, **asked))
        written.append([path.read_bytes() for path in sorted(Path("runs/edits/images").iterdir())])
    assert written[0] == written[1]
    assert len(written[0]) == 2
