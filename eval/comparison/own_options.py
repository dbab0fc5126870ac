"""Each method's own quantizer options: the best of a grid, on a validation part of the training images.

The grid is a comparison like any other, of the tokenizers alone, with the first seed, in the folder `grid`: it resumes,
and has a report of its own. The evaluation images take no part in it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from wvq.tokenizer.storage.untrusted import read_json

from ..sweep.grid import SweepOptions
from .config import Comparison, OptionGrid, from_setting
from .settings import OPTIONS

FOLDER = "grid"


def grid_comparison(config: Comparison) -> Comparison:
    """The comparison that tries the grid: with the seed that it was begun with, whatever the order of seeds is now."""
    folder = Path(config.output_dir) / FOLDER
    begun = folder / "recipe.json"
    return replace(
        config,
        output_dir=str(folder),
        data=replace(config.data, validation_fraction=config.grid.validation_fraction),
        settings={FOLDER: config.grid.values},
        seeds=tuple(read_json(begun)["seeds"]) if begun.exists() else config.seeds[:1],
        grid=OptionGrid(),
        tokenizers_only=True,
        sweep=SweepOptions(),
        perturbed_images=0,
    )


def with_own_options(config: Comparison) -> Comparison:
    """The comparison with the options of each method that the finished grid chose, and nothing left to choose."""
    methods = dict(config.methods)
    for row in grid_rows(config):
        if row["chosen"]:
            method = methods[row["quantizer"]]
            # An option that is called as a field of a training is "quantizer_options.NAME" there.
            options = {name.rpartition(".")[2]: from_setting(value) for name, value in row["setting"].items()}
            own = {name: value for name, value in options.items() if config.has(row["quantizer"], f"{OPTIONS}.{name}")}
            methods[row["quantizer"]] = replace(method, quantizer_options=method.quantizer_options | own)
    return replace(config, methods=methods, grid=OptionGrid())


def grid_rows(config: Comparison) -> list[dict[str, Any]]:
    """The outcome of the finished grid: quantizer, setting, utilization, PSNR, rFD, and whether it was `chosen`.

    Of equal scores the first is.
    """
    kept = read_json(Path(config.output_dir) / FOLDER / "comparison.json")["rows"]
    names = ("quantizer", "setting", "utilization", "psnr", "reconstruction_frechet_distance")
    rows = [{name: row[name] for name in names} for row in kept if row["quantizer"] in config.methods]

    def loss(row: dict[str, Any]) -> float:
        return row["reconstruction_frechet_distance"] if config.grid.score == "rfd" else -row["psnr"]

    best = [min((row for row in rows if row["quantizer"] == method), key=loss) for method in config.methods]
    return [row | {"chosen": any(row is one for one in best)} for row in rows]
