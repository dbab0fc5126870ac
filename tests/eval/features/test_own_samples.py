"""What `wvq sample` writes, scored as it is: the labels that were drawn, by the names of the classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from labelled_sources import png
from tiny_pipelines import tiny_pipeline

from wvq.eval import open_images
from wvq.eval.features.sample_note import read_sample_note
from wvq.pipelines.generation import Sampling
from wvq.pipelines.sample import sample
from wvq.tokenizer import InputError


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("own") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


def labels_of(folder: Path) -> list[int]:
    labels = open_images(folder).labels
    assert labels is not None
    return labels.tolist()


@pytest.mark.parametrize("form", ["small", "folder", "npz", "webdataset"])
def test_every_form_has_the_labels_that_were_drawn(saved: str, form: str, tmp_path: Path) -> None:
    how: Any = {"num_images_per_class": 2} if form == "small" else {"num_images": 6, "format": form}
    folder = sample(Sampling(pipeline=saved, output_dir=str(tmp_path / "out"), **how))
    source = open_images(folder)
    expected = [0, 0, 1, 1, 2, 2] if form == "small" else [0, 1, 2, 0, 1, 2]
    assert labels_of(folder) == expected
    assert source.__getitems__(range(6))["labels"].tolist() == expected
    assert source.class_names == tiny_pipeline().class_names
    assert source.description["classes"] == 3
    if form in ("small", "folder"):
        assert labels_of(folder / "images") == expected, "also by the pictures alone"


def test_an_interrupted_set_keeps_each_label_with_its_picture(saved: str, tmp_path: Path) -> None:
    folder = sample(Sampling(pipeline=saved, output_dir=str(tmp_path / "out"), num_images=6))
    (folder / "images" / "000001.png").unlink()
    assert labels_of(folder) == [0, 2, 0, 1, 2]
    (folder / "images" / "extra.png").write_bytes((folder / "images" / "000000.png").read_bytes())
    with pytest.raises(InputError, match=r"extra\.png is none of the 6 images of the samples\.json"):
        open_images(folder)


def write_folder(folder: Path, note: object) -> Path:
    (folder / "images").mkdir(parents=True)
    for number in range(4):
        (folder / "images" / f"{number:06d}.png").write_bytes(png(np.full((4, 4, 3), number, np.uint8)))
    (folder / "samples.json").write_text(json.dumps(note))
    return folder


def test_notes_of_earlier_versions_are_read(tmp_path: Path) -> None:
    of_images = {"pipeline": "p", "labels": [2, 2, 0, 0], "classes_of_images": ["dog", "dog", "ant", "ant"]}
    small, large, free = (
        open_images(write_folder(tmp_path / name, note))
        for name, note in (
            ("small", of_images),
            ("large", {"pipeline": "p", "labels": [0, 1, 0, 1]}),
            ("free", {"pipeline": "p", "labels": [0, 0, 0, 0], "classes_of_images": [0, 0, 0, 0]}),
        )
    )
    assert labels_of(tmp_path / "small") == [2, 2, 0, 0]
    assert (small.class_names[0], small.class_names[2]) == ("ant", "dog")
    assert (labels_of(tmp_path / "large"), large.class_names) == ([0, 1, 0, 1], ())
    assert free.labels is None, "a prior without classes"


def test_a_samples_json_of_other_tools_is_none_of_ours(tmp_path: Path) -> None:
    for number, note in enumerate(({"samples": [{"filepath": "a"}]}, [1, 2], {"labels": ["cat"]})):
        assert open_images(write_folder(tmp_path / str(number), note)).class_names == ("images",)
    for number, labels in enumerate((["cat"], [True], [-1], [0.5], 3, [2**40])):
        with pytest.raises(InputError, match=r"samples\.json has labels .*; they must be a list of whole numbers"):
            open_images(write_folder(tmp_path / f"bad-{number}", {"pipeline": "p", "labels": labels}))
    with pytest.raises(InputError, match="class_names"):
        read_sample_note(write_folder(tmp_path / "names", {"pipeline": "p", "labels": [1], "class_names": [1]}))


def test_the_same_pictures_in_other_classes_are_another_set(tmp_path: Path) -> None:
    about = {"pipeline": "p", "class_names": ["a", "b"]}
    one, other = (
        open_images(write_folder(tmp_path / str(labels[0]), about | {"labels": labels}))
        for labels in ([0, 1, 0, 1], [1, 1, 0, 1])
    )
    assert one.description["fingerprint"] != other.description["fingerprint"], "features are kept by it"
