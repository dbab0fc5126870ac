"""Where images come from and what is made of them."""

from dataclasses import dataclass

from ..errors import InputError
from .sources import FASHION_MNIST


@dataclass(frozen=True)
class DataConfig:
    """Where images come from and what is made of them."""

    source: str = FASHION_MNIST
    """fashion-mnist, a folder of images, .tar (webdataset) or .parquet shards, or a hub data set owner/name."""
    root: str | None = None
    """Folder with the four idx files of fashion-mnist, gzipped or not; by default it is searched for."""
    image_size: int = 28
    """Height and width after the centre crop and resize."""
    channels: int = 3
    """Colour channels: 1 for grey, 3 for RGB."""
    image_column: str = "image"
    """Column of a table that holds the encoded images."""
    label_column: str = "label"
    """Column of a table, or field of webdataset's .json, that holds the classes; if it is absent there are none."""
    streaming: bool = False
    """Keep nothing of each image in memory, for shards of more images than fit; they are shuffled in two levels."""
    evaluation_fraction: float = 0.1
    """Share held out for evaluation where the source has no evaluation split of its own."""
    horizontal_flip: bool = False
    """Mirror training images at random."""
    skip_bad_images: bool = False
    """Leave out images that cannot be read or decoded, instead of stopping at the first."""
    num_workers: int = 0
    """Processes that decode images, beside the main one."""

    def __post_init__(self) -> None:
        if self.image_size < 4:
            raise InputError(f"image_size is {self.image_size}; it must be at least 4")
        if self.channels not in (1, 3):
            raise InputError(f"channels is {self.channels}; valid are 1 and 3")
        if not 0 < self.evaluation_fraction < 1:
            raise InputError(
                f"evaluation_fraction is {self.evaluation_fraction}; it must be between 0 and 1, exclusive"
            )
        if self.num_workers < 0:
            raise InputError(f"num_workers is {self.num_workers}; it must be at least 0")
        if self.root is not None and self.source != FASHION_MNIST:
            raise InputError(f"root is {self.root!r}, but only the source {FASHION_MNIST} has one, not {self.source!r}")
