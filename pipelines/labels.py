"""Classes as users give them, by number or by name, as the labels of a prior."""

import difflib
import operator
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError

ClassLabels = SupportsIndex | str | Sequence[SupportsIndex | str] | npt.NDArray[Any] | Tensor
"""One class or several: names, and whole numbers of any kind, those of numpy and torch among them."""


def labels_of(given: ClassLabels, class_names: Sequence[str], num_classes: int) -> Tensor:
    """Labels (N,), int64, of classes.

    Names are compared in Unicode's composed form; a text that is no name stands for the number that it writes.

    Args:
        given: the classes; an array or a tensor has one axis or none.
        class_names: names of the labels 0, 1, ...; () for a prior without names.
        num_classes: of the prior.

    Raises:
        InputError: for a class that does not exist (near matches are suggested), for a name that several classes have,
            and for what is neither a whole number nor a name.
    """
    values = given.tolist() if isinstance(given, Tensor | np.ndarray) else given
    if isinstance(values, str | SupportsIndex) or not isinstance(values, Iterable):
        values = [values]
    labels = [_label_of(value, class_names, num_classes) for value in values]
    return torch.tensor(labels, dtype=torch.int64)


def names_in_index(index: Mapping[str, Any]) -> list[str]:
    """The class names that a model_index.json has, by number: its id2label, as in diffusers; [] without any.

    Raises:
        InputError: for names that are no text, or not those of the numbers from 0 on.
    """
    named = index.get("id2label", {})
    numbered = isinstance(named, dict) and [*named] == [str(number) for number in range(len(named))]
    names = [*named.values()] if numbered else named
    if "class_names" in index:  # in folders from before diffusers could load them: it takes any list for a component
        names = index["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InputError(f"model_index.json has the class names {names!r:.60}; they must be a list of strings")
    return names


def _label_of(given: Any, names: Sequence[str], num_classes: int) -> int:
    if isinstance(given, str):
        composed = _composed(given)
        named = [label for label, name in enumerate(names) if _composed(name) == composed]
        if len(named) > 1:
            raise InputError(f"class '{given}' is ambiguous: classes {' and '.join(map(str, named))}; give the number")
        if named:
            return named[0]
    if isinstance(given, str) and not given.removeprefix("-").isdecimal():
        near = difflib.get_close_matches(given, names, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else f"valid are {', '.join(names) or 'none'}"
        raise InputError(f"class '{given}' does not exist; {hint}")
    try:
        label = int(given) if isinstance(given, str) else operator.index(given)
    except TypeError:
        label = None
    if label is None or isinstance(given, bool):
        raise InputError(f"class {given!r:.60} is neither a whole number nor a name; valid are 0 to {num_classes - 1}")
    if not 0 <= label < num_classes:
        raise InputError(f"class {label} does not exist; this prior has classes 0 to {num_classes - 1}")
    return label


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)  # folders from a Mac may be spelt in the other form
