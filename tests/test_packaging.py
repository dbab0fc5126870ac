"""What is on disk, what is installed and what the README says are the same."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType
from setuptools import Distribution

ROOT = Path(__file__).parent.parent
PACKAGES = ("tokenizer", "prior", "pipelines", "eval")
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def source_files(package: str) -> set[str]:
    files = {path.name for path in (ROOT / package).iterdir() if path.is_file() and path.suffix != ".so"}
    return files - {"__init__.py"}


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


def test_launch_files_are_in_the_wheel_and_accelerate_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    distribution = Distribution()
    distribution.parse_config_files(["pyproject.toml"])
    build: Any = distribution.get_command_obj("build_py")
    build.manifest_files = {}
    build.ensure_finalized()
    installed = {
        str(Path(name).relative_to("pipelines")) for name in build.find_data_files("wvq.pipelines", "pipelines")
    }
    files = {path.name: path for path in (ROOT / "pipelines" / "launch").iterdir()}
    assert {f"launch/{name}" for name in files} | {"demo.yaml"} == installed
    engines = {name: load_config_from_file(str(path)).distributed_type for name, path in files.items()}
    assert engines == {"ddp.yaml": DistributedType.MULTI_GPU, "fsdp.yaml": DistributedType.FSDP}


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
