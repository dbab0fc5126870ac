"""The Hugging Face hub, as a place to load from and to push to: the same for tokenizer, prior and pipeline."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypedDict

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from ..errors import InputError
from .untrusted import check_inside, first_line, user_path

READ = ("*.json", "*.safetensors")
"""What is downloaded of a repository: nothing that could be run."""
CARD = ("README.md", "samples.png")
"""The card of a repository and its picture."""
AUTHORS_OWN = frozenset({".git", ".gitattributes", ".gitignore", *CARD, "LICENSE", "LICENSE.md", "LICENSE.txt"})
"""What a clone of a repository has beside the files of a model; saving into it leaves these alone."""

_REFUSALS: Any = (HFValidationError, *HfHubHTTPError.__bases__)  # these: the error of its HTTP client, and OSError


class HubArguments(TypedDict, total=False):
    """Where in the hub `from_pretrained` looks, named as in diffusers and transformers."""

    revision: str | None
    """Branch, tag or commit of the repository; its main branch by default."""
    subfolder: str | None
    """Folder in the repository, or in the folder, such as "tokenizer" of a pipeline."""
    token: str | bool | None
    """Access token; by default that of `hf auth login`, if there is one; False for none."""
    cache_dir: str | Path | None
    """Where downloads are kept; by default the cache that all libraries of the hub share."""
    local_files_only: bool
    """Whether to take what was downloaded before, and ask nobody."""


def local_folder(
    name_or_path: str | Path,
    patterns: Sequence[str] = READ,
    *,
    revision: str | None = None,
    subfolder: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Path:
    """The folder itself if it exists, otherwise the files of the hub's repository of that name.

    Args:
        name_or_path: the folder ("~" is the user's own), or the repository as "owner/name".
        patterns: files of the repository, or of its subfolder.
        revision, subfolder, token, cache_dir, local_files_only: see `HubArguments`.

    Raises:
        InputError: if it is neither, has no such subfolder, or for a revision of a folder.
    """
    folder = user_path(name_or_path)
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"revision is {revision!r}, but '{name_or_path}' is a folder; only a repository has one")
    else:
        place = {"revision": revision, "token": token, "local_files_only": local_files_only}
        if cache_dir is not None:
            place["cache_dir"] = user_path(cache_dir)
        wanted = [f"{subfolder}/{pattern}" if subfolder else pattern for pattern in patterns]
        try:
            folder = Path(snapshot_download(str(name_or_path), allow_patterns=wanted, **place))
        except _REFUSALS as error:
            of_revision = "" if revision is None else f" with the revision {revision!r}"
            source = "the cache; local_files_only asks nobody else" if local_files_only else "the hub"
            raise InputError(
                f"'{name_or_path}' is no folder, and no repository of that name{of_revision} could be had from {source}"
            ) from error
    if subfolder is None:
        return folder
    check_inside(folder, folder / subfolder)
    if not (folder / subfolder).is_dir():
        raise InputError(f"subfolder is {subfolder!r}, which '{name_or_path}' does not have")
    return folder / subfolder


def commit_of(folder: Path) -> str | None:
    """The commit that a folder of the hub's cache is of; None for any other folder."""
    for place in (folder, *folder.parents):
        if place.parent.name == "snapshots" and place.parent.parent.name.startswith("models--"):
            return place.name
    return None


def push_folder(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    token: str | bool | None = None,
    revision: str | None = None,
    kept: Sequence[str] = (),
) -> str:
    """Upload a folder to the hub's repository repo_id ("owner/name"), made if need be, in one commit.

    Args:
        folder: all of it is uploaded, but for .git and unfinished files.
        repo_id: the repository.
        private: whether a repository that is made is seen by its owner alone.
        token: see `HubArguments`; it must have the right to write.
        revision: branch to upload to, made if need be; the main one by default.
        kept: files that stay as they are where the repository has them already.

    Returns:
        The repository's address.

    Raises:
        InputError: if the hub refuses, or cannot be reached.
    """
    api = HfApi(token=token)
    try:
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        there = [name for name in kept if api.file_exists(repo_id, name, revision=revision)]
        api.upload_folder(
            repo_id=repo_id,
            folder_path=user_path(folder),
            revision=revision,
            ignore_patterns=["*.partial", *there],
            commit_message="Upload with wvq",
        )
    except _REFUSALS as error:
        raise InputError(f"'{repo_id}' could not be pushed to: {first_line(error)}") from error
    return str(url)


class Pushed(Protocol):
    """Whatever can be saved into a folder can be pushed to the hub."""

    def save_pretrained(self, folder: str | Path, /) -> Any: ...

    def push_to_hub(
        self, repo_id: str, private: bool = False, token: str | bool | None = None, revision: str | None = None
    ) -> str:
        """Save into the hub's repository repo_id ("owner/name"), made if need be; returns its address.

        Args:
            repo_id: the repository; a card that it has stays as it is.
            private: whether a repository that is made is seen by its owner alone.
            token: by default that of `hf auth login`.
            revision: branch to upload to; the main one by default.

        Raises:
            InputError: if the hub refuses, or cannot be reached.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(Path(folder) / "saved")
            return push_folder(Path(folder) / "saved", repo_id, private, token, revision, kept=CARD)
