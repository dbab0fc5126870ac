"""Every installed recipe trains for two steps: at toy size, with its own quantizer, losses and options."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures import write_fashion_folder
from tiny_pipelines import tiny_tokenizer

from wvq.pipelines.command_line import COMMANDS, _load, parse
from wvq.pipelines.options.installed import installed_recipes

RECIPES = installed_recipes()
DISCRIMINATOR = (  # used from step 1 on
    "--discriminator-start=0", "--discriminator.lead=1", "--discriminator.base-channels=8",
    "--discriminator.num-layers=1",
)  # fmt: skip
TOY_SIZES = {
    "train-tokenizer": (
        "--data.image-size=32", "--model.base-channels=32", "--model.latent-channels=8", "--model.codebook-size=64",
        "--model.num-blocks=1", "--model.decoder-blocks=2", *DISCRIMINATOR,
    ),
    "refine-tokenizer": ("--data.image-size=32", *DISCRIMINATOR),
    "transplant": ("--data.image-size=32", "--codebook-size=64", "--codebook-dim=4", "--projector-channels=8"),
    "train-prior": (
        "--data.image-size=32", "--model.hidden-size=16", "--model.num-layers=1", "--model.num-heads=2",
        "--sample-every=2", "--compile=false",
    ),
}  # fmt: skip
SHORT = ("--steps=2", "--warmup-steps=1", "--batch-size=4", "--evaluate-every=2", "--log-every=1")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With images/, a tokenizer/ for priors, and tokens/ when a prior was trained."""
    folder = tmp_path_factory.mktemp("recipes")
    write_fashion_folder(folder / "images")
    for image in (folder / "images").rglob("?[1-9].png"):
        image.unlink()
    tiny_tokenizer(image_size=32).save_pretrained(folder / "tokenizer")
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name: str, folder: Path, tmp_path: Path) -> None:
    command = RECIPES[name].command
    places = [f"--data.source={folder}/images", "--data.num-workers=0", f"--output-dir={tmp_path}/run"]
    if command != "train-tokenizer":
        places.append(f"--{'autoencoder' if command == 'transplant' else 'tokenizer'}={folder}/tokenizer")
    if command in CACHES:
        places.append(f"--{CACHES[command]}={folder}/cache")
    config = parse(command, [f"--config={name}", *places, *TOY_SIZES[command], *SHORT])
    _load(COMMANDS[command].function)(config)

    own, run = yaml.safe_load(RECIPES[name].path.read_text()), json.loads((tmp_path / "run" / "run.json").read_text())
    toy = {option.removeprefix("--").partition("=")[0].replace("-", "_") for option in (*TOY_SIZES[command], *SHORT)}
    kept = {option: value for option, value in _flat(own) if option not in toy | PLACES}
    assert {option: _value(run, option) for option in kept} == kept
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "train"] == [1, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values() if isinstance(value, float))
    for weight, term in (("perceptual_weight", "perceptual_loss"), ("adversarial_weight", "adversarial_loss")):
        assert (term in rows[-2]) == bool(own.get(weight))


CACHES = {"train-prior": "tokens-dir", "transplant": "latents-dir"}
PLACES = {"output_dir", "data.source", "data.num_workers", "tokenizer", "autoencoder"}


def _flat(options: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values of the options in a recipe."""
    groups = {name: value for name, value in options.items() if isinstance(value, dict) and "options" not in name}
    own = [(f"{prefix}{name}", value) for name, value in options.items() if name not in groups]
    return own + [pair for name, group in groups.items() for pair in _flat(group, f"{prefix}{name}.")]


def _value(options: Any, name: str) -> Any:
    for part in name.split("."):
        options = options[part]
    return options
