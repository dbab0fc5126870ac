"""The sorted map of a codebook, what its codes decode to, and how often they are chosen."""

import itertools

import pytest
import torch
from app_models import no_report, tiny_model, two_codes_model

from wvq.pipelines.app import code_map
from wvq.pipelines.app.code_map import CodeMaps, appearance, map_picture, sorted_codes
from wvq.pipelines.app.usage import count_usage, usage_picture
from wvq.tokenizer import CodebookUsage, InputError
from wvq.tokenizer.data import to_model


@pytest.mark.parametrize("size", [2, 5, 50, 64])
def test_the_map_holds_every_code_once_in_order(size):
    codebook = torch.randn(size, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5, 0.1, 2])
    cells = sorted_codes(codebook)
    assert torch.equal(cells[cells >= 0].sort().values, torch.arange(size))
    assert cells.numel() - size < len(cells)
    centred = codebook.double() - codebook.double().mean(dim=0)
    first = centred @ torch.linalg.eigh(centred.mT @ centred)[1][:, -1]
    columns = [first[column[column >= 0]] for column in cells.unbind(dim=1)]
    assert all(left.max() <= right.min() for left, right in itertools.pairwise(columns))


def test_a_larger_codebook_is_shown_in_part(monkeypatch):
    monkeypatch.setattr(code_map, "MOST_CELLS", 9)
    cells = sorted_codes(torch.arange(100.0)[:, None])
    assert cells.shape == (3, 3)
    assert cells.mT.flatten().diff().abs().min() > 5


def test_cells_show_their_codes():
    cells = torch.tensor([[2, 0], [1, -1]])
    pictures = torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1, 1).expand(-1, 1, 2, 2)
    picture = map_picture(cells, pictures)
    assert picture.shape == (1, 4, 4)
    assert picture[0, ::2, ::2].tolist() == [[10, 20], [30, 255]]


@pytest.mark.parametrize("model", [tiny_model(), two_codes_model()], ids=lambda model: model.name)
def test_each_code_has_its_own_appearance(model):
    codes = torch.arange(32)
    pictures = appearance(model.pipeline.tokenizer, 0, codes, no_report)
    assert pictures.shape == (32, 3, 4, 4)
    assert len(pictures.flatten(1).unique(dim=0)) > 25
    assert torch.equal(appearance(model.pipeline.tokenizer, 0, codes[5:6], no_report)[0], pictures[5])


def test_maps_are_made_once():
    maps, model, steps = CodeMaps(), tiny_model(), []
    first = maps.of(model, 0, lambda *step: steps.append(step))
    assert steps == [(32, 32)]
    assert maps.of(model, 0, lambda *step: steps.append(step)) is first
    assert steps == [(32, 32)]
    assert first[1].shape[1:] == (4 * len(first[0]), 4 * first[0].shape[1])


def test_usage_is_that_of_all_images(fashion_folder):
    model = tiny_model(data=fashion_folder)
    assert model.test_images is not None
    usage = count_usage(model, 100, no_report)
    images = model.test_images.take(torch.arange(100))["images"]
    expected = CodebookUsage(32)
    expected.update(model.pipeline.tokenizer.encode(to_model(images)))
    assert torch.equal(usage.counts[0], expected.histogram)
    assert (usage.images, usage.tokens) == (100, 1600)
    dead = int((expected.histogram == 0).sum())
    assert f"{32 - dead} of 32 codes used" in str(usage)
    assert f"{dead} dead" in str(usage)
    assert "only 0.5 tokens for each code" in str(count_usage(model, 1, no_report))


def test_dead_codes_are_red_and_empty_cells_white():
    picture = usage_picture(torch.tensor([[0, 1], [2, -1]]), torch.tensor([0, 5, 500]))
    assert picture[:, 0, 0].tolist() == [214, 39, 40]
    assert picture[:, 1, 1].tolist() == [255, 255, 255]
    assert picture[:, 1, 0].tolist() == [8, 48, 107]
    assert picture[0, 0, 1] > picture[0, 1, 0]


def test_without_test_images_nothing_is_counted():
    with pytest.raises(InputError, match="no test images"):
        count_usage(tiny_model(), 10, no_report)
