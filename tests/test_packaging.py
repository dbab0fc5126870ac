"""What is on disk, what is installed and what the README says are the same."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("tokenizer", "prior", "pipelines", "eval")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def source_files(package: str) -> set[str]:
    return {path.name for path in (ROOT / package).iterdir() if path.is_file() and path.name != "__init__.py"}


def test_only_wvq_is_installed() -> None:
    setuptools = PYPROJECT["tool"]["setuptools"]
    assert setuptools["packages"] == [f"wvq.{name}" for name in PACKAGES]
    assert setuptools["package-dir"] == {f"wvq.{name}": name for name in PACKAGES}
    for name in PACKAGES:
        folders = [path for path in (ROOT / name).iterdir() if path.is_dir() and any(path.glob("*.py"))]
        assert not folders, "a sub-package would be missing from the wheel"


def test_files_that_are_not_code_are_installed_where_code_reads_them() -> None:
    data = PYPROJECT["tool"]["setuptools"]["package-data"]
    for package, suffixes in data.items():
        for suffix in suffixes:
            assert list((ROOT / package.removeprefix("wvq.")).glob(suffix)), (package, suffix)


@pytest.mark.parametrize("package", PACKAGES)
def test_readme_names_every_file(package: str) -> None:
    tree = re.search(r"## The tree\n+```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert tree
    block = re.search(rf"^{package}/.*\n((?: .*\n)+)", tree[1], re.MULTILINE)
    assert block
    named = {line.split()[0] for line in block[1].splitlines()}
    assert {name for name in named if not name.endswith("/")} == source_files(package)
    assert all((ROOT / package / name).is_dir() for name in named if name.endswith("/"))


def test_files_are_short() -> None:
    long = [path for name in (*PACKAGES, "tests") for path in (ROOT / name).glob("*.py") if lines(path) > 400]
    assert not long


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_constraints_pin_every_requirement() -> None:
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    project = PYPROJECT["project"]
    wanted = [*project["dependencies"], *(r for extra in project["optional-dependencies"].values() for r in extra)]
    assert {re.split(r"[\[>=<]", requirement)[0].lower().replace("_", "-") for requirement in wanted} <= pinned
