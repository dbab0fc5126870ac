"""A tokenizer around an autoencoder that exists already: read from a folder or the hub, and given another quantizer."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor

from wvq.tokenizer.errors import InputError
from wvq.tokenizer.model import TokenizerConfig, VQTokenizer
from wvq.tokenizer.storage.hub import HubArguments, commit_of, local_folder
from wvq.tokenizer.storage.pretrained import described
from wvq.tokenizer.storage.untrusted import file_inside, first_line, load_weights, read_json, weight_files
from wvq.tokenizer.transplant.base_autoencoder import ADAPTERS, OWN, BaseAutoencoder, whole_network

_STEM = "diffusion_pytorch_model"  # of the files of weights in diffusers' folders
_FORMER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before diffusers 0.17


def read_autoencoder(
    name_or_path: str | Path, sha256: str | None = None, **hub: Unpack[HubArguments]
) -> tuple[BaseAutoencoder, dict[str, Tensor]]:
    """What an autoencoder is, and its weights by the names that they have in its network.

    Nothing of the folder is run, and only JSON and safetensors are read.

    Args:
        name_or_path: a folder or hub repository of diffusers (see `ADAPTERS` for the classes), or of a `VQTokenizer`.
        sha256: that its weights are to have; None takes any.
        hub: revision, subfolder, token, cache_dir, local_files_only: see `HubArguments`.

    Raises:
        InputError: for a missing folder or file, another class, weights that do not fit the configuration or have
            another sha256, and if diffusers is needed and not installed.
    """
    folder = local_folder(name_or_path, **hub)
    description = read_json(file_inside(folder, "config.json"))
    class_name = description.get("_class_name") if isinstance(description, dict) else None
    if class_name not in ADAPTERS:
        raise InputError(
            f"{folder / 'config.json'} describes the class {class_name!r}; valid are {', '.join(ADAPTERS)}"
        )
    files = weight_files(folder, "model" if class_name == OWN else _STEM)
    found = _sha256(files)
    if sha256 not in (None, found):
        raise InputError(f"sha256 is {sha256}, but the weights of '{name_or_path}' have {found}")
    commit = commit_of(folder)
    origin: dict[str, Any] = {
        "source": str(name_or_path) if commit else folder.resolve().name,
        "revision": commit,
        "sha256": found,
    }
    if class_name == OWN:
        tokenizer = VQTokenizer.from_pretrained(folder)
        network = json.loads(json.dumps(described(tokenizer.config)))  # lists, as in a file
        return BaseAutoencoder(OWN, network, **origin), dict(tokenizer.state_dict())
    try:
        base = BaseAutoencoder(class_name, whole_network(class_name, description), **origin)
    except (TypeError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'} does not describe a {class_name}: {first_line(error)}") from error
    return base, load_weights(folder, base.build, _STEM, _present_name)


def transplanted(base: BaseAutoencoder, weights: dict[str, Tensor], **options: Any) -> VQTokenizer:
    """A tokenizer with the encoder and decoder of an autoencoder, and a quantizer and projectors that are new.

    Args:
        base, weights: of `read_autoencoder`.
        options: of `TokenizerConfig`, such as codebook_size, quantizer and projector_channels; image_size and
            codebook_dim are by default those of the autoencoder and of its latents.

    Raises:
        InputError: for options that do not fit the autoencoder or each other, and without an image_size where the
            autoencoder has none.
    """
    image_size = options.pop("image_size", None) or base.image_size
    if image_size is None:
        raise InputError(f"image_size is not given, and an {base.class_name} is made for none; give one")
    config = TokenizerConfig(
        image_size=image_size,
        channels=base.channels[0],
        latent_channels=base.latent_channels,
        codebook_dim=options.pop("codebook_dim", None) or base.latent_channels,
        autoencoder=vars(base).copy(),
        **options,
    )
    tokenizer = VQTokenizer(config)
    with torch.no_grad():
        for half in (tokenizer.encoder, tokenizer.decoder):
            network = half.network
            assert isinstance(network, torch.nn.Module)
            network.load_state_dict({name: weights[name] for name in network.state_dict()})
    return tokenizer


def _sha256(files: list[Path]) -> str:
    """Of the bytes of all files, one after the other."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()


def _present_name(name: str) -> str:
    """Of a weight of an attention layer that an earlier version of diffusers has written."""
    return re.sub(r"(?<=\.)(query|key|value|proj_attn)(?=\.)", lambda former: _FORMER_NAMES[former[0]], name)
