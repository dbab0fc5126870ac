"""What is on disk is what pyproject.toml names, and every folder and file is of a size to read."""

import re
import tomllib
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

ROOT = Path(__file__).parents[1]
PACKAGES = ("tokenizer", "prior", "pipelines", "eval")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAX_FILES = 16
MAX_LINES = 300


def python_folders() -> set[Path]:
    """The folders of the four packages that hold Python files, relative to the root."""
    return {file.parent.relative_to(ROOT) for package in PACKAGES for file in (ROOT / package).rglob("*.py")}


def test_every_folder_of_code_is_installed_as_a_package_of_wvq() -> None:
    setuptools = PYPROJECT["tool"]["setuptools"]
    packages = setuptools["packages"]
    assert len(packages) == len(set(packages))
    assert set(packages) == {".".join(("wvq", *folder.parts)) for folder in python_folders()}
    assert setuptools["package-dir"] == {f"wvq.{name}": name for name in PACKAGES}
    assert all((ROOT / folder / "__init__.py").is_file() for folder in python_folders())


def test_files_that_code_reads_are_installed_where_it_reads_them() -> None:
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    installed = {
        file.relative_to(ROOT).as_posix()
        for package, patterns in data.items()
        for pattern in patterns
        for file in ROOT.joinpath(*package.split(".")[1:]).glob(pattern)
    }
    assert installed == {
        "eval/report/page.html.jinja",
        "eval/report/script.js.jinja",
        "eval/report/style.css.jinja",
        "pipelines/app/page/choices.js",
        "pipelines/app/page/grid.js",
        "pipelines/app/page/style.css",
        "pipelines/app/page/upload.js",
        "pipelines/demo.yaml",
        "pipelines/launch/ddp.yaml",
        "pipelines/launch/fsdp.yaml",
        "pipelines/sharing/card.md.jinja",
        "pipelines/launch/hsdp.yaml",
    } | {file.relative_to(ROOT).as_posix() for file in (ROOT / "pipelines" / "recipes").rglob("*.*")}


def test_other_files_are_where_they_are_used() -> None:
    for script in ("fetch_cifar10.sh", "fetch_fashion_mnist.sh"):
        assert (ROOT / "tokenizer" / "data" / "published" / script).is_file()
        assert f"tokenizer/data/published/{script}" in (ROOT / "Makefile").read_text()


def test_nothing_has_to_be_compiled() -> None:
    compiled = {".c", ".cc", ".cpp", ".cu", ".pyx", ".rs", ".so"}
    assert not [file for name in PACKAGES for file in (ROOT / name).rglob("*") if file.suffix in compiled]
    assert not (ROOT / "setup.py").exists()
    assert "ext-modules" not in PYPROJECT["tool"]["setuptools"]


@pytest.mark.parametrize(
    ("name", "engine"), [("ddp.yaml", DistributedType.MULTI_GPU), ("fsdp.yaml", DistributedType.FSDP)]
)
def test_accelerate_reads_the_launch_files(name: str, engine: DistributedType) -> None:
    assert load_config_from_file(str(ROOT / "pipelines" / "launch" / name)).distributed_type == engine


def test_folders_are_small() -> None:
    counts = {str(folder): len(list((ROOT / folder).glob("*.py"))) for folder in python_folders()}
    assert {name: count for name, count in counts.items() if count > MAX_FILES} == {}


def test_files_are_short() -> None:
    files = [file for name in (*PACKAGES, "tests") for file in (ROOT / name).rglob("*.py")]
    lines = {str(file.relative_to(ROOT)): len(file.read_text().splitlines()) for file in files}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def test_constraints_pin_every_requirement() -> None:
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    assert {re.split(r"[\[>=<]", requirement)[0].lower().replace("_", "-") for requirement in wanted} <= pinned
