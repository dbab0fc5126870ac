"""`wvq push`: a saved pipeline, with its card, to the hub."""

from dataclasses import dataclass
from pathlib import Path

from wvq.tokenizer import InputError
from wvq.tokenizer.storage.atomic import write_file
from wvq.tokenizer.storage.hub import push_folder
from wvq.tokenizer.storage.untrusted import expand_home, read_text

from .card import Card, card
from .card_text import BEGIN, PLACE


@dataclass(frozen=True)
class Push:
    """A folder and the repository that it becomes."""

    folder: str
    """Folder of the pipeline; without a README.md it gets the card that `wvq card` writes."""
    repository: str
    """The repository as OWNER/NAME; it is made if need be."""
    private: bool = False
    """Whether a repository that is made is seen by its owner alone."""
    revision: str | None = None
    """Branch to upload to; the main one by default."""

    def __post_init__(self) -> None:
        expand_home(self, "folder")


def push(config: Push) -> str:
    """Upload a pipeline's folder in one commit; returns the repository's address.

    The access token is that of `hf auth login`, or of the environment variable HF_TOKEN.

    Raises:
        InputError: for a folder without a pipeline, or if the hub refuses or cannot be reached.
    """
    folder = Path(config.folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(f"{folder} holds no pipeline: it has no model_index.json")
    path = folder / "README.md"
    if not path.exists():
        card(Card(pipeline=config.folder))
    text = read_text(path)
    if BEGIN in text and PLACE in text:
        write_file(path, text.replace(PLACE, config.repository).encode())
    return push_folder(folder, config.repository, config.private, revision=config.revision)
