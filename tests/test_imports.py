"""The import contracts of pyproject.toml hold, and an import that one of them forbids breaks it."""

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tokenizer", "prior", "pipelines", "eval")
CONTRACTS = {
    contract["id"]: contract["name"]
    for contract in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
}

# One forbidden import for each contract: its file, the statement, and what the linter says of it.
FORBIDDEN = {
    "packages": (
        "tokenizer/tokens.py",
        "from wvq.prior.model import PriorConfig",
        "wvq.tokenizer is not allowed to import wvq.prior",
    ),
    "tokenizer": (
        "tokenizer/storage/atomic.py",
        "from ..model import VQTokenizer",
        "wvq.tokenizer.storage is not allowed to import wvq.tokenizer.model",
    ),
    "quantizers": (
        "tokenizer/quantizers/nearest.py",
        "from . import vanilla",
        "wvq.tokenizer.quantizers.nearest is not allowed to import wvq.tokenizer.quantizers.vanilla",
    ),
    "baselines": (
        "tokenizer/quantizers/baselines/ema.py",
        "from . import fsq",
        "wvq.tokenizer.quantizers.baselines.ema is not allowed to import wvq.tokenizer.quantizers.baselines.fsq",
    ),
    "adversarial": (
        "tokenizer/adversarial/losses.py",
        "from .discriminators import PatchDiscriminator",
        "wvq.tokenizer.adversarial.losses is not allowed to import wvq.tokenizer.adversarial.discriminators",
    ),
    "adversarial-loop": (
        "pipelines/adversarial/players.py",
        "from .loop import train_adversarial",
        "wvq.pipelines.adversarial.players is not allowed to import wvq.pipelines.adversarial.loop",
    ),
    "backbones": (
        "tokenizer/backbones/backbone.py",
        "def build():\n    from .registry import build_backbone",
        "wvq.tokenizer.backbones.backbone is not allowed to import wvq.tokenizer.backbones.registry",
    ),
    "transplant": (
        "tokenizer/transplant/latents.py",
        "from .projector import projection",
        "wvq.tokenizer.transplant.latents is not allowed to import wvq.tokenizer.transplant.projector",
    ),
    "transplanting": (
        "pipelines/transplant/source.py",
        "def train():\n    from . import training",
        "wvq.pipelines.transplant.source is not allowed to import wvq.pipelines.transplant.training",
    ),
    "data": (
        "tokenizer/data/decoding.py",
        "def decode():\n    from .dataset import load_splits",
        "wvq.tokenizer.data.decoding is not allowed to import wvq.tokenizer.data.dataset",
    ),
    "prior": (
        "prior/model.py",
        "from .sampling import sample_tokens",
        "wvq.prior.model is not allowed to import wvq.prior.sampling",
    ),
    "pipelines": (
        "pipelines/training/checkpoints/state.py",
        "from ...base import Pipeline",
        "wvq.pipelines.training is not allowed to import wvq.pipelines.base",
    ),
    "editing": (
        "pipelines/editing/masks.py",
        "from .pipeline import EditingPipeline",
        "wvq.pipelines.editing.masks is not allowed to import wvq.pipelines.editing.pipeline",
    ),
    "app": (
        "pipelines/app/drawing.py",
        "from .command import Application",
        "wvq.pipelines.app.drawing is not allowed to import wvq.pipelines.app.command",
    ),
    "page": (
        "pipelines/app/page/draw.py",
        "from .edit import edit_tab",
        "wvq.pipelines.app.page.draw is not allowed to import wvq.pipelines.app.page.edit",
    ),
    "browser": (
        "pipelines/app/values.py",  # which all that is computed imports
        "import gradio",
        "wvq.pipelines.app.drawing is not allowed to import gradio",
    ),
    "eval": (
        "eval/metrics/kernel.py",
        "from ..features import registry",
        "wvq.eval.metrics is not allowed to import wvq.eval.features",
    ),
    "cycles": (
        "eval/report/columns.py",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .page import render",
        "No cycles are allowed in wvq.eval.report",
    ),
    "models": ("prior/loss.py", "import accelerate", "wvq.prior is not allowed to import accelerate"),
    "network": (
        "tokenizer/storage/pretrained.py",  # which the model imports
        "import datasets",
        "wvq.tokenizer.model is not allowed to import datasets",
    ),
    "numbers": (
        "eval/report/words.py",
        "import wvq.pipelines.sample",
        "wvq.eval.report is not allowed to import wvq.pipelines",
    ),
}


def lint(folder: Path, *contracts: str) -> tuple[int, str]:
    """Exit code and report of the linter on the packages of folder/wvq, by the contracts named or by all."""
    linter = Path(sys.executable).with_name("lint-imports")
    options = [option for contract in contracts for option in ("--contract", contract)]
    command = [linter, "--no-logo", "--no-cache", *options, ROOT / "pyproject.toml"]
    environment = os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    return result.returncode, result.stdout + result.stderr


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the four packages' Python files in wvq/."""
    folder = tmp_path_factory.mktemp("copied")
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            copy = folder / "wvq" / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    return folder


def test_imports_keep_the_contracts(copied: Path) -> None:
    code, report = lint(copied)
    assert code == 0, report
    assert f"Contracts: {len(CONTRACTS)} kept, 0 broken." in report


@pytest.mark.parametrize("contract", CONTRACTS)
def test_a_forbidden_import_breaks_its_contract(copied: Path, contract: str) -> None:
    name, statement, message = FORBIDDEN[contract]
    file = copied / "wvq" / name
    content = file.read_text()
    file.write_text(f"{content}\n{statement}\n")
    code, report = lint(copied, contract)
    file.write_text(content)
    assert code == 1, report
    assert f"{CONTRACTS[contract]} BROKEN" in report
    assert message in report


@pytest.mark.parametrize("package", PACKAGES)
def test_a_new_file_needs_a_place(copied: Path, package: str) -> None:
    file = copied / "wvq" / package / "new.py"
    file.touch()
    code, report = lint(copied, package)
    file.unlink()
    assert code == 1, report
    assert "The following modules are not listed as layers" in report
    assert f"- wvq.{package}.new" in report


@pytest.mark.parametrize(("module", "needed"), [("wvq.tokenizer", []), ("wvq.pipelines.reconstruction", ["datasets"])])
def test_importing_what_has_no_prior_imports_no_framework_of_a_run(module: str, needed: list[str]) -> None:
    frameworks = {"accelerate", "datasets", "matplotlib", "torchmetrics", "transformers"}
    script = f"import sys, {module}; print(*sorted({frameworks} & sys.modules.keys()))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout.split() == needed
