"""How a network is saved for its users: config.json and model.safetensors in a folder or on the hub."""

import hashlib
import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self, Unpack

import torch
from safetensors.torch import save_file
from torch import nn

from ..errors import InputError
from .atomic import write_json, written_whole
from .hub import AUTHORS_OWN, HubArguments, Pushed, local_folder
from .untrusted import check_types, file_inside, first_line, load_weights, read_json

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


UNSAID = {"unsaid": True}
"""Metadata of a field that was added to a configuration: while it has its default, nothing is written of it."""


def described(config: Any) -> dict[str, Any]:
    """A configuration, a dataclass, as its config.json holds it, and as it was before there were `UNSAID` fields."""
    unsaid = {f.name for f in fields(config) if "unsaid" in f.metadata and getattr(config, f.name) == f.default}
    return {name: value for name, value in asdict(config).items() if name not in unsaid}


def check_dtype(name: str, dtype: torch.dtype | None) -> None:
    """Raises: InputError: for what networks are not cast to; None leaves them as they are."""
    if dtype not in (None, *DTYPES):
        raise InputError(f"{name} is {dtype}; valid are {', '.join(map(str, DTYPES))}")


def state_sha256(module: nn.Module, start: bytes = b"") -> str:
    """sha256 of the bytes `start`, then of the names and values of a module's whole state.

    A value of half precision counts as that value in float32, which is what it is loaded as.
    """
    digest = hashlib.sha256(start)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        if tensor.dtype in (torch.float16, torch.bfloat16):
            tensor = tensor.float()
        digest.update(tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class SavedModule(nn.Module, Pushed):
    """A module built from one frozen dataclass, saved as that dataclass in JSON and its weights in safetensors."""

    config_class: ClassVar[type]
    config: Any
    rounded_from: dict[str, str]
    """The fingerprint of the saved weights by that of their rounding, of a module loaded in half precision."""

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into folder, in place of an older pair.

        Raises:
            InputError: if the folder, which may be a cloned repository, holds anything else.
        """
        with written_whole(Path(folder), beside=AUTHORS_OWN) as partial:
            description = {"_class_name": type(self).__name__, **described(self.config)}
            write_json(partial / "config.json", description)
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.saved_state().items()}
            save_file(weights, partial / "model.safetensors")

    def saved_state(self) -> dict[str, torch.Tensor]:
        """What is saved of the state: all of it, unless a module has some that only its training needs."""
        return self.state_dict()

    @property
    def fingerprint(self) -> str:
        """sha256 of the configuration and of every weight; in one dtype, tokenizers of one fingerprint give equal
        tokens."""
        return state_sha256(self, json.dumps(described(self.config), sort_keys=True).encode())

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, torch_dtype: torch.dtype | None = None, **hub: Unpack[HubArguments]
    ) -> Self:
        """Load from a folder or a hub repository, in eval mode.

        Args:
            name_or_path: the folder, or the repository as "owner/name".
            torch_dtype: what the module is cast to, float32 (the default), bfloat16 or float16; a quantizer in it stays
                in float32.
            hub: revision, subfolder, token, cache_dir, local_files_only: see `HubArguments`.

        Raises:
            InputError: for another dtype, a missing folder or file, another class's folder, an unknown or missing key,
                or weights that do not fit the configuration.
        """
        check_dtype("torch_dtype", torch_dtype)
        folder = local_folder(name_or_path, **hub)
        description = read_json(file_inside(folder, "config.json"))
        if not isinstance(description, dict) or description.pop("_class_name", cls.__name__) != cls.__name__:
            raise InputError(f"{folder / 'config.json'} does not describe a {cls.__name__}")
        known = {f.name for f in fields(cls.config_class)}
        unknown = sorted(set(description) - known)
        if unknown:
            raise InputError(f"{folder / 'config.json'} has the unknown key '{unknown[0]}'; valid are {sorted(known)}")
        try:
            check_types(description, cls.config_class)
            config = cls.config_class(**description)
        except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:  # torch has others for a size of 1e30
            raise InputError(
                f"{folder / 'config.json'} does not describe a {cls.__name__}: {first_line(error)}"
            ) from error
        weights = load_weights(folder, lambda: cls(config))
        module = cls(config)
        module.load_state_dict(weights)
        if torch_dtype not in (None, torch.float32):
            saved = module.fingerprint
            module.to(torch_dtype)
            module.rounded_from[module.fingerprint] = saved
        return module.eval()
