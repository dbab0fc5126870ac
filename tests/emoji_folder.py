"""Colour images for a recipe: a folder of emoji from the npm packages emoji-datasource-google and -twitter.

    python tests/emoji_folder.py GOOGLE_PACKAGE_DIR TWITTER_PACKAGE_DIR OUTPUT [--held-out 0.1]

The arguments are the unpacked packages (`npm pack emoji-datasource-google`, `tar xzf`) and a folder that does not exist
yet. It gets train/CATEGORY/VENDOR-CODE.png and evaluation/CATEGORY/VENDOR-CODE.png, 64x64 with transparency.
"""

import argparse
import hashlib
import json
import re
import shutil
from pathlib import Path

from PIL import Image

VENDORS: tuple[str, ...] = ("google", "twitter")


def emoji_groups(packages: dict[str, Path]) -> list[list[tuple[str, str, Path]]]:
    """(vendor, category, file) of every emoji, in groups that must not be torn apart by a split.

    Together are all skin tones and both vendors of an emoji, emoji that replace each other, and emoji drawn with the
    very same pixels, like the flags of Norway and Svalbard. Left out is the category "Component", bare skin tones.
    """
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent.setdefault(key, key) != key:
            key = parent[key]
        return key

    images = []
    for vendor, package in packages.items():
        for emoji in json.loads((package / "emoji.json").read_text(encoding="utf-8")):
            if emoji["category"] == "Component":
                continue
            parent[root(emoji["unified"])] = root(emoji.get("obsoleted_by") or emoji["unified"])
            for form in (emoji, *emoji.get("skin_variations", {}).values()):
                file = package / "img" / vendor / "64" / form["image"]
                pixels = Image.open(file).convert("RGBA").tobytes()
                parent[root(hashlib.sha256(pixels).hexdigest())] = root(emoji["unified"])
                images.append((emoji["unified"], vendor, emoji["category"], file))
    groups: dict[str, list[tuple[str, str, Path]]] = {}
    for key, *image in images:
        groups.setdefault(root(key), []).append(tuple(image))
    return list(groups.values())


def write_emoji_folder(packages: dict[str, Path], output: Path, held_out: float = 0.1) -> None:
    """Write the groups, about this share of them chosen by hash for evaluation; a larger share holds a smaller one."""
    for group in emoji_groups(packages):
        first = min(file.name for _, _, file in group)
        split = "evaluation" if hashlib.sha256(first.encode()).digest()[0] < round(256 * held_out) else "train"
        for vendor, category, file in group:
            folder = output / split / re.sub(r"\W+", "-", category.lower())
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / f"{vendor}-{file.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("google", type=Path, help="unpacked package emoji-datasource-google")
    parser.add_argument("twitter", type=Path, help="unpacked package emoji-datasource-twitter")
    parser.add_argument("output", type=Path, help="folder to write; it must not exist")
    parser.add_argument("--held-out", type=float, default=0.1, help="share of the emoji for evaluation")
    arguments = parser.parse_args()
    packages = dict(zip(VENDORS, (arguments.google, arguments.twitter), strict=True))
    for vendor, package in packages.items():
        if not (package / "emoji.json").is_file() or not (package / "img" / vendor / "64").is_dir():
            parser.error(
                f"{package} has no emoji.json or no img/{vendor}/64; it must be emoji-datasource-{vendor} unpacked"
            )
    if arguments.output.exists():
        parser.error(f"{arguments.output} exists already")
    if not 0 < arguments.held_out < 1:
        parser.error(f"--held-out is {arguments.held_out}; it must be between 0 and 1")
    write_emoji_folder(packages, arguments.output, arguments.held_out)


if __name__ == "__main__":
    main()
