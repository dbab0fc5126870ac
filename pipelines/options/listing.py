"""The options of a declared configuration one by one, as help and completion show them."""

import dataclasses
import re
from collections.abc import Iterator
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints


class Option(NamedTuple):
    """An option: its dotted name, its type, what its field says of it, and whether it is `required`, and so given by
    its place. A group of options has a dataclass for its type."""

    name: str
    hint: Any
    says: str
    required: bool = False

    @property
    def flag(self) -> str:
        return self.name if self.required else "--" + self.name.replace("_", "-")

    @property
    def is_group(self) -> bool:
        return dataclasses.is_dataclass(self.hint)

    @property
    def choices(self) -> list[str]:
        """The values that it can have, where these are a few words."""
        kinds = alternatives(self.hint)
        if bool in kinds:
            return ["true", "false"]
        return [str(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]


def listed_options(configuration: type, prefix: str = "") -> Iterator[Option]:
    """All options of a class made by `declared`, those inside a group after it."""
    said = _field_docstrings(configuration)
    required = {field.name for field in dataclasses.fields(configuration) if _has_no_default(field)}
    for name, hint in get_type_hints(configuration).items():
        yield Option(f"{prefix}{name}", hint, said.get(name, ""), name in required)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from listed_options(hint, f"{prefix}{name}.")


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The types in a union, without None; otherwise the type alone."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return tuple(kind for kind in kinds if kind is not type(None))


def _has_no_default(field: dataclasses.Field) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _field_docstrings(configuration: type) -> dict[str, str]:
    """Those of base classes as well, where a class does not say it anew."""
    said: dict[str, str] = {}
    for each in reversed(configuration.__mro__):
        said |= dict(re.findall(r"^    (\w+): (.*)$", each.__doc__ or "", re.MULTILINE))
    return said
