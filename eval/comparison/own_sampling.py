"""Each run's own sampling options: with a sweep its best setting on training images, else those of the recipe."""

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.generation import SamplingOptions
from wvq.prior.guidance import check_guidance, guidance_scales
from wvq.prior.model import PriorConfig
from wvq.prior.sampling import check_passes
from wvq.tokenizer import InputError
from wvq.tokenizer.data.dataset import ImageDataset
from wvq.tokenizer.storage.untrusted import read_json

from ..features.extractor import Extractor
from ..features.feature_set import FeatureSet
from ..perturbation import SomeImages
from ..sweep.folder import RESULTS_FILE, Yardstick, sweep_in_folder
from .clock import Clock
from .config import Cell, Comparison


def sweep_yardstick(
    config: Comparison, train_set: ImageDataset, extractor: Extractor, features: FeatureSet | None = None
) -> Yardstick | None:
    """What the settings of all runs are measured with; None without a sweep.

    Args:
        config: of the comparison.
        train_set: whose images are the reference.
        extractor: of features.
        features: of the reference, where they have been taken.
    """
    if not swept(config):
        return None
    images = SomeImages(train_set, config.sweep.num_reference)
    # Compared with each other only, as the distances of a comparison are: few images are allowed there as well.
    return Yardstick(images, extractor, config.sweep.num_generated, allow_few_images=True, features=features)


def own_sampling(
    config: Comparison, cell: Cell, pipeline: ClassConditionalPipeline | None, yardstick: Yardstick | None
) -> SamplingOptions:
    """What a run is to be sampled with; a sweep goes on where it was stopped.

    It draws by the next seed: images that a setting was chosen by are not those that its score is of.
    """
    if yardstick is None or pipeline is None:
        return config.sampling
    folder = Path(config.output_dir) / cell.folder
    settings = config.sweep.grid.settings(replace(config.sampling, seed=config.sampling.seed + 1))
    with Clock(folder / "seconds.json").measure("sweep"):
        best = sweep_in_folder(folder / "sweep", pipeline, settings, yardstick)[0].setting
    return replace(best, seed=config.sampling.seed, batch_size=config.sampling.batch_size)


def check_own_sampling(config: Comparison, num_classes: int) -> None:
    """Check that the priors of all runs, of images of so many classes, can draw with every setting there is.

    Raises:
        InputError: for guidance without classes or outside an image, and passes that a prior of its order cannot do.
    """
    for cell in () if config.tokenizers_only else config.cells:
        model, training = config.training("tokenizer", cell).model, config.training("prior", cell)
        prior = PriorConfig(
            **vars(training.model),
            num_codes=model.num_codes,
            num_tokens=model.num_tokens,
            num_classes=num_classes,
            codes_per_position=model.codes_per_position,
            token_order="random" if training.order == "random" else "raster",
            scales=model.scales,
        )
        for setting in config.sweep.grid.settings(config.sampling):
            scale, schedule, interval = setting.guidance_scale, setting.guidance_schedule, setting.guidance_interval
            try:
                check_guidance(scale, num_classes)
                guidance_scales(scale, prior.num_tokens, schedule, interval)
                check_passes(prior, prior.num_tokens, setting.num_passes or None)
            except InputError as error:
                raise InputError(f"sampling or sweep.grid, for {cell.folder}: {error}") from error


def swept(config: Comparison) -> bool:
    return config.sweep.grid.given and not config.tokenizers_only


def used_sampling(config: Comparison, cell: Cell) -> SamplingOptions:
    """What a finished run was sampled with."""
    if not swept(config):
        return config.sampling
    used = read_json(Path(config.output_dir) / cell.folder / "scores.json")["generation"]["protocol"]["sampling"]
    return SamplingOptions(**{field.name: used[field.name] for field in fields(SamplingOptions) if field.name in used})


def chosen_options(config: Comparison, cell: Cell) -> dict[str, Any]:
    """The options that a finished run's sweep chose, by name; {} without a sweep."""
    lists = vars(config.sweep.grid)
    return {n: v for n, v in asdict(used_sampling(config, cell)).items() if lists.get(n)} if swept(config) else {}


def sweep_protocol(config: Comparison) -> dict[str, Any]:
    """How every run's options were chosen, JSON-able."""
    kept = read_json(Path(config.output_dir) / config.cells[0].folder / "sweep" / RESULTS_FILE)
    shared = {name: value for name, value in kept["protocol"].items() if name not in ("tokenizer", "prior")}
    grid = {name: list(values) for name, values in vars(config.sweep.grid).items() if values}
    return {"chosen": "the setting of the least Fréchet distance, for every run by itself", "grid": grid, **shared}
