"""A command's options without its models: configuration classes made from their source, their modules not imported.

Modules that define configurations import torch and more, which takes seconds; a mistyped option should not. Of such a
module only the definitions that a configuration needs are run: its fields with their types and defaults, and what these
are made of. Methods are left out, so that nothing is checked before `constructed` makes the real thing.
"""

import ast
import dataclasses
import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "wvq"
_MODULES: dict[type, str] = {}  # of the declared classes


def declared(path: str) -> type:
    """The dataclass "module:Class" without its methods, its docstring followed by those of its fields as "Args"."""
    module, _, name = path.partition(":")
    return _module(module)[name]


def constructed(value: Any) -> Any:
    """A value in which every object of a declared class, at any depth, is one of the class itself.

    Raises:
        InputError: for values that the class refuses.
    """
    if isinstance(value, dict):
        return {key: constructed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(constructed, value))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    own = getattr(importlib.import_module(_MODULES[type(value)]), type(value).__name__)
    return own(**{field.name: constructed(getattr(value, field.name)) for field in dataclasses.fields(value)})


class _Elsewhere:
    """What a definition names and no field needs: a class, a function, something of another library."""


class _Definitions(dict[str, Any]):
    """The names of a module, each defined when it is first asked for; the globals that its definitions run in."""

    def __init__(self, name: str):
        # jsonargparse imports the modules of classes, by names without dots as they are
        self._importable = ModuleType(f"declared_{name.replace('.', '_')}")
        sys.modules[self._importable.__name__] = self._importable
        super().__init__(__name__=self._importable.__name__)
        self._name, path = name, _file(name)
        self._package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        body = ast.parse(path.read_text()).body
        body += [inner for each in body if isinstance(each, ast.If) for inner in each.body]  # if TYPE_CHECKING
        self.known = {target: statement for statement in body for target in _targets(statement)}

    def __missing__(self, name: str) -> Any:
        if name not in self.known:
            raise KeyError(name)  # a builtin, which is looked for next
        statement = self.known[name]
        if isinstance(statement, ast.Import | ast.ImportFrom):
            self[name] = self._imported(statement, name)
        elif isinstance(statement, ast.ClassDef) and _is_dataclass(statement):
            self._run(_fields_alone(statement))
            setattr(self._importable, name, self[name])
            _MODULES[self[name]] = self._name
        elif isinstance(statement, ast.ClassDef | ast.FunctionDef):
            self[name] = type(name, (_Elsewhere,), {})
        else:
            self._run(statement)
        return self[name]

    def _run(self, statement: ast.stmt) -> None:
        for node in ast.walk(statement):  # a class body looks for names in globals itself, past __missing__
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in self.known:
                _ = self[node.id]
        exec(compile(ast.Module([statement], []), self._name, "exec"), self)

    def _imported(self, statement: ast.Import | ast.ImportFrom, name: str) -> Any:
        (alias,) = (each for each in statement.names if name in (each.asname, each.name))
        if isinstance(statement, ast.Import):
            module = alias.name
        else:
            module = importlib.util.resolve_name("." * statement.level + (statement.module or ""), self._package)
        if module.partition(".")[0] in sys.stdlib_module_names:
            found = importlib.import_module(module)
            return found if isinstance(statement, ast.Import) else getattr(found, alias.name)
        if isinstance(statement, ast.ImportFrom) and module.partition(".")[0] == PACKAGE:
            definitions = _module(module)
            return definitions[alias.name] if alias.name in definitions.known else _Elsewhere  # a module of a package
        return _Elsewhere


@cache
def _module(name: str) -> _Definitions:
    return _Definitions(name)


def _file(module: str) -> Path:
    """Of a module of one of the packages; only their common parent, which is empty, is imported to find it."""
    package, *rest = module.split(".", 2)[1:]
    spec = importlib.util.find_spec(f"{PACKAGE}.{package}")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent.joinpath(*(part for name in rest for part in name.split(".")))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _targets(statement: ast.stmt) -> list[str]:
    """Names that a statement at the top of a module defines."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in statement.names]
    if isinstance(statement, ast.ClassDef | ast.FunctionDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    named = [each for target in targets for each in (target.elts if isinstance(target, ast.Tuple) else [target])]
    return [target.id for target in named if isinstance(target, ast.Name)]


def _is_dataclass(definition: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in definition.decorator_list)


def _fields_alone(definition: ast.ClassDef) -> ast.ClassDef:
    """The definition without methods; what is said of a field, after it, in the docstring, where it stays."""
    fields, said = [], [f"{ast.get_docstring(definition) or definition.name}\n\nArgs:"]
    for statement in definition.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            fields.append(statement)
        elif fields and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            said.append(f"    {fields[-1].target.id}: {' '.join(str(statement.value.value).split())}")
    docstring = ast.Expr(ast.Constant("\n".join(said)))
    parts: dict[str, Any] = dict(ast.iter_fields(definition))  # those that this version of Python has
    parts["body"] = [docstring, *fields]
    return ast.fix_missing_locations(ast.ClassDef(**parts))
