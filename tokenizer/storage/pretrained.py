"""How a network is saved for its users: config.json and model.safetensors in a folder or on the hub."""

import hashlib
import tempfile
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import nn

from ..errors import InputError
from .atomic import write_json, written_whole
from .untrusted import check_types, file_inside, first_line, load_weights, read_json, user_path


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


def local_folder(
    name_or_path: str | Path, patterns: tuple[str, ...] = ("*.json", "*.safetensors"), revision: str | None = None
) -> Path:
    """The folder itself if it exists, otherwise the JSON and safetensors of the hub's repository of that name.

    Args:
        name_or_path: the folder ("~" is the user's own), or the repository as "owner/name".
        patterns: files of the repository.
        revision: branch, tag or commit of the repository.

    Raises:
        InputError: if it is neither, or for a revision of a folder.
    """
    path = user_path(name_or_path)
    if path.is_dir():
        if revision is not None:
            raise InputError(f"revision is {revision!r}, but '{name_or_path}' is a folder; only a repository has one")
        return path
    try:
        return Path(snapshot_download(str(name_or_path), revision=revision, allow_patterns=list(patterns)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        of_revision = "" if revision is None else f" with the revision {revision!r}"
        raise InputError(
            f"'{name_or_path}' is no folder, and no repository of that name{of_revision} could be had from the hub"
        ) from error


class SavedModule(nn.Module):
    """A module built from one frozen dataclass, saved as that dataclass in JSON and its weights in safetensors."""

    config_class: ClassVar[type]
    config: Any

    def save_pretrained(self, folder: str | Path) -> None:
        """Write config.json and model.safetensors into folder, in place of an older pair.

        Raises:
            InputError: if the folder holds anything else.
        """
        with written_whole(Path(folder)) as partial:
            description = {"_class_name": type(self).__name__, **asdict(self.config)}
            write_json(partial / "config.json", description)
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.saved_state().items()}
            save_file(weights, partial / "model.safetensors")

    def saved_state(self) -> dict[str, torch.Tensor]:
        """What is saved of the state: all of it, unless a module has some that only its training needs."""
        return self.state_dict()

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path, revision: str | None = None) -> Self:
        """Load from a folder or a hub repository (of that revision), in eval mode and in float32.

        Raises:
            InputError: for a missing folder or file, another class's folder, an unknown or missing key, or weights that
                do not fit the configuration.
        """
        folder = local_folder(name_or_path, revision=revision)
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
        return module.eval()

    def push_to_hub(self, repo_id: str, private: bool = False) -> str:
        """Upload to the hub's repository repo_id ("owner/name"), made if need be; returns its address."""
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "model")
            api = HfApi()
            url = api.create_repo(repo_id, private=private, exist_ok=True)
            api.upload_folder(repo_id=repo_id, folder_path=Path(folder) / "model")
        return str(url)
