"""Every public name says what it is: a docstring, shapes where there are tensors, errors where some are raised."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from public_names import PACKAGES, public_objects
from torch import Tensor

from wvq.eval import feature_scores
from wvq.tokenizer import InputError
from wvq.tokenizer.quantizers.base import Quantizer

# (N, D), (..., M), (B, D, *spatial), (N,): letters, numbers and products of them
SHAPE = re.compile(r"\((?:\.{3}|\*spatial|\w|\w \* \w)(?:, (?:\.{3}|\*spatial|\w|\w \* \w))*,?\)|scalar|any shape")
TENSOR = re.compile(r"(?<!\w)Tensor\b")


def is_public(name: str) -> bool:
    return not name.startswith("_") or name == "__call__"


def members(value: type) -> Iterator[tuple[str, Callable | property]]:
    """The public methods and properties of a class that are written in this project."""
    for name in filter(is_public, dir(value)):
        owner = next(base for base in value.__mro__ if name in vars(base))
        member = vars(owner)[name]
        if owner.__module__.startswith("wvq.") and isinstance(member, (property, classmethod, staticmethod, Callable)):
            yield f"{value.__name__}.{name}", getattr(value, name)


def written(value: Any) -> str:
    """The code of a function, of a property, or of what makes an object of a class."""
    if not inspect.isclass(value):
        function: Any = value.fget if isinstance(value, property) else value
        return inspect.getsource(inspect.unwrap(function))
    constructors = (vars(value).get("__init__"), vars(value).get("__post_init__"))
    return "".join(
        inspect.getsource(function)
        for function in constructors
        if inspect.isfunction(function) and not function.__code__.co_filename.startswith("<")  # a dataclass's own
    )


def faults(label: str, value: Any) -> Iterator[str]:
    document = inspect.getdoc(value)
    if not document:
        yield f"{label} has no docstring"
        return
    if "raise InputError" in written(value) and "Raises:" not in document:
        yield f"{label} does not say when it raises InputError"
    signature = re.sub(r"dict\[str, [^\]]*\]", "", str(inspect.signature(value))) if inspect.isroutine(value) else ""
    if TENSOR.search(signature) and not SHAPE.search(document):
        yield f"{label} names no shape"
    is_quantizer = inspect.isclass(value) and issubclass(value, Quantizer)
    if is_quantizer and not re.search(r"arXiv \d{4}\.\d{5}|Source: this project|et al\., \d{4}", document):
        yield f"{label} names no source"
    if inspect.isclass(value):
        for name, member in members(value):
            yield from faults(name, member)


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_are_documented(package: str) -> None:
    documented = {name: value for name, value in public_objects(package).items() if callable(value)}
    assert [fault for name, value in documented.items() for fault in faults(name, value)] == []


def test_public_data_have_a_text_below_them() -> None:
    names = [name for package in PACKAGES for name, value in public_objects(package).items() if not callable(value)]
    assert names == ["FEATURE_SCORES"]
    assert re.search(r'^FEATURE_SCORES\b.*?^}\n"""', inspect.getsource(feature_scores), re.MULTILINE | re.DOTALL)


def test_faults_are_found() -> None:
    def quantize(z: Tensor) -> Tensor:
        """Quantize z."""
        raise InputError(f"z is {z}")

    assert list(faults("quantize", quantize)) == [
        "quantize does not say when it raises InputError",
        "quantize names no shape",
    ]
