"""Options that are lists: a single value is a list of one, and what is text stays as it was typed.

YAML makes numbers, truth values and dates of `[0, no, 1e3]`, which may be the names of classes.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

import yaml


def list_options(configuration: type, prefix: str = "") -> Iterator[tuple[str, bool]]:
    """(dotted name, whether its items are text) of every list among the fields of a dataclass and those inside it."""
    for name, hint in get_type_hints(configuration).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from list_options(hint, f"{prefix}{name}.")
        elif get_origin(hint) is list or (get_origin(hint) is tuple and get_args(hint)[1:] == (...,)):
            yield f"{prefix}{name}", get_args(hint)[0] is str


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
        return value if value.lstrip().startswith("[") else f"[{value}]"
    try:
        items = yaml.load(value, yaml.BaseLoader)
    except yaml.YAMLError:
        items = value
    if value.lstrip().startswith("["):
        texts = isinstance(items, list) and all(isinstance(item, str) for item in items)
        return json.dumps(items, ensure_ascii=False) if texts else value
    return json.dumps([value], ensure_ascii=False)


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
        return [raw]
    if kinds[0] and isinstance(raw, list) and all(isinstance(item, str) for item in raw):
        return raw
    return value if isinstance(value, list) else [value]
