"""A list of a folder's files with their hashes, written last: what shows that a checkpoint is whole."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from .atomic import write_json
from .untrusted import read_json

MANIFEST = "manifest.json"


def write_manifest(folder: Path, known: Mapping[str, Any] | None = None) -> None:
    """Write manifest.json: bytes and sha256 of every other file of the folder.

    Args:
        folder: the folder.
        known: what `describe_file` says of some of its files, by their names: these are not read again.
    """
    known = known or {}
    files = sorted(path for path in folder.iterdir() if path.name != MANIFEST)
    write_json(folder / MANIFEST, {"files": {path.name: known.get(path.name) or describe_file(path) for path in files}})


def find_damage(folder: Path, part: int = 0, parts: int = 1) -> str | None:
    """What differs between a folder and its manifest.json, in a few words, or None if nothing does.

    Args:
        folder: the folder.
        part, parts: of so many parts of its files this one is looked at, so that processes may share them out.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        for name, expected in list(manifest["files"].items())[part::parts]:
            if Path(name).name != name:
                return f"{MANIFEST} names a file outside of the folder"
            if not (folder / name).is_file():
                return f"{name} is missing"
            found = describe_file(folder / name)
            if found["bytes"] != expected["bytes"]:
                return f"{name} has {found['bytes']} bytes instead of {expected['bytes']}"
            if found != expected:
                return f"{name} has another sha256"
    except InputError as error:
        return str(error).removeprefix(f"{folder}/")
    except OSError as error:
        return f"{Path(error.filename or folder).name} cannot be read: {error.strerror}"
    except (AttributeError, KeyError, TypeError):
        return f"{MANIFEST} is no list of files"
    return None


def describe_file(path: Path) -> dict[str, Any]:
    """Bytes and sha256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}
