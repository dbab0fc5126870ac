"""The latents of the training images, encoded once and kept as shards under a key of all that could change them.

Any number of workers share the shards out by leases, as those of `wvq tokenize` do; a shard is written whole or not at
all, so who is killed has encoded one in vain at most.
"""

import hashlib
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from wvq.tokenizer.data import ImageDataset, to_model
from wvq.tokenizer.errors import NonFiniteError
from wvq.tokenizer.model import VQTokenizer
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.atomic import write_once
from wvq.tokenizer.storage.leases import work_through
from wvq.tokenizer.transplant.latents import INDEX, LatentDataset

from ..processes import this_process
from ..tokenize_images import IMAGES_AT_ONCE

SHARD_IMAGES = 2_048
_FORMAT = 1  # in the key: raise it when other latents are made of the same images


def encode_latents(folder: str | Path, tokenizer: VQTokenizer, images: ImageDataset, flip: bool) -> LatentDataset:
    """Encode the images with the encoder of a tokenizer, unless that has been done; a collective call.

    Args:
        folder: of the cache; each data set lies in a folder of its own, named by its key.
        tokenizer: whose encoder, which is that of its autoencoder, makes the latents.
        images: the data set.
        flip: whether each image is encoded mirrored as well.

    Raises:
        InputError: for a bad image.
        NonFiniteError: if the latents of an image are not finite.
    """
    assert tokenizer.config.autoencoder is not None
    base = {name: value for name, value in tokenizer.config.autoencoder.items() if name not in ("source", "revision")}
    size = tokenizer.config.image_size
    identity = {"format": _FORMAT, "autoencoder": base, "image_size": size, "images": images.fingerprint, "flip": flip}
    place = Path(folder) / hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    firsts = range(0, len(images), SHARD_IMAGES)
    views = [(mirrored, first) for mirrored in (False, True)[: 1 + flip] for first in firsts]
    parts = {f"latents-{number:05d}-of-{len(views):05d}": view for number, view in enumerate(views)}

    def shard(name: str) -> Path:
        return place / f"{name}.safetensors"

    def make(name: str) -> None:
        mirrored, first = parts[name]
        chosen = range(first, min(first + SHARD_IMAGES, len(images)))
        content = save({"latents": _encode(tokenizer, images, chosen, mirrored, name)})
        write_once(shard(name), content, place)

    def make_index() -> None:
        sizes = [min(SHARD_IMAGES, len(images) - first) for _, first in views]
        shards = [{"file": shard(name).name, "images": size} for name, size in zip(parts, sizes, strict=True)]
        shape = (tokenizer.config.latent_channels, *tokenizer.config.grid_shape)
        index = identity | {"shape": shape, "shards": shards}
        write_once(place / INDEX, (json.dumps(index, indent=2) + "\n").encode(), place)

    if not (place / INDEX).exists():
        work_through(place / ".leases", parts, lambda name: shard(name).exists(), lambda name, _: make(name))
        work_through(place / ".leases", ["index"], lambda _: (place / INDEX).exists(), lambda *_: make_index())
    this_process().wait_for_everyone()
    return LatentDataset(place)


@torch.no_grad()
def _encode(tokenizer: VQTokenizer, images: ImageDataset, chosen: range, mirrored: bool, name: str) -> Tensor:
    """Latents (N, L, h, w), float32 on the CPU: the same bit for bit whatever else is in a batch."""
    latents = []
    batches = images.batches(IMAGES_AT_ONCE, list(chosen))
    shown = {"desc": name, "unit": "batch", "disable": not this_process().is_main_process}
    for batch in progress_bar(batches, total=-(-len(chosen) // IMAGES_AT_ONCE), **shown):
        pixels = batch["images"].flip(-1) if mirrored else batch["images"]
        filled = F.pad(pixels, (0, 0, 0, 0, 0, 0, 0, IMAGES_AT_ONCE - len(pixels))).to(tokenizer.device)
        latents.append(tokenizer.encoder(to_model(filled))[: len(pixels)].float().cpu())
    found = torch.cat(latents)
    if not found.isfinite().all():
        raise NonFiniteError(f"latents of the images {chosen.start} to {chosen.stop - 1} are not finite")
    return found.contiguous()
