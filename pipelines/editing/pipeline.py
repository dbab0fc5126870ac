"""A part of given images drawn anew: completed, inpainted, outpainted."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.blocks import in_blocks
from wvq.tokenizer.data.decoding import to_model

from ..base import ImagePipelineOutput, Images, Pipeline, check_output_type, format_images
from ..labels import ClassLabels
from .known_tokens import drawn_positions
from .masked_images import Masks, masked_images
from .masks import below, outside


class EditingPipeline(Pipeline, ABC):
    """What a pipeline does that can draw some tokens of an image beside others that are given.

    Example:
        >>> pipeline = ClassConditionalPipeline.from_pretrained("runs/demo/wasserstein-0/prior/pipeline")
        >>> edited = pipeline.inpaint(Image.open("ship.png"), Image.open("mask.png"), "ship").images
    """

    tokenizer: VQTokenizer

    @abstractmethod
    def __call__(self, *arguments: Any, **options: Any) -> ImagePipelineOutput | Any:
        """Generate images of classes; among the options are known_tokens (N, h, w), -1 where one is to be drawn."""

    @abstractmethod
    def labels_of(self, class_labels: ClassLabels | None) -> Tensor:
        """Labels (N,) of classes."""

    def inpaint(
        self,
        images: Images,
        mask: Masks,
        class_labels: ClassLabels | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        num_images_per_label: int = 1,
        **options: Any,
    ) -> ImagePipelineOutput | Any:
        """Draw the masked part of images anew; all other pixels are those of the images.

        What is drawn does not depend on what was there: it is filled before the images are encoded, and the tokens that
        see mostly into it are drawn as well. A raster prior knows, of the tokens that are kept, those before the one
        that it draws, so that what lies below a hole does not guide it; a prior of free order knows all of them.

        Args:
            images: uint8 (N, C, H, W) of the tokenizer's size, or PIL images of any size and mode, which get the crop
                and resize of training, what is hidden being filled before.
            mask: what to draw, for all images or for each: bool (H, W) or (N, H, W) of the tokenizer's size, true
                there, or PIL masks (mode 1 or L) of the images' size, white there.
            class_labels: one per image; None for a prior without classes.
            output_type: as for `__call__`; "latent" gives the tokens, to which no pixels are pasted.
            return_dict: whether to return `ImagePipelineOutput` instead of a tuple.
            num_images_per_label: how often each image is drawn; its results follow each other.
            options: the others of `__call__`.

        Raises:
            InputError: for images or a mask of another size, shape or type, and as `__call__`.
        """
        check_output_type(output_type)
        if num_images_per_label < 1:
            raise InputError(f"num_images_per_label is {num_images_per_label}; it must be at least 1")
        if options.get("known_tokens") is not None:
            raise InputError("known_tokens was given; here they are those of the images outside of the mask")
        if self.tokenizer.config.scales:
            raise InputError("images are edited position by position; tokens of scales have no position of their own")
        given = masked_images(images, mask, self.tokenizer.config).to(self.device)
        each = isinstance(options.get("generator"), Sequence)  # then an image is the same in any batch
        rows = max(0, options.get("block_size") or 0)  # the sampler refuses one below 1
        rows = rows or (None if each else len(given.pixels))
        indices = in_blocks(self.tokenizer.encode, to_model(given.pixels), rows)
        drawn = drawn_positions(self.tokenizer, given.hidden)
        drawn = drawn if indices.ndim == 3 else drawn[..., None]  # all codes of a position together
        options["known_tokens"] = indices.masked_fill(drawn, -1).repeat_interleave(num_images_per_label, dim=0)
        if class_labels is None:  # without classes there is one label, the null class, for all images
            num_images_per_label *= len(indices)
        elif len(labels := self.labels_of(class_labels)) != len(indices):
            raise InputError(f"class_labels is {class_labels!r}; give one for each of {len(indices)} images")
        else:
            class_labels = labels
        latent = output_type == "latent"
        options |= {"num_images_per_label": num_images_per_label, "output_type": "latent" if latent else "uint8"}
        made = self(class_labels, **options).images
        result = made if latent else format_images(given.around(made), output_type)
        return ImagePipelineOutput(result) if return_dict else (result,)

    def complete(
        self, images: Images, rows: int, class_labels: ClassLabels | None = None, **options: Any
    ) -> ImagePipelineOutput | Any:
        """Keep the uppermost rows of pixels of images (N, C, H, W) and draw the rest; arguments as for `inpaint`.

        Raises:
            InputError: for more rows than there are, and as `inpaint`.
        """
        return self.inpaint(images, below(rows, self.tokenizer.config.image_size), class_labels, **options)

    def outpaint(
        self,
        images: Images,
        box: tuple[int, int, int, int],
        class_labels: ClassLabels | None = None,
        **options: Any,
    ) -> ImagePipelineOutput | Any:
        """Keep a box of images (N, C, H, W) and draw all around it; arguments as for `inpaint`.

        Args:
            box: left, top, right and bottom of what is kept, in pixels of the tokenizer's images, as PIL has it.

        Raises:
            InputError: for a box that is not inside of the images, and as `inpaint`.
        """
        return self.inpaint(images, outside(box, self.tokenizer.config.image_size), class_labels, **options)
