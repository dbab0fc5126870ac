"""`wvq sweep`: a pipeline's best guidance, temperature and truncation, chosen on training images."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.generation import SamplingOptions
from wvq.pipelines.processes import this_device, this_process
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.atomic import write_file
from wvq.tokenizer.storage.untrusted import expand_home

from ..feature_scores import FEATURE_SCORES
from ..features.chunks import Chunks
from ..features.registry import build_extractor
from ..perturbation import SomeImages
from .figure import sweep_figure
from .folder import RESULTS_FILE, Yardstick, sweep_in_folder
from .grid import Grid, SweepOptions, option_text, sampling_arguments, varied_options
from .scoring import ScoredSetting

_GUIDANCE = Grid(guidance_scale=(1.0, 1.25, 1.5, 2.0, 3.0))
_NO_GUIDANCE = Grid(guidance_scale=(1.0,))  # all that a prior without classes takes


@dataclass(frozen=True)
class Sweep(SweepOptions):
    """Settings of one pipeline. The same command resumes where it was stopped; more values may be added later."""

    pipeline: str = "runs/pipeline"
    """Folder or hub repository of the pipeline."""
    output_dir: str = "runs/sweep"
    """Where sweep.json and sweep.png go."""
    grid: Grid = field(default_factory=Grid)
    """Lists of values of sampling options; every combination is a setting. Without any: guidance scales of 1, 1.25,
    1.5, 2 and 3, or 1 for a prior without classes."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """The options that have no list, and the seed, which all settings share."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images that the pipeline was trained on."""
    split: Literal["train", "evaluation"] = "train"
    """Which of them samples are compared with. Settings chosen on evaluation images have seen what they are to be
    judged by."""
    extractor: str = "inception"
    """inception, efficientnet-lite0, dinov2 or clip."""
    extractor_weights: str | None = None
    """File with the extractor's weights, where they are not in the usual place; of dinov2 and clip a folder."""
    scores: list[str] = field(default_factory=list)
    """Further scores than the Fréchet distance, by which settings are ranked; those of `wvq evaluate`."""
    allow_few_images: bool = False
    """Give a Fréchet distance of no more images than the extractor has dimensions, which is mostly bias."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_home(self, "pipeline", "output_dir", "extractor_weights")
        unknown = [name for name in self.scores if name not in FEATURE_SCORES]
        if unknown:
            raise InputError(f"scores has {unknown[0]}; valid are {', '.join(FEATURE_SCORES)}")
        for name, values in vars(self.grid if self.grid.given else _GUIDANCE).items():
            own = getattr(self.sampling, name)
            if values and own != getattr(SamplingOptions, name):
                lists = "grid" if self.grid.given else "the grid that a sweep without lists has"
                raise InputError(f"{name} is {own} in sampling and {values} in {lists}; give it in one of them")


def sweep_pipeline(config: Sweep) -> str | None:
    """Score all settings, write sweep.json and sweep.png, and return the table and the command that uses the best
    setting, on the main process alone.

    Under `accelerate launch` processes share the images; results are the same for any number of them.

    Raises:
        InputError: for a pipeline, data or weights that cannot be read, a folder that holds another sweep, too few
            images, a setting that the pipeline cannot be sampled with.
    """
    state, folder = this_process(), Path(config.output_dir)
    pipeline = ClassConditionalPipeline.from_pretrained(config.pipeline).to(this_device())
    splits = load_splits(config.data.sized(pipeline.tokenizer.config))
    yardstick = Yardstick(
        SomeImages(splits[config.split == "evaluation"], config.num_reference),
        build_extractor(config.extractor, config.extractor_weights).to(this_device()),
        config.num_generated,
        tuple(name for name in dict.fromkeys(config.scores) if name != "fid"),
        config.allow_few_images,
        Chunks(folder / "features"),
    )
    default = _GUIDANCE if pipeline.prior.config.num_classes else _NO_GUIDANCE
    grid = config.grid if config.grid.given else default
    results = sweep_in_folder(folder, pipeline, grid.settings(config.sampling), yardstick)
    if not state.is_main_process:
        return None
    yardstick.chunks.clear()
    write_file(folder / "sweep.png", sweep_figure(results))
    best = f"wvq sample --pipeline {shlex.quote(config.pipeline)}{sampling_arguments(results[0].setting)}"
    about = f"{config.num_generated:,} images a setting, against {len(yardstick.images):,} {config.split} images"
    places = f"{folder / RESULTS_FILE}, {folder / 'sweep.png'}"
    return "\n".join([table(results), "", f"{about}: {places}", f"the best setting: {best}"])


def table(results: Sequence[ScoredSetting]) -> str:
    """A row for each setting, in the order of the results: the options that differ, and the scores."""
    varied = varied_options([each.setting for each in results])
    header = [*(name.replace("_", " ") for name in varied), *(one["score"] for one in results[0].scores.values())]
    rows = [
        [
            *(option_text(getattr(each.setting, name)) for name in varied),
            *(f"{one['value']:.4g}" for one in each.scores.values()),
        ]
        for each in results
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return "\n".join("  ".join(map(str.rjust, line, widths)) for line in (header, *rows))
