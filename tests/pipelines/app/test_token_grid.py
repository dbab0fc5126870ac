"""Codes as text and back, replaced and decoded, and their neighbours."""

import pytest
import torch
from app_models import tiny_model, two_codes_model
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from wvq.pipelines.app.models import Model
from wvq.pipelines.app.token_grid import (
    around,
    as_text,
    code_at,
    decode,
    encode,
    from_text,
    neighbours,
    position_of,
    replaced,
)
from wvq.tokenizer import InputError

MODELS = (tiny_model(), two_codes_model())


@pytest.fixture(params=MODELS, ids=lambda model: model.name)
def model(request: pytest.FixtureRequest) -> Model:
    return request.param


@given(data=st.data(), which=st.sampled_from(MODELS))
def test_text_is_read_back(data, which):
    config = which.config
    codes = data.draw(st.lists(st.integers(0, 31), min_size=config.num_tokens, max_size=config.num_tokens))
    indices = torch.tensor(codes).view(config.indices_shape)
    assert torch.equal(from_text(as_text(indices), config), indices)


def test_text_has_a_line_for_a_row():
    assert as_text(torch.tensor([[1, 2], [3, 4]])) == "1 2\n3 4"
    assert as_text(torch.tensor([[[1, 2]], [[3, 4]]])) == "1/2\n3/4"


@pytest.mark.parametrize(
    "text",
    ["", "1", "1 " * 17, "1/1 " * 16, "-1 " * 16, "32 " * 16, "x " * 16, "\u0661 " * 16, "1 " * 10**6, None, [1], 7],
)
def test_what_are_no_codes_is_refused(text):
    with pytest.raises(InputError) as caught:
        from_text(text, MODELS[0].config)
    assert len(str(caught.value)) < 200


def image_of(model: Model) -> Tensor:
    return torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_replacing_changes_one_code(model):
    tokenizer, config = model.pipeline.tokenizer, model.config
    indices = encode(tokenizer, image_of(model))
    codebook = config.codes_per_position - 1
    cell, part, code = code_at(indices, "6", codebook, config)
    copies = replaced(indices, cell, part, torch.tensor([code, (code + 1) % 32]), config)
    assert torch.equal(copies[0], indices)
    assert (copies[1] != indices).sum() == 1
    assert code_at(copies[1], 6, codebook, config) == (6, codebook, (code + 1) % 32)
    assert torch.equal(decode(tokenizer, copies)[:1], decode(tokenizer, indices[None]))


@pytest.mark.parametrize("position", ["", None, "16", 16, -1, "-1", "a", 1.5, [3], "9" * 50])
def test_a_position_outside_the_grid_is_refused(position):
    with pytest.raises(InputError, match="position"):
        position_of(position, MODELS[0].config)


def test_neighbours_are_the_nearest_codes():
    codebook = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    found = neighbours(codebook, 7, 12)
    order = torch.cdist(codebook[7:8].double(), codebook.double())[0].argsort()
    assert torch.equal(found, order[1:13])
    assert len(neighbours(codebook[:4], 1, 12)) == 3


def test_what_is_around_a_position_is_cut_at_the_border():
    images = torch.arange(16 * 16).view(1, 1, 16, 16)
    config = MODELS[0].config
    assert torch.equal(around(images, 5, config), images[:, :, :12, :12])
    assert torch.equal(around(images, 0, config), images[:, :, :8, :8])
    assert torch.equal(around(images, 15, config), images[:, :, 8:, 8:])
