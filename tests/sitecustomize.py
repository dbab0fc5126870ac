"""Python imports this at its start where this folder is in PYTHONPATH, as it is in processes that tests start.

There factories are watched as soon as torch is imported, by whatever (device_watch.py).
"""

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class _WhenTorchIsImported:
    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_watch(module: ModuleType) -> None:
                run(module)
                from device_watch import watched_factories

                vars(module).update(watched_factories())

            spec.loader.exec_module = run_and_watch
        return spec


if "WVQ_DEVICE_EXCEPTIONS_USED" in os.environ:
    sys.meta_path.insert(0, _WhenTorchIsImported())
