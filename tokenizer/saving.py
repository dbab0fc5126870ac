"""How a network is saved for its users: config.json and model.safetensors, written whole or not at all."""

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from .errors import InputError
from .reading import check_types, file_inside, first_line, load_weights, read_json

_UNFINISHED = ".partial"  # how names end of what is being written or removed; they start with a dot


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A new folder that takes the place of `target` when the block ends without an exception, and is gone if not.

    It is on the disk, not only in the system's memory, before it takes that place.

    Raises:
        InputError: if `target` holds anything that the new folder does not; that would be lost.
        OSError: if the disk is full; also where a library that writes says so in an exception of its own.
    """
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", suffix=_UNFINISHED, dir=target.parent) as room:
        new, old = Path(room) / "new", Path(room) / "old"
        new.mkdir()
        try:
            yield new
        except (SafetensorError, RuntimeError) as error:
            if "writ" not in str(error) and "os error" not in str(error):  # safetensors and torch have no type for it
                raise
            raise OSError(errno.EIO, f"could not be written ({str(error).splitlines()[0]})", str(target)) from error
        synchronize(*new.rglob("*"), new)
        if target.exists():
            lost = {path.name for path in target.iterdir()} - {path.name for path in new.iterdir()}
            if lost:
                raise InputError(f"{target} would be replaced, but holds '{min(lost)}' as well; give another folder")
            os.replace(target, old)
        os.replace(new, target)
        synchronize(target.parent)


def synchronize(*paths: Path) -> None:
    """Return when files and folders are on the disk, as a power failure would find them."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_unfinished(folder: Path, name: str = "*") -> None:
    """Remove what killed processes left of the files and folders of that name, a pattern, that they were writing to or
    removing from `folder`; only where nobody writes now."""
    for path in folder.glob(f".{name}{_UNFINISHED}"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def remove_whole(folder: Path) -> None:
    """Remove a folder that nobody sees half removed, even if this process is killed; see `remove_unfinished`."""
    leaving = folder.with_name(f".{folder.name}{_UNFINISHED}")
    os.replace(folder, leaving)
    shutil.rmtree(leaving)


def write_json(path: Path, content: Any) -> None:
    """Write content as JSON to path, whole or not at all."""
    write_file(path, (json.dumps(content, indent=2) + "\n").encode())


def write_csv(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of the same keys, at least one, as CSV to path, whole or not at all."""
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, list(rows[0]))
    table.writeheader()
    table.writerows(rows)
    write_file(path, text.getvalue().encode())


def write_file(path: Path, content: bytes) -> None:
    """Write content to path, whole or not at all; folders that are missing are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}{_UNFINISHED}")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    except OSError as error:  # that of a full disk names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        partial.unlink(missing_ok=True)


def state_sha256(module: nn.Module, start: bytes = b"") -> str:
    """sha256 of the bytes `start`, then of the names and values of a module's whole state."""
    digest = hashlib.sha256(start)
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def local_folder(name_or_path: str | Path, patterns: tuple[str, ...] = ("*.json", "*.safetensors")) -> Path:
    """The folder itself if it exists, otherwise the JSON and safetensors of the hub's repository of that name.

    Raises:
        InputError: if it is neither.
    """
    path = Path(name_or_path)
    if path.is_dir():
        return path
    try:
        return Path(snapshot_download(str(name_or_path), allow_patterns=list(patterns)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"'{name_or_path}' is no folder, and no repository of that name could be had from the hub"
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
            weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
            save_file(weights, partial / "model.safetensors")

    @classmethod
    def from_pretrained(cls, name_or_path: str | Path) -> Self:
        """Load from a folder or a hub repository, in eval mode.

        Raises:
            InputError: for a missing folder or file, another class's folder, an unknown or missing key, or weights that
                do not fit the configuration.
        """
        folder = local_folder(name_or_path)
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
