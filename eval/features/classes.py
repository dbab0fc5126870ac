"""Classes by name: labels of two sets of images are compared only after both were given one numbering."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from wvq.tokenizer.data.names import in_nfc
from wvq.tokenizer.errors import InputError


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of a set of images.

    Attributes:
        labels: (N,) integers, or None for images without classes.
        names: of the labels 0, 1, ...; () where labels have none: each is then called by its number.
        place: what messages call the images.
    """

    labels: Tensor | None
    names: tuple[str, ...]
    place: str

    def by_label(self) -> dict[int, str]:
        """The name of each label that an image has, by label, ascending.

        Raises:
            InputError: for images without classes, a label that has no name though others do, and two labels of one
                name.
        """
        if self.labels is None:
            raise InputError(f"scores by class need labelled images; those of {self.place} have no classes")
        present = self.labels.unique().tolist()
        if self.names and not 0 <= present[0] <= present[-1] < len(self.names):
            raise InputError(
                f"{self.place} has labels from {present[0]} to {present[-1]}, but names for 0 to {len(self.names) - 1}"
            )
        named = {label: in_nfc(self.names[label]) if self.names else str(label) for label in present}
        taken: dict[str, int] = {}
        for label, name in named.items():
            if taken.setdefault(name, label) != label:
                raise InputError(
                    f"classes {taken[name]} and {label} of {self.place} are both called {name!r}; scores by class "
                    "need a name for each"
                )
        return named


def labels_by_name(real: Classes, generated: Classes, same_classes: bool) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Labels of both sides as positions in one tuple of names, and these names, in the order of the reference.

    Args:
        real: of the reference.
        generated: of the images to be scored.
        same_classes: whether each class of the reference must have generated images, too.

    Raises:
        InputError: naming the classes that one side has and the other has not, and as `Classes.by_label`.
    """
    there, here = real.by_label(), generated.by_label()
    names = tuple(there.values())
    unknown = [name for name in here.values() if name not in set(names)]
    undrawn = [name for name in names if name not in set(here.values())] if same_classes else []
    for odd, side in ((unknown, "reference has"), (undrawn, "images to be scored have")):
        if odd:
            raise InputError(
                f"scores by class match classes by name, and the {side} none of {_shown(odd)}: the reference, "
                f"{real.place}, has {_shown(names)}, the images, {generated.place}, have "
                f"{_shown(tuple(here.values()))}{_hint(real, generated)}"
            )
    assert real.labels is not None
    assert generated.labels is not None
    position = {name: index for index, name in enumerate(names)}
    numbered = [
        labels.new_tensor([position[name] for name in named.values()])[labels.unique(return_inverse=True)[1]]
        for labels, named in ((real.labels, there), (generated.labels, here))
    ]
    return numbered[0], numbered[1], names


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def _hint(real: Classes, generated: Classes) -> str:
    bare = [side.place for side in (real, generated) if not side.names]
    if len(bare) != 1:
        return ""
    return f"; classes of {bare[0]} are numbers: if it is an .npz, name them in a classnames.txt beside it, one a line"
