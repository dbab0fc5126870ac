"""Options that are lists: `fid,kid` is one as `[fid, kid]` is, a single value too; text stays as typed. And flags.

YAML makes numbers, truth values and dates of `[0, no, 1e3]`, which may be the names of classes. A comma before a space
parts no texts: "tench, Tinca tinca" is the name of one class.
"""

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from .listing import alternatives

_NOTHING = ("null", "~", "")


def list_options(configuration: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(dotted name, whether its items are text) of every list among the fields of a dataclass and those inside it.

    What may be a single number as well, such as image_size, is none.
    """
    for name, hint in get_type_hints(configuration).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from list_options(hint, f"{prefix}{name}.")
        else:
            kinds = alternatives(hint)
            for kind in () if int in kinds else kinds:
                if get_origin(kind) in (list, tuple):
                    yield f"{prefix}{name}", get_args(kind)[0] is str


def with_lists(arguments: Sequence[str], lists: Mapping[str, bool]) -> list[str]:
    """A command line (underscores in its options) in which the values of list options are JSON lists.

    A list of texts that is given again, as in `--pipeline one --pipeline two`, has the texts of all.
    """
    changed, option = [], ""
    texts: dict[str, list[str]] = {}  # what each option that is a list of texts has so far
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if option:
            changed.append(_together(texts, option, _as_json(argument, lists[option]), lists[option]))
            option = ""
        elif name.removeprefix("--") in lists and argument.startswith("--"):
            own = name[2:]
            together = _together(texts, own, _as_json(value, lists[own]), lists[own]) if equals else ""
            changed.append(f"{name}={together}" if equals else argument)
            option = "" if equals else own
        else:
            changed.append(argument)
    return changed


def with_flags(arguments: Sequence[str], configuration: type) -> list[str]:
    """A command line in which an option that is true or false, given alone (`--private`), has the value true."""
    flags = {f"--{name}" for name, hint in get_type_hints(configuration).items() if hint is bool}
    words = {"true", "false", "yes", "no", "on", "off"}
    return [
        f"{argument}=true" if argument in flags and after.lower() not in words else argument
        for argument, after in zip_longest(arguments, arguments[1:], fillvalue="")
    ]


def _together(texts: dict[str, list[str]], option: str, value: str, is_text: bool) -> str:
    """The value of a list option, after those that were given before it."""
    try:
        items = json.loads(value) if is_text else None
    except ValueError:
        items = None
    if not isinstance(items, list):  # numbers, and what is no list: the parser says so
        return value
    texts.setdefault(option, []).extend(items)
    return json.dumps(texts[option], ensure_ascii=False)


def _as_json(value: str, is_text: bool) -> str:
    if not is_text:
        if value.strip() in _NOTHING:
            return value
        return value if value.lstrip().startswith("[") else f"[{value}]"
    try:
        items = yaml.load(value, yaml.BaseLoader)
    except yaml.YAMLError:
        items = value
    if value.lstrip().startswith("["):
        texts = isinstance(items, list) and all(isinstance(item, str) for item in items)
        return json.dumps(items, ensure_ascii=False) if texts else value
    return json.dumps(_parted(value), ensure_ascii=False)


def _parted(text: str) -> list[str]:
    return re.split(r",(?!\s)", text)


def read_lists(content: Any, text: str, lists: Mapping[str, bool]) -> Any:
    """The content of a recipe, or of a group of its options, in which the list options are lists.

    Args:
        content: what YAML makes of the text.
        text: YAML.
        lists: as `list_options` gives them; a group may be at any depth of them.
    """
    if not isinstance(content, dict):
        return content
    return _read(content, yaml.load(text, yaml.BaseLoader), "", [(f".{name}", kind) for name, kind in lists.items()])


def _read(value: Any, raw: Any, name: str, lists: Sequence[tuple[str, bool]]) -> Any:
    if isinstance(value, dict) and isinstance(raw, dict):
        return {key: _read(inner, raw.get(str(key)), f"{name}.{key}", lists) for key, inner in value.items()}
    kinds = [is_text for option, is_text in lists if option.endswith(name)]
    if not kinds or value is None or isinstance(value, dict):
        return value
    if kinds[0] and isinstance(raw, str):
        return _parted(raw)
    if kinds[0] and isinstance(raw, list) and all(isinstance(item, str) for item in raw):
        return raw
    if isinstance(value, str) and "," in value:
        return yaml.safe_load(f"[{value}]")
    return value if isinstance(value, list) else [value]
