"""The same images of classes as folders, shards, tables and archives, each with an own numbering of the classes."""

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image
from torch import Tensor, nn

COLOURS = {
    "ant": (220, 20, 20),
    "bee": (20, 220, 20),
    "cat": (20, 20, 220),
    "dog": (220, 220, 20),
    "10": (120, 20, 220),
}
KINDS = ("folder", "tar", "table", "npz", "npz with a list", "npz of numbers", "samples")
SIZE = 4


class Mean(nn.Module):
    """The mean colour of an image."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((2, 3))


def pictures(colours: Mapping[str, str], count: int, seed: int) -> dict[str, np.ndarray]:
    """By class uint8 (count, H, W, 3): noise around the colour of the name that `colours` gives it."""
    rng = np.random.default_rng(seed)
    drawn = {name: rng.normal(COLOURS[of], 8, (count, SIZE, SIZE, 3)) for name, of in colours.items()}
    return {name: images.clip(0, 255).astype(np.uint8) for name, images in drawn.items()}


def write_source(kind: str, place: Path, images: Mapping[str, np.ndarray], names: Sequence[str]) -> Path:
    """Write images by class as one of `KINDS`; `names` is the numbering, where the kind has one, and may have more."""
    labels = [names.index(name) for name, some in images.items() for _ in some]
    flat = [image for some in images.values() for image in some]
    place.mkdir()
    if kind == "folder":
        for name, some in images.items():
            (place / name).mkdir()
            for number, image in enumerate(some):
                (place / name / f"{number}.png").write_bytes(png(image))
    elif kind == "tar":
        (place / "classnames.txt").write_text("".join(f"{name}\n" for name in names))
        with tarfile.open(place / "0.tar", "w") as archive:
            for number, (image, label) in enumerate(zip(flat, labels, strict=True)):
                for suffix, content in (("png", png(image)), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{number:04d}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    elif kind == "table":
        column = [{"bytes": png(image), "path": None} for image in flat]
        table = pa.table({"image": column, "label": [names[label] for label in labels]})
        pyarrow.parquet.write_table(table, place / "0.parquet")
    elif kind == "samples":
        (place / "images").mkdir()
        for number, image in enumerate(flat):
            (place / "images" / f"{number:06d}.png").write_bytes(png(image))
        (place / "grid.png").write_bytes(png(np.zeros((9, 9, 3), np.uint8)))
        note = {"pipeline": "runs/pipeline", "labels": labels, "class_names": list(names)}
        (place / "samples.json").write_text(json.dumps(note))
    else:
        named: Any = {"class_names": np.array(names)} if kind == "npz" else {}
        if kind == "npz with a list":
            (place / "classnames.txt").write_text("".join(f"{name}\n" for name in names))
        np.savez(place / "some.npz", np.stack(flat), np.array(labels), **named)
        return place / "some.npz"
    return place


def png(image: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(image).save(content, "PNG")
    return content.getvalue()
