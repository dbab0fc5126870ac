"""The wheel holds every sub-package and data file, its `wvq` runs without the source, a second build is the same."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tokenizer", "prior", "pipelines", "eval")
EPOCH = "1700000000"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a build reads."""
    return copied_source(tmp_path_factory.mktemp("source"))


def copied_source(folder: Path) -> Path:
    """A copy of what a build reads, without what an earlier one left."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "reproducible_sdist.py", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that `python -m build` makes, by way of the source distribution."""
    output = tmp_path_factory.mktemp("dist")
    python("-m", "build", "--no-isolation", "--outdir", output, source, folder=output, SOURCE_DATE_EPOCH=EPOCH)
    (wheel,) = output.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the wheel is installed, alone."""
    folder = tmp_path_factory.mktemp("installed")
    python("-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, wheel, folder=folder)
    return folder


def python(*arguments: object, folder: Path, **environment: str) -> str:
    """Standard output of `python ARGUMENTS` in a folder."""
    result = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    return result.stdout


def elsewhere(installed: Path, tmp_path: Path, *arguments: object) -> str:
    """The same in an empty folder, with the installed wheel.

    -S leaves out .pth files, and with them the editable installation; -P leaves out the working folder.
    """
    path = os.pathsep.join((str(installed), *{sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}))
    return python("-S", "-P", *arguments, folder=tmp_path, PYTHONPATH=path)


def modules(wheel: Path) -> list[str]:
    files = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    return [name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files]


def test_the_wheel_holds_every_sub_package_and_data_file(source: Path, wheel: Path) -> None:
    code = [file for name in PACKAGES for file in (source / name).rglob("*.py")]
    kinds = ("pipelines/**/*.yaml", "**/*.jinja", "pipelines/app/page/*.js", "pipelines/app/page/*.css")
    data = [file for kind in kinds for file in source.glob(kind) if file.relative_to(source).parts[0] in PACKAGES]
    expected = {f"wvq/{file.relative_to(source).as_posix()}" for file in code + data}
    assert {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name} == expected


def test_one_wheel_is_for_every_system(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")


def test_every_module_of_the_wheel_is_imported_from_it(wheel: Path, installed: Path, tmp_path: Path) -> None:
    script = """
import importlib, sys, wvq
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*wvq.__path__)
"""
    assert elsewhere(installed, tmp_path, "-c", script, *modules(wheel)).splitlines()[-1] == str(installed / "wvq")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--help"], "usage: wvq COMMAND [options]"),
        (["demo", "--help"], "default: runs/demo)"),  # read from the wheel's demo.yaml
    ],
)
def test_the_wheels_command_runs_elsewhere(installed: Path, tmp_path: Path, arguments: list[str], text: str) -> None:
    assert text in elsewhere(installed, tmp_path, installed / "bin" / "wvq", *arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["sdist", pytest.param("wheel", marks=pytest.mark.slow)])
def test_a_second_build_has_the_same_bytes(wheel: Path, tmp_path: Path, kind: str) -> None:
    """Of files that were copied later to another folder."""
    again = copied_source(tmp_path / "elsewhere")
    options = ("--no-isolation", "--outdir", tmp_path, *(["--sdist"] if kind == "sdist" else []))
    python("-m", "build", *options, again, folder=tmp_path, SOURCE_DATE_EPOCH=EPOCH)
    built = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    assert len(built) == (1 if kind == "sdist" else 2)
    for name, content in built.items():
        assert content == (wheel.parent / name).read_bytes(), f"{name} differs"


def test_what_is_built_may_be_uploaded(wheel: Path) -> None:
    assert "FAILED" not in python("-m", "twine", "check", "--strict", *wheel.parent.iterdir(), folder=wheel.parent)
