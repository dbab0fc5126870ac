"""Where images come from and what is made of them."""

from dataclasses import dataclass, replace
from typing import Any, Self

from ..errors import InputError
from ..image_size import ImageSize, height_and_width, image_size
from .published import READERS

IMAGE_SIZE, CHANNELS = 28, 3
"""What images have by default."""


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and what is made of them."""

    source: str = "fashion-mnist"
    """fashion-mnist, cifar-10, a folder of images, .tar (webdataset) or .parquet shards, or owner/name on the hub."""
    root: str | None = None
    """Folder with the files of fashion-mnist or cifar-10; by default they are searched for."""
    image_size: ImageSize | None = None
    """Height and width after the centre crop and resize, or [h, w]; by default the tokenizer's, or 28 without one."""
    channels: int | None = None
    """Colour channels, 1 for grey or 3 for RGB; by default those of the tokenizer, or 3 without one."""
    image_column: str = "image"
    """Column of a table that holds the encoded images."""
    label_column: str = "label"
    """Column of a table, or field of webdataset's .json, that holds the classes; if it is absent there are none."""
    streaming: bool = False
    """Keep nothing of each image in memory, for shards of more images than fit; they are shuffled in two levels."""
    evaluation_fraction: float = 0.1
    """Share held out for evaluation where the source has no evaluation split of its own."""
    validation_fraction: float = 0.0
    """Share of the training images held out in place of the evaluation images, to choose settings by; 0 for none."""
    horizontal_flip: bool = False
    """Mirror training images at random."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read or decoded, instead of stopping at the first."""
    num_workers: int = 0
    """Processes that decode images, beside the main one."""

    def __post_init__(self) -> None:
        if self.image_size is not None:
            object.__setattr__(self, "image_size", image_size(self.image_size, least=4))
        if self.channels not in (None, 1, 3):
            raise InputError(f"channels is {self.channels}; valid are 1 and 3")
        if not 0 < self.evaluation_fraction < 1:
            raise InputError(
                f"evaluation_fraction is {self.evaluation_fraction}; it must be between 0 and 1, exclusive"
            )
        if not 0 <= self.validation_fraction < 1:
            raise InputError(f"validation_fraction is {self.validation_fraction}; it must be at least 0 and below 1")
        if self.num_workers < 0:
            raise InputError(f"num_workers is {self.num_workers}; it must be at least 0")
        if self.root is not None and self.source not in READERS:
            raise InputError(f"root is {self.root!r}, but only {' and '.join(READERS)} have one, not {self.source!r}")

    def sized(self, like: Any) -> Self:
        """With the image_size and the channels that were left open: those of the configuration of a tokenizer."""
        return replace(
            self,
            image_size=like.image_size if self.image_size is None else self.image_size,
            channels=like.channels if self.channels is None else self.channels,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of an image, (C, H, W); with the defaults for what is left open."""
        return CHANNELS if self.channels is None else self.channels, *height_and_width(self.size)

    @property
    def size(self) -> ImageSize:
        """The image_size, or the default."""
        return IMAGE_SIZE if self.image_size is None else self.image_size
