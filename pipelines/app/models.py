"""A pipeline that the application shows, and its test images."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset, load_splits

from ..class_conditional import ClassConditionalPipeline
from ..processes import this_device
from .values import whole_number


@dataclass(frozen=True)
class Model:
    """A pipeline under the name that a page calls it by.

    Attributes:
        name: the folder or repository as it was given.
        pipeline: in eval mode, without bars of progress.
        test_images: the evaluation split at the tokenizer's size; None if the application was given no data.
    """

    name: str
    pipeline: ClassConditionalPipeline
    test_images: ImageDataset | None

    @property
    def config(self) -> TokenizerConfig:
        """Of the tokenizer."""
        return self.pipeline.tokenizer.config

    @property
    def classes(self) -> list[str]:
        """Names of the classes, or their numbers; none for a prior without classes."""
        numbers = [str(label) for label in range(self.pipeline.prior.config.num_classes)]
        return list(self.pipeline.class_names) or numbers

    def label_of(self, class_name: Any) -> int | None:
        """The label of a class; None for a prior without classes.

        Raises:
            InputError: for a class that does not exist.
        """
        if not self.classes:
            return None
        if not isinstance(class_name, str) or not class_name:
            raise InputError(f"class is {class_name or 'empty'!r:.40}; choose one of {', '.join(self.classes)[:200]}")
        return int(self.pipeline.labels_of(class_name[:100]))

    def test_image(self, number: Any) -> tuple[Tensor, str | None]:
        """Test image `number`, uint8 (C, H, W), and its class if the prior knows one of that name.

        Raises:
            InputError: without test images, and for a number that none of them has.
        """
        if self.test_images is None:
            raise InputError("there are no test images; start wvq app with --data.source to have them")
        index = whole_number("number of the test image", number, 0, len(self.test_images) - 1)
        item = self.test_images.take([index])
        names = self.test_images.class_names
        name = names[int(item["labels"][0])] if names else None
        return item["images"][0], name if name in self.classes else None


def load_model(name: str, data: DataConfig | None) -> Model:
    """The model of a folder or hub repository, on this process's device.

    Raises:
        InputError: for a pipeline or images that cannot be read.
    """
    pipeline = ClassConditionalPipeline.from_pretrained(name).to(this_device())
    if pipeline.tokenizer.config.scales:
        raise InputError(f"{name:.60} has scales; the application shows tokenizers of one grid of tokens")
    pipeline.set_progress_bar_config(disable=True)
    test_images = None if data is None else load_splits(data.sized(pipeline.tokenizer.config))[1]
    return Model(name, pipeline, test_images)
