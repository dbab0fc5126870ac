"""Classes as users give them: whole numbers of any kind and names, in whatever holds them."""

import fractions
import unicodedata
from typing import Any, Literal

import numpy as np
import pytest
import torch
from tiny_pipelines import NAMES, tiny_pipeline

from wvq.pipelines.labels import labels_of
from wvq.tokenizer import InputError

Form = Literal["NFC", "NFD"]


@pytest.mark.parametrize(
    "given",
    [
        [2, 0],
        (np.int64(2), np.uint8(0)),
        torch.tensor([2, 0]),
        torch.tensor([2, 0], dtype=torch.uint8),
        list(torch.tensor([2, 0])),
        np.array([2, 0], dtype=np.int16),
        np.array(["Bag", "Sneaker"]),
        np.array(["Bag", 0], dtype=object),
        ["2", np.str_("Sneaker")],
        range(2, -1, -2),
        {"Bag": 1, "Sneaker": 1}.keys(),
    ],
)
def test_whole_numbers_and_names_of_any_kind(given: Any):
    assert labels_of(given, NAMES, 3).tolist() == [2, 0]


@pytest.mark.parametrize(
    "given", [2, np.int64(2), np.array(2), torch.tensor(2), torch.tensor(2, dtype=torch.int32), "Bag", "2"]
)
def test_a_single_class_is_a_list_of_one(given: Any):
    assert labels_of(given, NAMES, 3).tolist() == [2]


def test_a_name_that_writes_a_number_is_a_name():
    assert labels_of(["7", "1"], ("7", "0", "5"), 3).tolist() == [0, 1]


@pytest.mark.parametrize(
    "given",
    [1.0, [1.0], np.array([1.0]), torch.tensor([1.0]), True, [False], np.array([True]), [[0, 1]], b"Bag", [None],
     torch.zeros(1, 1).long(), fractions.Fraction(1)],
)  # fmt: skip
def test_what_is_neither_a_whole_number_nor_a_name_is_refused(given: Any):
    with pytest.raises(InputError, match=r"is neither a whole number nor a name; valid are 0 to 2|class 66 does not"):
        labels_of(given, NAMES, 3)


def test_the_labels_of_a_batch_can_be_given_to_every_call():
    pipeline = tiny_pipeline()
    images = torch.randint(256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = {"images": images, "labels": torch.tensor([2, 0])}

    def seeded() -> torch.Generator:
        return torch.Generator().manual_seed(0)

    latent: dict[str, Any] = {"output_type": "latent"}
    expected = pipeline([2, 0], generator=seeded(), **latent).images
    assert torch.equal(pipeline(batch["labels"], generator=seeded(), **latent).images, expected)
    for given in (batch["labels"], batch["labels"].numpy()):
        found = pipeline.likelihood(batch["images"], given)
        assert torch.equal(found["bits_per_token"], pipeline.likelihood(images, [2, 0])["bits_per_token"])
        completed = pipeline.complete(images, 4, given, generator=seeded(), **latent).images
        assert torch.equal(completed, pipeline.complete(images, 4, [2, 0], generator=seeded(), **latent).images)
    with pytest.raises(InputError, match="give one for each of 2 images"):
        pipeline.complete(images, 4, torch.tensor([1]))


def test_a_name_of_several_classes_is_refused_and_their_numbers_are_not():
    forms = [unicodedata.normalize(form, "caf\u00e9") for form in ("NFC", "NFD")]
    names = ("crane", "tea", forms[0], "crane", forms[1])
    for name, numbers in (("crane", "0 and 3"), (forms[0], "2 and 4")):
        with pytest.raises(InputError, match=f"class '{name}' is ambiguous: classes {numbers}; give the number"):
            labels_of(["tea", name], names, 5)
    assert labels_of(["tea", 3, "0"], names, 5).tolist() == [1, 3, 0]


@pytest.mark.parametrize("kept", ["NFC", "NFD"])
@pytest.mark.parametrize("asked", ["NFC", "NFD"])
def test_a_name_is_the_same_in_either_form_of_unicode(kept: Form, asked: Form):
    names = (unicodedata.normalize(kept, "caf\u00e9"), "tea")
    assert labels_of(unicodedata.normalize(asked, "caf\u00e9"), names, 2).tolist() == [0]
