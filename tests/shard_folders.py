"""The images of tests/fashion_mnist_600 as shards, and what may lie in one."""

import io
import json
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fixtures import CLASS_FOLDERS, read_fashion_images
from PIL import Image


def png(image: torch.Tensor) -> bytes:
    """A grey image (1, H, W) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def small(number: int) -> bytes:
    """A grey image (1, 8, 8) of one value as PNG."""
    return png(torch.full((1, 8, 8), number, dtype=torch.uint8))


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """An archive of these members, by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def sample(key: str, image: bytes, **fields: object) -> list[tuple[str, bytes]]:
    """Members of a sample: its PNG, and `cls` as text or `json` as JSON."""
    texts: Mapping[str, str] = {"cls": str(fields.get("cls")), "json": json.dumps(fields.get("json"))}
    return [(f"{key}.png", image), *((f"{key}.{name}", texts[name].encode()) for name in fields)]


def write_fashion_shards(folder: Path, kind: str = "tar") -> Path:
    """500 images in 10 shards of 41 to 59, classes mixed, in train/, and 100 in 4 shards in evaluation/."""
    images, labels = read_fashion_images()
    held_out = torch.arange(600) % 60 >= 50
    for split, chosen, shards in (("train", ~held_out, 10), ("evaluation", held_out, 4)):
        own = chosen.nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=torch.Generator().manual_seed(0))]
        size = len(own) // shards
        sizes = [size + 2 * shard - shards + 1 for shard in range(shards)]
        for shard, indices in enumerate(own.split(sizes)):
            path = folder / split / f"{shard:03d}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == "tar":
                pictures = ((f"{i:04d}", png(images[i]), int(labels[i])) for i in indices.tolist())
                write_tar(path, (member for key, image, c in pictures for member in sample(key, image, cls=c)))
            else:
                columns = {"image": [png(images[i]) for i in indices], "label": labels[indices].numpy()}
                pq.write_table(pa.table(columns), path, row_group_size=25)
    (folder / "classnames.txt").write_text("\n".join(CLASS_FOLDERS))
    return folder
