"""What `wvq evaluate` is asked for."""

from dataclasses import dataclass, field, replace
from typing import Literal

from wvq.pipelines.generation import SamplingOptions
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.untrusted import expand_home

from .feature_scores import FEATURE_SCORES
from .perturbation import check_perturbed_images


@dataclass(frozen=True)
class Evaluation:
    """Scores of reconstructions, of generated images, or of images from elsewhere."""

    tokenizer: str | None = None
    """Folder or hub repository of a tokenizer, to score its reconstructions alone."""
    pipeline: str | None = None
    """Folder or hub repository of a pipeline, to score its tokenizer and its samples."""
    images: str | None = None
    """Folder or .npz of generated images, or what `wvq sample` wrote, to score them against `reference`."""
    reference: str | None = None
    """What generated images are compared with: a folder or .npz of images, the statistics of one (a folder that
    save_reference wrote, or a published .npz of mu and sigma), or an .npz of both, as ADM's; by default images of
    `data`."""
    reference_split: Literal["train", "evaluation"] = "train"
    """Which images of `data`; published FIDs are of training images."""
    save_reference: str | None = None
    """Folder for the statistics of the reference, to be given as `reference` another time."""
    data: DataConfig = field(default_factory=lambda: DataConfig(source=""))
    """The images; reconstructions are those of the evaluation split, and compared with it. Without a source they are
    fashion-mnist; `images` need a source, or a reference."""
    extractor: str = "inception"
    """inception, efficientnet-lite0, dinov2 or clip."""
    extractor_weights: str | None = None
    """File with the extractor's weights, where they are not in the usual place; of dinov2 and clip a folder."""
    scores: list[str] = field(default_factory=list)
    """Further scores of the same features: fid, sfid, fid-infinity, kid, is, precision, recall, density, coverage,
    cmmd, mind, mifid, class-fid, class-accuracy."""
    codebook: bool = False
    """Examine the tokenizer's codebook instead, without extractor: dead and duplicate codes, dimensions, and what to
    change; with `output`, a picture of features and codes is written beside it."""
    resamples: int = 0
    """Bootstrap resamples for 95 % intervals of those of them that allow it: fid, sfid, is, cmmd, mind; 0 for none."""
    allow_few_images: bool = False
    """Give a Fréchet distance of no more images than the extractor has dimensions, which is mostly bias."""
    num_images: int = 5_000
    """Images that are generated, the classes in equal shares."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    """How they are drawn."""
    perturbed_images: int = 0
    """Evaluation images whose tokens are perturbed for pFID, each 15 times; 0 for none."""
    lpips_weights: str | None = None
    """torchvision's file of AlexNet's weights, for the LPIPS of reconstructions as well."""
    resume_dir: str = "runs/evaluation"
    """Folder of what is computed until the scores are there: the same command resumes from it after it was stopped, and
    processes share it."""
    keep_features: bool = False
    """Leave it there, so that more scores of the same images need no pass through a network."""
    output: str | None = None
    """JSON file for scores and protocol."""

    def __post_init__(self) -> None:
        expand_home(self, "tokenizer", "pipeline", "images", "reference", "save_reference", "resume_dir", "output")
        expand_home(self, "extractor_weights", "lpips_weights")
        given = [name for name in ("tokenizer", "pipeline", "images") if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"tokenizer is {self.tokenizer}, pipeline is {self.pipeline} and images is {self.images}; "
                "give one of them"
            )
        for name in ("reference", "save_reference"):
            if self.tokenizer is not None and getattr(self, name) is not None:
                raise InputError(
                    f"{name} is {getattr(self, name)}, but reconstructions of a tokenizer are compared with the very "
                    "images they come from"
                )
        if self.reference is not None and self.reference_split != "train":
            raise InputError(f"reference_split is {self.reference_split}, but reference is {self.reference}; give one")
        if self.codebook and self.images is not None:
            raise InputError(f"codebook is true, but images, {self.images}, have none; give a tokenizer or a pipeline")
        for name, value, least in (("num_images", self.num_images, 2), ("resamples", self.resamples, 0)):
            if value < least:
                raise InputError(f"{name} is {value}; it must be at least {least}")
        if self.resamples == 1:
            raise InputError("resamples is 1; an interval needs at least 2")
        check_perturbed_images(self.perturbed_images)
        if self.perturbed_images and self.images is not None:
            raise InputError(
                f"perturbed_images is {self.perturbed_images}, but images, {self.images}, have no tokens; give a "
                "tokenizer or a pipeline"
            )
        unknown = [name for name in self.scores if name not in FEATURE_SCORES]
        if unknown:
            raise InputError(f"scores has {unknown[0]}; valid are {', '.join(FEATURE_SCORES)}")
        if not self.data.source:
            if self.images is not None and self.reference is None:
                raise InputError(
                    f"images is {self.images}, but there is nothing to compare them with; give reference (a folder or "
                    "an .npz of real images, or statistics of some), or data.source, such as fashion-mnist"
                )
            object.__setattr__(self, "data", replace(self.data, source=DataConfig.source))
