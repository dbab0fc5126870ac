"""`wvq benchmark inpainting`: how far what fills a hole is from what was there, in images that no model has seen."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wvq.pipelines import ClassConditionalPipeline, ImagePipelineOutput
from wvq.pipelines.editing.known_tokens import drawn_positions
from wvq.pipelines.editing.masked_images import MaskedImages, masked_images
from wvq.pipelines.editing.masks import below, outside
from wvq.pipelines.generation import SamplingOptions, sample_images
from wvq.pipelines.processes import this_device
from wvq.tokenizer import InputError
from wvq.tokenizer.adversarial.perceptual import PerceptualLoss
from wvq.tokenizer.data.batches import evenly_spaced
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset, load_splits
from wvq.tokenizer.data.decoding import to_model
from wvq.tokenizer.errors import check_range
from wvq.tokenizer.image_grid import save_grid
from wvq.tokenizer.image_size import height_and_width
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import user_path

from ..report.statistics import paired_t_test, t_interval
from .hole_fills import fill_rows

METHODS = {
    "inpaint": "the pipeline's own inpainting: the encoder sees what is known, the hole filled",
    "leak": "the same prior beside tokens of the whole image, which know something of the hole; for comparison",
}
_ROW = "{:<40}{:>10}{:>9}{:>13}{:>10}{:>16}"
_FILL_ROW = "{:<20}{:<24}{:>12}{:>20}"


@dataclass(frozen=True)
class InpaintingBenchmark:
    """A hole in the middle of evaluation images is filled by each pipeline, and compared with what was there."""

    pipeline: tuple[str, ...] = ("runs/pipeline",)
    """Folders or hub repositories of the pipelines, of one image size; may be given several times."""
    data: DataConfig = field(default_factory=DataConfig)
    """The images."""
    output_dir: str = "runs/benchmark-inpainting"
    """Where inpainting.json and inpainting.png go."""
    num_images: int = 200
    """Images, taken from all over the evaluation split."""
    hole: float = 0.5
    """Side of the hole, over that of the images."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """How it is filled; image i from the same random numbers by each pipeline."""
    perceptual: str | None = None
    """Backbone of a perceptual distance as well, st-lpips-alex or st-lpips-vgg16."""
    num_shown: int = 12
    """Images of the picture, a row for each method."""

    def __post_init__(self) -> None:
        for name, value in (("pipeline", tuple(str(user_path(name)) for name in self.pipeline)),
                            ("output_dir", str(user_path(self.output_dir)))):  # fmt: skip
            object.__setattr__(self, name, value)
        if not self.pipeline or len(set(self.pipeline)) < len(self.pipeline):
            raise InputError(f"pipeline is {list(self.pipeline)}; give one or several different ones")
        check_range(self, "num_images", least=2)
        check_range(self, "num_shown", least=1, most=self.num_images)
        if not 0 < self.hole <= 1:
            raise InputError(f"hole is {self.hole}; it must be above 0 and at most 1")


def benchmark_inpainting(config: InpaintingBenchmark) -> str:
    """Measure, write numbers and picture, and return the table.

    Raises:
        InputError: for pipelines or images that cannot be used, or that do not fit each other.
    """
    perceptual = PerceptualLoss(config.perceptual).to(this_device()) if config.perceptual else None
    pipelines = [ClassConditionalPipeline.from_pretrained(name).to(this_device()) for name in config.pipeline]
    sizes = {(part.tokenizer.config.image_size, part.tokenizer.config.channels) for part in pipelines}
    if len(sizes) > 1:
        raise InputError(
            f"the pipelines have images of sizes and channels {sorted(sizes, key=str)}; give pipelines of one size"
        )
    tokenizer_config = pipelines[0].tokenizer.config
    _, dataset = load_splits(config.data.sized(tokenizer_config))
    batch = dataset.take(evenly_spaced(len(dataset), config.num_images))
    images, size = batch["images"], tokenizer_config.image_size
    height, width = height_and_width(size)
    down, across = (max(1, round(config.hole * side)) for side in (height, width))
    top, left = (height - down) // 2, (width - across) // 2
    box = (left, top, left + across, top + down)
    hole = ~outside(box, size)
    given = masked_images(images, hole, tokenizer_config)
    shown = evenly_spaced(len(images), config.num_shown)
    rows = [_row("", "filled", images, given, given.pixels, perceptual)]
    sheet = [images[shown], given.pixels[shown]]
    for name, pipeline in zip(config.pipeline, pipelines, strict=True):
        labels = _labels(pipeline, dataset, batch["labels"])
        for method in METHODS:
            draw = partial(_inpaint if method == "inpaint" else _leak, pipeline, images, hole)
            made = torch.cat([b.cpu() for b in sample_images(pipeline, labels, config.sampling, draw=draw)])
            rows.append(_row(name, method, images, given, given.around(made), perceptual))
            sheet.append(given.around(made)[shown])
    for row in (rows[0], *rows[2:]):
        test = paired_t_test(row["psnr_of_images"], rows[1]["psnr_of_images"])
        row["difference"] = {**asdict(test.difference), "p": test.p}
        if perceptual is not None:
            test = paired_t_test(row["perceptual_of_images"], rows[1]["perceptual_of_images"])
            row["perceptual_difference"] = {**asdict(test.difference), "p": test.p}
    masks = {"hole": hole, "lower half": below(height // 2, size), "around the hole": ~hole}
    tokenizers = {part.tokenizer.fingerprint: part.tokenizer for part in pipelines}
    fills = [{"tokenizer": key, **row} for key, own in tokenizers.items() for row in fill_rows(own, images, masks)]
    folder = Path(config.output_dir)
    protocol = {
        "methods": {"filled": "each pixel of the hole has the colour of the nearest outside", **METHODS},
        "psnr": "mean over images of the PSNR of the hole's pixels, all channels, range 255",
        "perceptual": perceptual
        and {
            "name": perceptual.name,
            "weights_sha256": perceptual.fingerprint,
            "of": "whole images, the hole filled, in [-1, 1]; mean over images, with 95 % by Student's t",
        },
        "interval": "95 %, by Student's t over images; differences from the first pipeline's inpainting, in pairs",
        "hole": list(box),
        "same_codes, feature_error": "of the positions that are kept, beside those of the whole image: share of equal "
        "codes; mean squared distance of the features, over the trace of their covariance",
        "images": dataset.description,
    }
    measured = {"config": asdict(config), "protocol": protocol, "rows": rows, "fills": fills}
    write_json(folder / "inpainting.json", measured)
    save_grid(torch.cat(sheet), folder / "inpainting.png", columns=len(shown))
    return _table(rows, fills)


def _inpaint(
    pipeline: ClassConditionalPipeline,
    images: Tensor,
    hole: Tensor,
    numbers: Sequence[int],
    labels: Any,
    **options: Any,
) -> ImagePipelineOutput:
    options["num_images_per_label"] = 1  # without classes as well: each number has an image of its own
    return pipeline.inpaint(images[list(numbers)], hole, labels, **options)


def _leak(
    pipeline: ClassConditionalPipeline,
    images: Tensor,
    hole: Tensor,
    numbers: Sequence[int],
    labels: Any,
    **options: Any,
) -> ImagePipelineOutput:
    """As `_inpaint`, but that the tokens around the hole are those of images without one."""
    tokenizer = pipeline.tokenizer
    indices = tokenizer.encode(to_model(images[list(numbers)].to(pipeline.device)))
    drawn = drawn_positions(tokenizer, hole[None]).to(indices.device).expand(indices.shape[:3])
    drawn = drawn if indices.ndim == 3 else drawn[..., None]
    return pipeline(labels, known_tokens=indices.masked_fill(drawn, -1), **options)


def _labels(pipeline: ClassConditionalPipeline, dataset: ImageDataset, labels: Tensor) -> Tensor:
    """Of images, as the pipeline's prior numbers its classes: by their names, where both have some."""
    if not pipeline.prior.config.num_classes:
        return torch.zeros_like(labels)
    named = pipeline.class_names and dataset.class_names
    return pipeline.labels_of([dataset.class_names[label] for label in labels.tolist()] if named else labels)


@torch.no_grad()
def _row(
    name: str, method: str, images: Tensor, given: MaskedImages, made: Tensor, perceptual: PerceptualLoss | None
) -> dict[str, Any]:
    """The scores of images that were made, uint8 (N, C, H, W)."""
    errors = ((made.double() - images) / 255).square().mean(dim=1)
    mean = (errors * given.hidden).sum(dim=(1, 2)) / given.hidden.sum(dim=(1, 2))
    psnr = (-10 * mean.clamp(min=1 / 255**2 / images[0].numel()).log10()).tolist()
    row = {"pipeline": name, "method": method, "psnr": asdict(t_interval(psnr)), "psnr_of_images": psnr}
    if perceptual is not None:
        pairs = zip(images.split(64), made.split(64), strict=True)
        distances = [perceptual.distances(*(to_model(x.to(this_device())) for x in pair)) for pair in pairs]
        row["perceptual_of_images"] = torch.cat(distances).tolist()
        row["perceptual"] = asdict(t_interval(row["perceptual_of_images"]))
    return row


def _table(rows: Sequence[dict[str, Any]], fills: Sequence[dict[str, Any]]) -> str:
    measured = "perceptual" in rows[0]
    lines = [_ROW.format("pipeline", "method", "PSNR", "difference", "p", "perceptual" if measured else "")]
    for row in rows:
        psnr, difference = row["psnr"], row.get("difference")  # of all but the first pipeline's inpainting
        apart = (f"{difference['value']:+.2f}", f"{difference['p']:.3g}") if difference else ("", "")
        distance = f"{row['perceptual']['value']:.4f}" if measured else ""
        lines.append(_ROW.format(row["pipeline"][-38:], row["method"], f"{psnr['value']:.2f}", *apart, distance))
    lines += ["", _FILL_ROW.format("drawn", "filled with", "same codes", "error of features")]
    for row in fills:
        same, error = f"{row['same_codes']:.3f}", f"{row['feature_error']:.3f}"
        lines.append(_FILL_ROW.format(row["mask"], row["fill"], same, error))
    return "\n".join(lines)
