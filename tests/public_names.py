"""What the four packages export."""

import importlib
from typing import Any

PACKAGES = ("wvq.tokenizer", "wvq.prior", "wvq.pipelines", "wvq.eval")


def public_objects(package: str) -> dict[str, Any]:
    """The objects of a package's `__all__` by their names."""
    module = importlib.import_module(package)
    return {name: getattr(module, name) for name in module.__all__}
