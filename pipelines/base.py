"""What the pipelines share with each other and with diffusers' interface: components, folders, outputs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from wvq.tokenizer import InputError, TokenizerConfig
from wvq.tokenizer.data.decoding import BadImage, sized_pixels, to_uint8
from wvq.tokenizer.errors import NonFiniteError
from wvq.tokenizer.image_size import ImageSize
from wvq.tokenizer.storage.atomic import write_file, write_json, written_whole
from wvq.tokenizer.storage.hub import AUTHORS_OWN, HubArguments, Pushed, local_folder
from wvq.tokenizer.storage.pretrained import check_dtype
from wvq.tokenizer.storage.untrusted import check_inside, file_inside, first_line, read_json

ORIGIN_FILE = "training.json"
OUTPUT_TYPES = ("pil", "np", "pt", "uint8", "latent")

Images = Tensor | Image.Image | Sequence[Image.Image]
"""Images that are given: uint8 (N, C, H, W) of the tokenizer's size, or a PIL image or several, of any size."""


@dataclass
class ImagePipelineOutput:
    """What a pipeline made, by its output_type: for "pil" a list of PIL images, for "np" a float array (N, H, W, C) and
    for "pt" a float tensor (N, C, H, W), both in [0, 1], for "uint8" a uint8 tensor, for "latent" the tokenizer's
    indices."""

    images: Any


class Pipeline(Pushed):
    """Components in a folder each, and model_index.json that names them.

    The index is checked against the pipeline's own list of components: it cannot name code to run.
    """

    component_classes: ClassVar[dict[str, tuple[str, ...]]]
    """For each component its library and the names of its possible classes."""
    component_loaders: ClassVar[dict[str, Callable[[Path], nn.Module]]]
    shims: ClassVar[Mapping[str, str]] = {}
    """Files of Python by which diffusers, if it is told to trust the folder, finds the classes of this package; they
    are written, and never read here."""
    origin: dict[str, Any] | None = None
    """How its components were trained, where that is known; kept in training.json."""

    def __init__(self, **components: nn.Module):
        self.components = components
        for name, component in components.items():
            setattr(self, name, component.eval())
        self._progress_bar_config: dict[str, Any] = {}

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(next(iter(self.components.values())).parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights of the first component."""
        return next(next(iter(self.components.values())).parameters()).dtype

    def to(
        self,
        *targets: torch.device | str | int | torch.dtype,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> Self:
        """Move all components to a device, cast them to a dtype, or both: `.to("cuda", torch.bfloat16)`.

        Raises:
            InputError: for a dtype that is not one of `DTYPES`, or a device that there is not.
        """
        for target in targets:
            device, dtype = (device, target) if isinstance(target, torch.dtype) else (target, dtype)
        check_dtype("dtype", dtype)
        try:
            for component in self.components.values():
                component.to(device=device, dtype=dtype)
        except (
            AssertionError,
            RuntimeError,
        ) as error:  # torch's, for a device that it does not know or that is not here
            if isinstance(error, torch.OutOfMemoryError):
                raise
            raise InputError(f"device is {device!r}: {first_line(error)}") from error
        return self

    def set_progress_bar_config(self, **options: Any) -> None:
        """Options for tqdm, such as disable=True."""
        self._progress_bar_config = options

    def index(self) -> dict[str, Any]:
        """Content of model_index.json."""
        libraries = {name: classes[0] for name, classes in self.component_classes.items()}
        components = {name: [libraries[name], type(part).__name__] for name, part in self.components.items()}
        name = type(self).__name__
        return {"_class_name": ["pipeline", name] if self.shims else name, **components}

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model_index.json, and a folder per component (configuration in JSON, weights in safetensors).

        Raises:
            InputError: if the folder, which may be a cloned repository, holds anything else.
        """
        with written_whole(Path(folder), beside=AUTHORS_OWN) as partial:
            write_json(partial / "model_index.json", self.index())
            for name, component in self.components.items():
                component.save_pretrained(partial / name)  # pyright: ignore[reportCallIssue]
            if self.origin is not None:
                write_json(partial / ORIGIN_FILE, self.origin)
            for name, code in self.shims.items():
                write_file(partial / name, code.encode())

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, torch_dtype: torch.dtype | None = None, **hub: Unpack[HubArguments]
    ) -> Self:
        """Load from a folder or a hub repository.

        Args:
            name_or_path: the folder, or the repository as "owner/name".
            torch_dtype: of all components, one of `DTYPES`; by default the tokenizer has float32, and a prior what it
                was saved with.
            hub: revision, subfolder, token, cache_dir, local_files_only: see `HubArguments`.

        Raises:
            InputError: for a missing folder, an index of another pipeline or with other components, another dtype.
        """
        folder = local_folder(name_or_path, **hub)
        index = read_json(file_inside(folder, "model_index.json"))
        if not isinstance(index, dict) or index.get("_class_name") not in (cls.__name__, ["pipeline", cls.__name__]):
            raise InputError(f"{folder / 'model_index.json'} does not describe a {cls.__name__}")
        for name, (library, *classes) in cls.component_classes.items():
            if index.get(name) not in [[library, known] for known in classes]:
                raise InputError(
                    f"{folder / 'model_index.json'} has {name} = {index.get(name)}; "
                    f"a {cls.__name__} has {[library, ' or '.join(classes)]}"
                )
        for name in cls.component_loaders:  # a folder that is missing would be looked for on the hub, under its path
            check_inside(folder, folder / name)
            if not (folder / name).is_dir():
                raise InputError(f"{folder / name} does not exist")
        components = {name: load(folder / name) for name, load in cls.component_loaders.items()}
        pipeline = cls(**components, **cls.extra_arguments(index))
        if (folder / ORIGIN_FILE).exists():
            pipeline.origin = read_json(file_inside(folder, ORIGIN_FILE))
        return pipeline if torch_dtype is None else pipeline.to(torch_dtype)

    @classmethod
    def extra_arguments(cls, index: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the constructor, components apart, from model_index.json."""
        return {}


def sized_picture(picture: Image.Image, image_size: ImageSize, channels: int) -> Tensor:
    """A PIL image of any size and mode with the crop and resize of training: uint8 (C, H, W).

    Raises:
        InputError: for one without a faithful 8-bit form.
    """
    try:
        return torch.from_numpy(sized_pixels(picture, image_size, channels).copy())
    except BadImage as error:
        raise InputError(f"an image cannot be used: {error}") from error


def given_pictures(images: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
    """PIL images that are given, one or several.

    Raises:
        InputError: for none, and for anything else.
    """
    pictures = list(images) if isinstance(images, Sequence) else [images]
    if not pictures:
        raise InputError("images is empty; give at least one")
    for picture in pictures:
        if not isinstance(picture, Image.Image):
            kind = type(picture).__name__
            raise InputError(f"images has one of type {kind}; give a uint8 tensor (N, C, H, W), or PIL images")
    return pictures


def given_pixels(images: Images, config: TokenizerConfig) -> Tensor:
    """Images that are given, as uint8 (N, C, H, W); PIL images with the crop and resize of training.

    The shape of tensors is left to the tokenizer.

    Raises:
        InputError: for no picture, tensors of another type, and pictures without a faithful 8-bit form.
    """
    if not isinstance(images, Tensor):
        pictures = given_pictures(images)
        images = torch.stack([sized_picture(p, config.image_size, config.channels) for p in pictures])
    if images.dtype != torch.uint8:
        raise InputError(f"images have dtype {images.dtype}; tensors must be uint8, 0 to 255")
    if not len(images):
        raise InputError("images is empty; give at least one")
    return images


def check_output_type(output_type: str) -> None:
    """Raises: InputError: unless output_type is one of OUTPUT_TYPES."""
    if output_type not in OUTPUT_TYPES:
        raise InputError(f"output_type is '{output_type}'; valid are {', '.join(OUTPUT_TYPES)}")


def format_images(images: Tensor, output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
    """Images (N, C, H, W), uint8, in the form of output_type ("pil", "np", "pt" or "uint8")."""
    if output_type == "pil":
        return to_pil(images)
    if output_type == "uint8":
        return images
    unit = images.float() / 255
    return rearrange(unit, "n c h w -> n h w c").cpu().numpy() if output_type == "np" else unit


def to_pixels(images: Tensor) -> Tensor:
    """What a tokenizer has decoded, (N, C, H, W) in [-1, 1], as uint8.

    Raises:
        NonFiniteError: for NaN, which would be black or white.
    """
    if images.isnan().any():
        raise NonFiniteError("the decoded images are not finite; try whether all weights of the tokenizer are finite")
    return to_uint8(images)


def to_pil(images: Tensor) -> list[Image.Image]:
    """Images (N, C, H, W), uint8, as PIL images (grey for C = 1)."""
    pictures = rearrange(images, "n c h w -> n h w c").cpu().numpy()
    return [Image.fromarray(p if p.shape[-1] == 3 else p[..., 0]) for p in pictures]
