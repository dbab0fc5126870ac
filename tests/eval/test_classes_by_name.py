"""Scores by class of any two sources: right by the names of the classes, or refused by name."""

import tempfile
from pathlib import Path

import pytest
import torch
from feature_sets import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_sources import COLOURS, KINDS, Mean, pictures, write_source

from wvq.eval import FeatureSet, extract_features, open_images, score_features
from wvq.eval.features.classes import Classes, labels_by_name
from wvq.eval.metrics.frechet import frechet_distance, mean_and_factor
from wvq.tokenizer import InputError

COUNT = 5
NAMES = sorted(COLOURS)


@st.composite
def sources(draw: st.DrawFn) -> tuple[str, dict[str, str], list[str]]:
    """(kind, the colour of each class by the class's name, the source's own numbering of names)."""
    kind = draw(st.sampled_from(KINDS))
    present = draw(st.lists(st.sampled_from(NAMES), min_size=2, max_size=4, unique=True))
    renamed = draw(st.lists(st.sampled_from(NAMES), min_size=len(present), max_size=len(present), unique=True))
    called = dict(zip(present, present if draw(st.integers(0, 3)) else renamed, strict=True))
    names = draw(st.permutations(NAMES if draw(st.booleans()) else list(called.values())))
    return kind, {name: colour for colour, name in called.items()}, names


@settings(max_examples=60, deadline=None)
@given(sources(), sources())
def test_a_score_by_class_is_right_by_name_or_refused_by_name(
    real: tuple[str, dict[str, str], list[str]], generated: tuple[str, dict[str, str], list[str]]
) -> None:
    sides, drawn = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, (kind, colours, names) in enumerate((real, generated)):
            images = pictures(colours, COUNT, seed=number)
            called = {name: str(names.index(name)) if kind == "npz of numbers" else name for name in colours}
            drawn.append({called[name]: (colours[name], some) for name, some in images.items()})
            source = open_images(write_source(kind, Path(folder) / str(number), images, names))
            sides.append(extract_features(source, Mean(), progress=False))
    there, here = drawn
    unknown = [name for name in here if name not in there]

    def scored(score: str) -> dict:
        return score_features(sides[0], sides[1], [score], allow_few_images=True)[score]

    if unknown:
        with pytest.raises(InputError, match="the reference has none of") as refused:
            scored("class-accuracy")
        assert all(name in str(refused.value) for name in unknown)
    else:
        colours = {colour: name for name, (colour, _) in there.items()}
        right = sum(colours.get(colour) == name for name, (colour, _) in here.items())
        if all(colour in colours for colour, _ in here.values()):  # else the nearest class is none of the names'
            assert scored("class-accuracy")["value"] == pytest.approx(right / len(here))
    if here.keys() != there.keys():
        with pytest.raises(InputError, match="scores by class match classes by name, and the"):
            scored("class-fid")
    else:
        by_class = scored("class-fid")["by_class"]
        assert by_class.keys() == here.keys()
        for name, value in by_class.items():
            means = [torch.from_numpy(side[name][1]).float().mean((1, 2)) for side in (there, here)]
            expected = frechet_distance(*mean_and_factor(means[0]), *mean_and_factor(means[1]))
            assert value == pytest.approx(float(expected), rel=1e-3, abs=1e-3)


def features(labels: list[int], names: tuple[str, ...], place: str) -> FeatureSet:
    return FeatureSet(normal(len(labels), 2, 0), torch.tensor(labels), None, {"name": "x"}, {"source": place}, names)


def test_numbers_are_names_only_of_classes_that_are_called_so() -> None:
    numbers, folders = features([3, 10, 3, 10], (), "a.npz"), features([0, 0, 1, 1], ("3", "10"), "folders")
    assert score_features(folders, numbers, ["class-fid"], allow_few_images=True)["class-fid"]["by_class"].keys() == {
        "3", "10"
    }  # fmt: skip
    other = features([0, 0, 1, 1], ("cat", "dog"), "photos")
    with pytest.raises(InputError, match=r"none of 3, 10: .* classes of a\.npz are numbers: .* a classnames\.txt"):
        score_features(other, numbers, ["class-accuracy"])


def test_names_that_are_taken_twice_or_missing_are_refused() -> None:
    names = ("crane", "maillot", "crane")
    bird, machine = (Classes(torch.tensor([label, 1]), names, "photos") for label in (0, 2))
    assert labels_by_name(bird, machine, same_classes=True)[2] == ("crane", "maillot"), "each has one crane"
    both = Classes(torch.tensor([0, 1, 2]), names, "photos")
    with pytest.raises(InputError, match="classes 0 and 2 of photos are both called 'crane'"):
        labels_by_name(both, bird, same_classes=False)
    with pytest.raises(InputError, match="photos has labels from 0 to 3, but names for 0 to 2"):
        labels_by_name(Classes(torch.tensor([0, 3]), names, "photos"), bird, same_classes=False)


def test_letters_in_other_code_points_are_the_same_name() -> None:
    of_a_mac, of_others = (Classes(torch.tensor([0]), (name,), "here") for name in ("cafe\u0301", "caf\u00e9"))
    assert labels_by_name(of_a_mac, of_others, same_classes=True)[2] == ("caf\u00e9",)
