"""What the names of splits and classes mean: one rule for folders, tables and archives, in memory and streamed."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from ..errors import InputError

Label = int | str | None  # as a source stores it, text in NFC; None where an image has none

# In any case; the first one present is taken.
EVALUATION_NAMES = ("evaluation", "eval", "validation", "valid", "val", "dev", "test", "testing")
SPLIT_NAMES = ("train", *EVALUATION_NAMES)
NO_CLASSES = "; to train without classes name a label_column that is absent"


def split_of(name: str) -> str | None:
    """Which of `SPLIT_NAMES` a folder, a table or a word of a file's name is called; None for any other name."""
    known = name.lower().removeprefix("partial-")  # the hub calls a split that it converted in part so
    known = "train" if known == "training" else known
    return known if known in SPLIT_NAMES else None


def train_and_evaluation(names: Iterable[str], place: str) -> list[str]:
    """Of these splits the train one, or the only one, and the first of `EVALUATION_NAMES` that there is.

    Raises:
        InputError: for several splits of which none is called train, and for two names of one split.
    """
    names = sorted(names, key=lambda name: (SPLIT_NAMES.index(split_of(name) or "testing"), name))
    if len(names) > 1 and split_of(names[0]) != "train":
        raise InputError(f"{place} has the splits {', '.join(names)}; one of them must be called train")
    chosen = names[:1] + [name for name in names[1:] if split_of(name) in EVALUATION_NAMES][:1]
    for name in chosen:
        twins = [other for other in names if split_of(other) == split_of(name)]
        if split_of(name) and len(twins) > 1:
            raise InputError(f"{place} has {' and '.join(twins)}, which are names of one split; rename or merge them")
    return chosen


def in_nfc(name: str) -> str:
    """A name as names are compared: a Mac writes the same letters in other code points (NFD) than others (NFC)."""
    return unicodedata.normalize("NFC", name)


def as_label(value: Label) -> Label:
    """A stored label as labels are compared."""
    return in_nfc(value) if isinstance(value, str) else value


def in_order(names: Iterable[str]) -> list[str]:
    """Distinct names, by value where all are whole numbers (so that class 2 of 12 is called "2"), else as text."""
    distinct = sorted(set(names))
    whole = all(re.fullmatch(r"-?[0-9]{1,999}", name) for name in distinct)
    return sorted(distinct, key=int) if whole else distinct


def class_positions(
    labels: Sequence[Collection[Label]], names: Sequence[str], column: str, place: str
) -> tuple[tuple[str, ...], dict[Label, int] | None]:
    """(class names, the class of each label); ((), None) where no image has a label.

    Args:
        labels: all of the train split and, if there is one, of the evaluation split.
        names: of the classes, if the source has such a list: labels are then places in it, or names in it.
        column, place: how messages call the labels and the source.

    Raises:
        InputError: for labels that are no class of the train split.
    """
    found = set(labels[0]) - {None}
    class_names = tuple(names) or tuple(in_order(map(str, found)))
    listed: dict[Label, int] = {name: position for position, name in enumerate(class_names)}
    if names:
        positions: dict[Label, int] = {position: position for position in range(len(names))} | listed
    else:
        positions = {value: listed[str(value)] for value in sorted(found, key=lambda value: listed[str(value)])}
    if unknown := set().union(*labels) - {None} - positions.keys():
        shown = ", ".join(sorted(map(repr, unknown))[:5])
        raise InputError(
            f"label column {column!r} of {place} has values that are no class of its train split: {shown}{NO_CLASSES}"
        )
    return class_names, positions or None
