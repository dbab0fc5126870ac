"""What is drawn from a pipeline and how: the options, and the images one after the other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor
from tqdm import tqdm

from wvq.prior.guidance import GuidanceSchedule, guidance_scales
from wvq.prior.sampling import check_passes, check_sampling, check_vocabulary
from wvq.tokenizer import InputError
from wvq.tokenizer.blocks import full_block_size
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.untrusted import expand_home

from .base import ImagePipelineOutput
from .class_conditional import ClassConditionalPipeline

_MANY, _MANY_ON_CPU = 1024, 64


@dataclass(frozen=True)
class SamplingOptions:
    """How images are drawn."""

    guidance_scale: float = 1.0
    """Classifier-free guidance; 1 for none."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """The most probable codes kept; 0 for all."""
    top_p: float = 1.0
    """The smallest set of codes with this probability is kept."""
    min_p: float = 0.0
    """Codes below this share of the highest probability are dropped."""
    seed: int = 0
    """Image i is the same for the same seed and block size, whatever the batch size."""
    batch_size: int | Literal["auto"] = 250
    """Images drawn at once, halved where memory does not suffice; "auto" starts from many."""
    guidance_schedule: GuidanceSchedule = "constant"
    """How guidance grows over the positions of an image."""
    guidance_interval: tuple[int, int] | None = None
    """First position with guidance and the one after the last; none for all."""
    dtype: Literal["auto", "bfloat16"] = "auto"
    """Type of the prior's matrices and cache: its own, or rounded for speed."""
    block_size: int | Literal["auto"] = "auto"
    """Images computed together, the last block filled up, since sums are rounded by their number; "auto": 16 on a CPU,
    64 elsewhere."""
    num_passes: int = 0
    """Passes in which an image is drawn, with a prior of free order; 0 for as many as it has tokens."""

    def __post_init__(self) -> None:
        check_sampling(self.guidance_scale, self.temperature, self.top_k, self.top_p, self.min_p)
        check_range(self, "seed", "num_passes", least=0)
        if self.batch_size != "auto":
            check_range(self, "batch_size", least=1)
        if self.block_size != "auto":
            check_range(self, "block_size", least=1)
        if self.guidance_interval is not None:
            object.__setattr__(self, "guidance_interval", tuple(self.guidance_interval))
            first, end = self.guidance_interval
            if not 0 <= first < end:
                raise InputError(f"guidance_interval is {self.guidance_interval}; valid are 0 <= first < end")


@dataclass(frozen=True)
class Sampling(SamplingOptions):
    """Pictures of the classes of a pipeline."""

    pipeline: str = "runs/pipeline"
    """Folder or hub repository of the pipeline."""
    output_dir: str = "runs/samples"
    """Where images/, grid.png and samples.json go."""
    classes: tuple[str, ...] = ()
    """Names or numbers of classes; all of them if none is given."""
    num_images_per_class: int = 8
    """Images of each class (or in all, for a prior without classes)."""
    num_images: int = 0
    """Images in all, the classes in turn: a large set, resumed and shared by processes; 0 for a small one."""
    format: Literal["folder", "npz", "webdataset"] = "folder"
    """Files of a large set: a PNG each, one samples.npz, or tar files."""
    part_size: int = 1000
    """Images of a tar file, and of what a process takes on at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        expand_home(self, "pipeline", "output_dir")
        check_range(self, "num_images", least=0)
        check_range(self, "num_images_per_class", "part_size", least=1)
        unused, instead = ("format", "part_size"), "which large sets alone have; give num_images as well"
        if self.num_images:
            unused, instead = ("num_images_per_class",), f"and num_images is {self.num_images}; give one of them"
        for name in unused:
            if (value := getattr(self, name)) != getattr(Sampling, name):
                raise InputError(f"{name} is {value}, {instead}")


def check_options(pipeline: ClassConditionalPipeline, labels: Tensor, options: SamplingOptions) -> None:
    """Check, before anything is drawn, that a pipeline can draw images of labels (N,) with these options.

    Raises:
        InputError: for passes, guidance or labels that are not the prior's.
    """
    config, interval = pipeline.tokenizer.config, options.guidance_interval
    check_passes(pipeline.prior.config, config.num_tokens, options.num_passes or None)
    scales = guidance_scales(options.guidance_scale, config.num_tokens, options.guidance_schedule, interval)
    check_vocabulary(pipeline.prior, labels, config.num_codes, guided=any(scale != 1 for scale in scales))


def sample_images(
    pipeline: ClassConditionalPipeline,
    labels: Tensor,
    options: SamplingOptions,
    numbers: Sequence[int] | None = None,
    progress: tqdm | None = None,
    draw: Callable[..., ImagePipelineOutput] | None = None,
) -> Iterator[Tensor]:
    """Images of labels (N,), in order, as uint8 batches (B, C, H, W).

    Args:
        numbers: of the images, 0 to N - 1 by default; image i draws from generator (seed, i).
        progress: a bar that is updated instead of an own one.
        draw: what draws images, called with their numbers and then as the pipeline, which does so by default.
    """
    numbers = range(len(labels)) if numbers is None else numbers
    num_classes = pipeline.prior.config.num_classes
    pipeline.set_progress_bar_config(disable=True)
    size = options.batch_size
    if size == "auto":
        size = _MANY_ON_CPU if pipeline.device.type == "cpu" else _MANY
    block_size = full_block_size(pipeline.device) if options.block_size == "auto" else options.block_size
    start = 0
    with (
        nullcontext(progress)
        if progress is not None
        else progress_bar(total=len(labels), desc="sampling", unit="image") as bar
    ):
        while start < len(labels):
            batch, own = labels[start : start + size], numbers[start : start + size]
            try:
                made = (partial(draw, own) if draw else pipeline)(
                    batch.tolist() if num_classes else None,
                    num_images_per_label=1 if num_classes else len(batch),
                    guidance_scale=options.guidance_scale,
                    temperature=options.temperature,
                    top_k=options.top_k,
                    top_p=options.top_p,
                    min_p=options.min_p,
                    generator=[image_generator(options.seed, i) for i in own],
                    output_type="uint8",
                    guidance_schedule=options.guidance_schedule,
                    guidance_interval=options.guidance_interval,
                    dtype=torch.bfloat16 if options.dtype == "bfloat16" else None,
                    block_size=block_size,
                    num_passes=options.num_passes or None,
                )
            except RuntimeError as error:
                if len(batch) == 1 or not should_reduce_batch_size(error):
                    raise
                size = -(-len(batch) // 2)
                bar.write(f"too little memory for {len(batch)} images at once; from here on {size}")
                continue
            bar.update(len(batch))
            start += len(batch)
            yield made.images


def image_generator(seed: int, number: int) -> torch.Generator:
    """The random numbers of image `number` under a seed."""
    state = np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0] >> np.uint64(1)))
