"""bad_images.jsonl in the folder of a run: every image that the run left out, one JSON line each, with the reason."""

import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import InputError

FILE_NAME = "bad_images.jsonl"


class BadImageReport:
    """Lines {"name": ..., "split": ..., "reason": ...}; those of earlier parts of the run are kept.

    Pickles, so that the worker processes of a data loader can add to it: a line is appended in one write.

    Args:
        folder: of the run.
        split: of which split the images are.
    """

    def __init__(self, folder: str | Path, split: str):
        self.path, self.split = Path(folder) / FILE_NAME, split
        self._named = {row["name"] for row in read_bad_images(folder)}
        self._torn = self.path.exists() and not self.path.read_bytes().endswith(b"\n")  # a crash cut off its last line

    def add(self, reasons: Mapping[str, str]) -> None:
        """Write down images by name, with the reason; those that are there already are not written again."""
        for name, reason in reasons.items():
            if name not in self._named:
                self._named.add(name)
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a") as file:
                    line = json.dumps({"name": name, "split": self.split, "reason": reason})
                    file.write("\n" * self._torn + line + "\n")
                self._torn = False

    def warn(self, reasons: Mapping[str, str]) -> None:
        """Write down images and say so."""
        for name, reason in reasons.items():
            if name not in self._named:
                print(f"left out from here on: {shown(name)}: {reason}; see {self.path}", file=sys.stderr)
        self.add(reasons)


def read_bad_images(folder: str | Path) -> list[dict[str, str]]:
    """The lines of a run's bad_images.jsonl; none without that file. What a crash cut off is no line."""
    path = Path(folder) / FILE_NAME
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        with suppress(json.JSONDecodeError):  # the beginning of an object is no JSON, wherever it was cut
            rows.append(json.loads(line))
    return rows


def shown(name: str) -> str:
    """A file's name as a message shows it: in quotes and escaped, if it has line breaks or other control characters."""
    return name if name.isprintable() else repr(name)


def refusal(name: str, reason: str) -> InputError:
    """What to raise for a bad image that is not to be left out."""
    return InputError(
        f"{shown(name)} is a bad image: {reason}; "
        "remove it, or leave all such images out with --data.skip-bad-images true"
    )
