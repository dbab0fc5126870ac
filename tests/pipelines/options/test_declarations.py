"""Options are known from the source of their classes: as the classes have them, and without torch."""

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from wvq.pipelines.command_line import COMMANDS, main, parse
from wvq.pipelines.options.declarations import constructed, declared
from wvq.pipelines.options.listing import listed_options

HEAVY = {"torch", "numpy", "transformers", "accelerate", "datasets", "matplotlib", "PIL"}


def real(path: str) -> type:
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


def assert_same(declaration: type, own: type) -> None:
    """Names, types and defaults of all fields, in their order."""
    assert [field.name for field in dataclasses.fields(declaration)] == [
        field.name for field in dataclasses.fields(own)
    ]
    hints, own_hints = get_type_hints(declaration), get_type_hints(own)
    for field, own_field in zip(dataclasses.fields(declaration), dataclasses.fields(own), strict=True):
        hint = hints[field.name]
        assert field.default == own_field.default, field.name
        if dataclasses.is_dataclass(hint):
            assert isinstance(hint, type)
            assert_same(hint, own_hints[field.name])
        elif "declared_" not in str(hint):  # such as a dictionary of them
            assert hint == own_hints[field.name], field.name
        if field.default_factory is not dataclasses.MISSING:
            assert own_field.default_factory is not dataclasses.MISSING
            assert constructed(field.default_factory()) == own_field.default_factory()


@pytest.mark.parametrize("path", sorted({command.configuration for command in COMMANDS.values()}))
def test_a_declaration_is_what_the_class_is(path: str):
    assert_same(declared(path), real(path))
    assert declared(path) is not real(path)
    assert [option.name for option in listed_options(declared(path)) if not option.says] == []


def test_what_is_constructed_is_checked_and_of_the_classes_themselves():
    config: Any = parse("compare", ["--methods={plain: {quantizer: vanilla}}", "--data.channels=1"])
    assert type(config) is real(COMMANDS["compare"].configuration)
    assert type(config.methods["plain"]).__module__ == "wvq.eval.comparison.config"
    assert config.tokenizer.model.channels == 1


WRONG = [
    ["train-tokenizer", "--sped=3"],
    ["train-prior", "--steps=many"],
    ["train-prior", "--model.size=huge"],
    ["compare", "--prior.model.hiden-size=3"],
    ["demo", "--seeds=first"],
    ["evaluate", "--data.source"],
    ["benchmark", "prior", "--output-dir=there"],
    ["benchmark", "nothing"],
    ["nothing"],
]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)


def test_what_is_mistyped_is_refused_before_anything_heavy_is_imported(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lerning_rate: 0.1\n")
    wrong = [*WRONG, ["train-tokenizer", f"--config={recipe}"], ["train-tokenizer", "--config=nowhere.yaml"]]
    program = f"""
import sys
from wvq.pipelines.command_line import main
for arguments in {wrong!r}:
    try:
        main(arguments)
    except SystemExit as stopped:
        assert stopped.code == 2, arguments
    else:
        raise AssertionError(arguments)
    heavy = {HEAVY!r} & sys.modules.keys()
    assert not heavy, (arguments, heavy)
"""
    done = run(program)
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("wvq")]) == len(wrong)


def test_help_and_completion_import_nothing_heavy():
    program = f"""
import sys
from wvq.pipelines.command_line import COMMANDS, main
main(["--help"]); main(["completion", "bash"])
for name in COMMANDS:
    for asked in ("--help", "--help-all"):
        try:
            main([*name.split(), asked])
        except SystemExit as stopped:
            assert not stopped.code
print("heavy:", *sorted({HEAVY!r} & sys.modules.keys()))
"""
    done = run(program)
    assert done.stdout.splitlines()[-1] == "heavy:", done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_short_and_explains_what_most_people_set(capsys: pytest.CaptureFixture[str], name: str):
    with pytest.raises(SystemExit):
        main([*name.split(), "--help"])
    short = capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*name.split(), "--help-all"])
    everything = capsys.readouterr().out
    assert len(short.splitlines()) < 60
    assert max(map(len, short.splitlines())) <= 110
    shown = [line.split()[0] for line in short.splitlines() if line.startswith("  ") and line[2] != " "]
    assert len(shown) >= (2 if name == "recipes" else 4)  # --config and --show
    assert [option for option in shown if option.removesuffix(".OPTION") not in everything] == []
    assert "--help-all" in short
    options = [option for option in listed_options(declared(COMMANDS[name].configuration)) if not option.is_group]
    assert f"all {len(options)} options" in short
