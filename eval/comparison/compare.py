"""`wvq compare` and `wvq demo`: methods, settings and seeds under one budget, scored alike, in tables and a report."""

import shlex
import shutil
import sys
import time
from dataclasses import replace
from operator import call
from pathlib import Path
from typing import Any, get_args

from wvq.pipelines.adversarial.command import train_stage_one
from wvq.pipelines.tokenize import Tokenization, tokenize
from wvq.pipelines.train_prior import train_pipeline, train_prior
from wvq.pipelines.training.same_run import FROM_DATA, INPUTS_FILE, inputs_difference, recorded_inputs
from wvq.pipelines.training.saved_config import MAY_CHANGE, as_given, as_json, first_difference, read_config, settled
from wvq.tokenizer import InputError
from wvq.tokenizer.data.dataset import ImageDataset, load_splits
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import read_json

from ..report.columns import table_columns
from ..report.groups import group_rows, statistics_rows
from ..report.page import write_report
from ..report.pairs import pair_rows
from ..report.table_files import plain, write_tables
from .budget import measure_steps, steps_without_codes
from .clock import Clock
from .collect import ablations, commands, run_report, shared_protocol, table_row
from .config import Cell, Comparison, Method, Stage
from .own_options import grid_comparison, grid_rows, with_own_options
from .own_sampling import check_own_sampling
from .parallel import run_parallel
from .scoring import References, score_cell, take_references

__all__ = ["Comparison", "Method", "compare"]

_STAGES = get_args(Stage)
_MAY_CHANGE = {
    *("output_dir", "baseline", "settings", "seeds", "jobs", "data.num_workers"),
    *(f"{stage}.{name}" for stage in _STAGES for name in MAY_CHANGE),
} - {"prior.evaluation_images"}  # by which all priors are compared
_OF_SCORES = ("sampling", "sweep", "num_generated", "perturbed_images", "extractor", "extractor_weights")
_OF_PRIORS = ("tokenizers_only", "prior", "prior_budget", "sampling", "sweep", "num_generated")
_FROM_DATA = FROM_DATA | {f"{stage}.{name}" for stage in _STAGES for name in FROM_DATA}


def compare(config: Comparison) -> Path:
    """Train, sample and score every method in every setting with every seed; returns report.html.

    A cell that has its scores is not computed again; tables and report are written anew each time.

    Raises:
        InputError: for data, weights or options that cannot be used, or a folder with another comparison.
    """
    root = Path(config.output_dir)
    train_set, evaluation_set = load_splits(config.data)
    check_own_sampling(config, len(train_set.class_names))  # before hours of training, not after
    claim_folder(root, config, {"train images": train_set.fingerprint, "evaluation images": evaluation_set.fingerprint})
    tried = None
    if config.grid.values:
        compare(grid_comparison(config))
        tried, config = grid_rows(config), with_own_options(config)
    unfinished = [cell for cell in config.cells if not _has_scores(config, root / cell.folder / "scores.json")]
    if unfinished:
        references = take_references(config, train_set, evaluation_set)
        run_cells(config, unfinished, references)
    return write_results(config, evaluation_set, tried)


def compare_and_summarize(config: Comparison) -> str:
    """`compare`, and what a user wants to know of it: table, time, report, pictures, and how to draw more."""
    start = time.perf_counter()
    report = compare(config)
    minutes, seconds = divmod(round(time.perf_counter() - start), 60)
    hours, minutes = divmod(minutes, 60)
    took = f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    pictures = ", ".join(str(report.parent / "*" / stage / "images") for stage in config.stages)
    lines = ["", plain(read_json(report.parent / "comparison.json")), f"{len(config.cells)} runs; this took {took}"]
    lines += [f"report: {report}", f"pictures from the training: {pictures}"]
    if "prior" in config.stages:
        pipeline = report.parent / config.cells[-1].folder / "prior" / "pipeline"
        own = Path(sys.argv[0])  # as it was called: `make demo` runs a program that is not on the path
        program = str(own) if own.name == "wvq" and not shutil.which("wvq") else "wvq"
        look = [program, "app", "--pipeline", str(pipeline), "--data.source", config.data.source]
        lines.append(f"to draw from it in a browser: {shlex.join(look)}")
    return "\n".join(lines)


def claim_folder(root: Path, config: Comparison, inputs: dict[str, str]) -> None:
    """Write recipe.json into the comparison's folder, or check that the one there is of the same comparison.

    Methods, settings and seeds may be added, since they change no other cell, and priors to tokenizers that were
    compared alone; what may change when a run resumes may change here, and how runs are sampled and scored as long as
    none has been. What the recipe of an older version lacks has its default. The images are compared by `inputs`, their
    hashes, so that they may be moved; in folders of older versions by their names.

    Raises:
        InputError: if the folder holds another comparison.
    """
    recipe = as_given(config)  # a warm-up that is left open suits the steps of each cell, not those of the recipe
    del recipe["jobs"]  # how many at once changes nothing but the time
    for stage in _STAGES:
        recipe[stage]["data"] = recipe["data"]  # as every run has it
    path = root / "recipe.json"
    if path.exists():
        old, new = as_json(read_config(path, Comparison)), settled(recipe)
        if not [*root.glob("*/scores.json"), *root.glob("*/sweep/*")]:
            old |= {name: new[name] for name in _OF_SCORES}
        if old["tokenizers_only"] and not config.tokenizers_only and not any(root.glob("*/prior")):
            old |= {name: new[name] for name in _OF_PRIORS}
        new["methods"] = {n: method for n, method in new["methods"].items() if n in old["methods"]}
        known = recorded_inputs(root)
        ignored = _MAY_CHANGE | (_FROM_DATA if known else set())
        difference = first_difference(old, new, ignored) or (inputs_difference(known, inputs) if known else None)
        if difference:
            name, before, now = difference
            raise InputError(
                f"{root} holds a comparison with {name} = {before}, this one has {now}; give it another --output-dir "
                f"or remove that folder"
            )
    write_json(path, recipe)
    write_json(root / INPUTS_FILE, inputs)


def _has_scores(config: Comparison, path: Path) -> bool:
    """Whether a cell has been scored, and its samples as well where the comparison has priors."""
    return path.exists() and (config.tokenizers_only or read_json(path)["generation"] is not None)


def run_cells(config: Comparison, cells: list[Cell], references: References) -> None:
    """Train all these cells, each stage unless that has been done, and score them; several at once if there are jobs.

    What a cell needs next is done as soon as there is a place for it, but where a budget of seconds is measured: all
    trainings of a stage then have the same company.
    """
    at_once: list[tuple[Stage, ...]] = (
        [(stage,) for stage in config.stages] if config.prior_budget.seconds else [config.stages]
    )
    for stages in at_once:
        if seconds := config.budget(stages[0]).seconds:
            groups = {cell.group: cell for cell in reversed(cells)}
            run_parallel(measure_cell, [[(config, stages[0], cell, seconds)] for cell in groups.values()], config.jobs)
        chains: list[list[Any]] = [[(train_cell, config, stage, cell) for stage in stages] for cell in cells]
        if stages[-1] == config.stages[-1]:
            for chain, cell in zip(chains, cells, strict=True):
                chain.append((score_cell, config, cell, references))
        run_parallel(call, chains, config.jobs)


def train_cell(config: Comparison, stage: Stage, cell: Cell) -> None:
    """Train a tokenizer, or a prior on its tokens, or finish training it."""
    training = config.training(stage, cell)
    if config.budget(stage).seconds:
        training = replace(training, steps=read_json(measured_path(config, stage, cell))["steps"])
    if stage == "tokenizer":
        train_stage_one(training)
    else:
        encode(config, cell)
        train_pipeline(training)


def measure_cell(config: Comparison, stage: Stage, cell: Cell, seconds: float) -> None:
    """Measure how many steps the budget of seconds buys for the group of a cell, unless that has been done."""
    training = config.training(stage, cell)
    path = measured_path(config, stage, cell)
    if stage == "tokenizer":
        probe, waiting = steps_without_codes(replace(training, evaluation_images=2))
        measure_steps(train_stage_one, probe, seconds, path, waiting)
    else:
        encode(config, cell)
        measure_steps(train_prior, replace(training, sample_every=0), seconds, path)


def measured_path(config: Comparison, stage: Stage, cell: Cell) -> Path:
    return Path(config.output_dir) / "steps" / f"{cell.group}-{stage}.json"


def encode(config: Comparison, cell: Cell) -> None:
    """Encode the images with a cell's tokenizer, into the token cache of the comparison."""
    prior = config.training("prior", cell)
    if not Path(prior.output_dir).exists():
        with Clock(Path(config.output_dir) / cell.folder / "seconds.json").measure("tokens"):
            tokenize(Tokenization(prior.tokenizer, prior.data, prior.tokens_dir, prior.crops))


def write_results(config: Comparison, evaluation_set: ImageDataset, tried: list[dict[str, Any]] | None = None) -> Path:
    """Write comparison.json, the tables and report.html from the folders of finished cells; returns report.html.

    `tried` is the outcome of the grid that the methods' options were chosen from.
    """
    root = Path(config.output_dir)
    rows = [table_row(config, cell) for cell in config.cells]
    groups, baseline = group_rows(rows), config.baseline or next(iter(config.methods))
    comparison = {
        "protocol": shared_protocol(config),
        **({"grid": tried} if tried else {}),
        "baseline": baseline,
        "rows": rows,
        "statistics": statistics_rows(table_columns(rows), groups, baseline),
        "pairs": pair_rows(table_columns(rows), groups),
    }
    write_json(root / "comparison.json", comparison)
    write_tables(root, comparison)
    runs = [run_report(config, cell, evaluation_set) for cell in config.cells]
    write_report(root / "report.html", comparison, runs, commands(config), ablations(config))
    return root / "report.html"
