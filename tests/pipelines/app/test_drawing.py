"""What the application draws is what the pipeline draws, image by image, and ends when its time is over."""

from typing import Any

import pytest
import torch
from app_models import no_report, tiny_model
from tiny_pipelines import NAMES
from torch import Tensor

from wvq.pipelines.app.drawing import ALL_CLASSES, below, draw, draw_marked, pixels_of
from wvq.pipelines.app.models import Model
from wvq.pipelines.app.values import sampling_options, within
from wvq.pipelines.generation import image_generator, sample_images
from wvq.tokenizer import InputError

OPTIONS = sampling_options(2.0, 0.9, 20, 0.95, 0.01, 7)


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.fixture(scope="module")
def image() -> Tensor:
    return torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def generators(number: int) -> list[torch.Generator]:
    return [image_generator(7, i) for i in range(number)]


def test_images_are_those_of_the_pipeline(model):
    images, classes = draw(model, "Bag", 3, OPTIONS, no_report)
    expected = model.pipeline(
        ["Bag"] * 3, guidance_scale=2.0, temperature=0.9, top_k=20, top_p=0.95, min_p=0.01,
        generator=generators(3), output_type="uint8",
    ).images  # fmt: skip
    assert torch.equal(images, expected)
    assert classes == ["Bag"] * 3


def test_an_image_depends_on_its_number_alone(model):
    few, classes = draw(model, ALL_CLASSES, 4, OPTIONS, no_report)
    assert classes == [NAMES[0], NAMES[1], NAMES[2], NAMES[0]]
    assert torch.equal(draw(model, ALL_CLASSES, 7, OPTIONS, no_report)[0][:4], few)
    assert not torch.equal(few[0], few[3])
    other = sampling_options(2.0, 0.9, 20, 0.95, 0.01, 8)
    assert not torch.equal(draw(model, ALL_CLASSES, 4, other, no_report)[0], few)


def test_without_classes_there_is_nothing_to_choose():
    model = tiny_model(num_classes=0)
    images, classes = draw(model, None, 2, sampling_options(1, 1, 0, 1, 0, 7), no_report)
    assert images.shape == (2, 3, 16, 16)
    assert classes == ["", ""]
    assert model.classes == []


def test_kept_rows_are_completed_as_the_pipeline_does(model, image):
    drawn = draw_marked(model, image, below(2, (4, 4)), "Bag", 3, OPTIONS, no_report)
    expected = model.pipeline.complete(
        image.expand(3, -1, -1, -1), 8, ["Bag"] * 3, guidance_scale=2.0, temperature=0.9, top_k=20, top_p=0.95,
        min_p=0.01, generator=generators(3), output_type="uint8",
    ).images  # fmt: skip
    assert torch.equal(drawn, expected)


def test_marked_positions_are_their_pixels():
    mask = pixels_of([1, 6], (4, 4), 4)
    assert mask.sum() == 2 * 16
    assert mask[:4, 4:8].all()
    assert mask[4:8, 8:12].all()
    assert below(4, (4, 4)) == []
    assert pixels_of(below(0, (4, 4)), (4, 4), 4).all()


def test_nothing_marked_is_refused(model, image):
    with pytest.raises(InputError, match="nothing is marked"):
        draw_marked(model, image, [], "Bag", 1, OPTIONS, no_report)


@pytest.mark.parametrize("name", ["Bagg", "99", "", None, 3, ["Bag"], {"a": 1}, "x" * 10_000])
def test_a_class_that_does_not_exist_is_named(model, name):
    with pytest.raises(InputError, match="class") as caught:
        draw(model, name, 1, OPTIONS, no_report)
    assert len(str(caught.value)) < 400


BAD: list[tuple[int, Any]] = [
    (0, -1), (0, float("nan")), (0, None), (1, -0.1), (1, "hot"), (2, 1.5), (2, -1), (2, 2**70), (3, 0), (3, 1.1),
    (4, 2), (5, -1), (5, 2**32), (5, 0.5), (5, True), (5, 10**400),
]  # fmt: skip


@pytest.mark.parametrize(("position", "value"), BAD)
def test_options_out_of_their_range_are_named(position, value):
    given: list[Any] = [1.0, 1.0, 0, 1.0, 0.0, 0]
    given[position] = value
    name = ("guidance_scale", "temperature", "top_k", "top_p", "min_p", "seed")[position]
    with pytest.raises(InputError, match=name) as caught:
        sampling_options(*given)
    assert len(str(caught.value)) < 200


def test_progress_counts_tokens_and_drawing_ends_in_time(model):
    seen: list[tuple[int, int]] = []
    draw(model, "Bag", 1, OPTIONS, within(60, lambda *step: seen.append(step)))
    assert seen == [(token, 16) for token in range(1, 17)]
    with pytest.raises(InputError, match="1 of 16 tokens took the 0 seconds"):
        draw(model, "Bag", 1, OPTIONS, within(0, no_report))


def test_all_classes_in_turn_are_what_a_large_set_holds(model):
    labels = model.pipeline.labels_of([0, 1, 2, 0, 1])
    expected = torch.cat(list(sample_images(model.pipeline, labels, OPTIONS)))
    assert torch.equal(draw(model, ALL_CLASSES, 5, OPTIONS, no_report)[0], expected)
