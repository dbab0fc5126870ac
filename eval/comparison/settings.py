"""Settings of an ablation: fields of both stages' training by name, the grid of their values, and how they are set."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser

from wvq.tokenizer import InputError
from wvq.tokenizer.quantizers.registry import quantizer_parameters

OPTIONS = "tokenizer.model.quantizer_options"
_SET_FOR_EACH_RUN = {"output_dir", "data", "seed", "log_with", "tokenizer", "tokens_dir"}
_SET_BY_METHOD_AND_DATA = {"quantizer", "quantizer_options", "image_size", "channels"}


@dataclass(frozen=True)
class FieldNames:
    """The fields that a setting may change, `full` dotted name -> type; a user may leave out what is before a name."""

    full: dict[str, Any]

    def resolve(self, name: str) -> str:
        """The full name of a field.

        Raises:
            InputError: if there is no field of that name, or there are several.
        """
        found = self._ending(name)
        if len(found) > 1:
            raise InputError(f"settings have the field '{name}', which may be {' or '.join(found)}")
        if not found:
            short = [self.shorten(field) for field in self.full]
            near = difflib.get_close_matches(name, short, n=1)
            hint = f" (did you mean '{near[0]}'?)" if near else ""
            raise InputError(f"settings have the unknown field '{name}'{hint}; valid are {', '.join(short)}")
        return found[0]

    def shorten(self, full: str) -> str:
        """The shortest end of a full name that means this field alone."""
        parts = full.split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts) - 1, -1, -1))
        return next(end for end in ends if self._ending(end) == [full])

    def _ending(self, name: str) -> list[str]:
        return [field for field in self.full if field == name or field.endswith(f".{name}")]


def field_names(stages: dict[str, Any], quantizers: Iterable[tuple[str, Mapping[str, Any]]]) -> FieldNames:
    """Fields of the stages' training configurations, by the stage's name, and options of these quantizers.

    A quantizer is given by its name and the options that it has in the recipe.
    """
    full: dict[str, Any] = {}
    for stage, config in stages.items():
        for name, hint in get_type_hints(type(config)).items():
            inner = getattr(config, name)
            if name == "model":
                hints = get_type_hints(type(inner))
                full |= {f"{stage}.model.{n}": hints[n] for n in hints if n not in _SET_BY_METHOD_AND_DATA}
            elif name not in _SET_FOR_EACH_RUN:
                full[f"{stage}.{name}"] = hint
    for quantizer, options in quantizers:
        parameters = quantizer_parameters(quantizer, options)
        full |= {f"{OPTIONS}.{name}": parameter.annotation for name, parameter in parameters.items()}
    return FieldNames(full)


def option_defaults(quantizer: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a quantizer that has these in the recipe, and their values by default."""
    return {name: parameter.default for name, parameter in quantizer_parameters(quantizer, options).items()}


def expand(settings: dict[str, Any], names: FieldNames) -> dict[str, list[dict[str, Any]]]:
    """The settings of every study, by full field names: all combinations of its values, the last field varying fastest.

    `settings` are {study: {field: value or list of values}}.

    Raises:
        InputError: for a study without fields, an unknown field, a field without values or a value of another type.
    """
    studies = {}
    for study, fields in settings.items():
        if not isinstance(fields, dict) or not fields:
            raise InputError(f"settings.{study} is {fields!r}; give {{field: value or list of values}}")
        values = {}
        for name, given in fields.items():
            full = names.resolve(name)
            choices = given if isinstance(given, Sequence) and not isinstance(given, str) else [given]
            if not choices:
                raise InputError(f"settings.{study}.{name} has no values; give at least one")
            values[full] = [_checked(value, names.full[full], f"settings.{study}.{name}") for value in choices]
        studies[study] = [dict(zip(values, chosen, strict=True)) for chosen in product(*values.values())]
    return studies


def _checked(value: Any, hint: Any, name: str) -> Any:
    """The value as its field's type has it, by the rules of the command line."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": value}).value
    except (ArgumentError, TypeError, ValueError) as error:
        wanted = getattr(hint, "__name__", str(hint))
        raise InputError(
            f"{name} has the value {value!r}, which is no {wanted}; a field that holds a list needs a list of lists"
        ) from error


def with_values(config: Any, values: dict[str, Any]) -> Any:
    """A copy of nested dataclasses and dictionaries with the values set, by dotted names."""
    changes = {}
    for name in dict.fromkeys(full.split(".")[0] for full in values):
        inner = {full.removeprefix(f"{name}."): v for full, v in values.items() if full.startswith(f"{name}.")}
        changes[name] = with_values(_get(config, name), inner) if inner else values[name]
    return config | changes if isinstance(config, dict) else dataclasses.replace(config, **changes)


def value_of(config: Any, name: str) -> Any:
    """The value under a dotted name in nested dataclasses and dictionaries."""
    for part in name.split("."):
        config = _get(config, part)
    return config


def _get(config: Any, name: str) -> Any:
    return config[name] if isinstance(config, dict) else getattr(config, name)
