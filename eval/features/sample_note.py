"""samples.json, what `wvq sample` says of the images in its folder: which class each was drawn from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.untrusted import read_json

NOTE_FILE = "samples.json"


@dataclass(frozen=True, eq=False)
class SampleNote:
    """The classes of images 0 to N - 1.

    Attributes:
        labels: (N,) int64, or None for a prior without classes, of which all are 0, without a name.
        class_names: what they mean; () where they are but numbers.
    """

    labels: Tensor | None
    class_names: tuple[str, ...]


def read_sample_note(folder: Path) -> SampleNote | None:
    """The samples.json of a folder that `wvq sample` wrote; None without one, and for what others call so.

    Raises:
        InputError: for one that cannot be read, and labels or names that are none.
    """
    path = folder / NOTE_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict) or not {"pipeline", "labels"} <= content.keys():
        return None
    labels, names = content["labels"], content.get("class_names", [])
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label < 2**31 for label in labels):
        raise InputError(f"{path} has labels {labels!r:.60}; they must be a list of whole numbers from 0")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"{path} has class_names {names!r:.60}; they must be a list of text")
    names = names or _names_of_images(labels, content.get("classes_of_images"))
    if not names and not any(labels):
        return SampleNote(None, ())
    return SampleNote(torch.tensor(labels, dtype=torch.int64), tuple(names))


def _names_of_images(labels: list[int], of_images: Any) -> list[str]:
    """Names by label from those of each image, which folders of earlier versions have; [] where these are numbers."""
    if not isinstance(of_images, list) or len(of_images) != len(labels):
        return []
    named = {label: name for label, name in zip(labels, of_images, strict=True) if isinstance(name, str)}
    if named.keys() != set(labels) or max(labels, default=0) > 2**20:
        return []
    undrawn = "a class without an image"  # no image has its label, so that nothing is called so
    return [named.get(label, undrawn) for label in range(max(named, default=-1) + 1)]
