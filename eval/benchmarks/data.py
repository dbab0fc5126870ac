"""`wvq benchmark data`: decoded images a second, by source and number of worker processes, beside torchvision's.

Every contender reads the same pictures in the same order, one pass uncounted (it starts the workers and fills the
system's cache of files) and one counted. The peer is torchvision's ImageFolder in a plain DataLoader with the same crop
and resize, whose pixels are compared with ours first. Nothing is held in memory and nothing but loading is done.
"""

import itertools
import os
import tarfile
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, RandomSampler, Sampler
from torchvision.datasets import ImageFolder
from torchvision.transforms import PILToTensor

from wvq.tokenizer import InputError
from wvq.tokenizer.data.batches import ShuffledBatches, training_loader
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import ImageDataset
from wvq.tokenizer.data.sources import find_source
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import expand_home

SOURCES = {"png folder": "png", "jpeg folder": "jpg", "parquet": "jpg", "tar stream": "jpg", "parquet stream": "jpg"}
SHARD = 100  # pictures in a shard of a stream
PEER = "torchvision ImageFolder"


@dataclass(frozen=True)
class DataBenchmark:
    """Speed of data loading from generated pictures."""

    output_dir: str = "runs/benchmark-data"
    """Where data.json goes."""
    sources: tuple[str, ...] = tuple(SOURCES)
    """Of png folder, jpeg folder, and of JPEG: parquet, tar stream, parquet stream."""
    num_workers: tuple[int, ...] = (0, 1, 2)
    """Processes that decode; 0 is the main process."""
    num_images: int = 1000
    """Pictures of a source."""
    width: int = 500
    """Width of a picture; its height is three quarters of it."""
    image_size: int = 256
    """Height and width after crop and resize."""
    batch_size: int = 50
    """Images a batch; it must divide num_images."""

    def __post_init__(self) -> None:
        expand_home(self, "output_dir")
        for name in ("sources", "num_workers"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if unknown := [name for name in self.sources if name not in SOURCES]:
            raise InputError(f"sources holds '{unknown[0]}'; valid are {', '.join(SOURCES)}")
        for name, least in (("num_images", 1), ("width", 8), ("image_size", 4), ("batch_size", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.num_images % self.batch_size:
            raise InputError(f"batch_size is {self.batch_size}; it must divide num_images, {self.num_images}")
        if not self.num_workers or min(self.num_workers) < 0:
            raise InputError(f"num_workers is {self.num_workers}; it needs one or more numbers of at least 0")


def benchmark_data(config: DataBenchmark) -> Path:
    """Measure all sources with every number of workers, print the table, and write JSON; returns its path."""
    rows: list[dict[str, Any]] = []
    print(f"{'source':<16}{'loader':<26}{'workers':>8}{'images/s':>10}{'per process':>13}")
    with tempfile.TemporaryDirectory() as folder:
        for source in config.sources:
            place = write_pictures(config, source, Path(folder))
            ours = lazy_dataset(config, place, streaming="stream" in source)
            theirs = peer_dataset(config, place) if "folder" in source else None
            if theirs:
                check_same_pixels(ours, theirs)
            for workers, dataset in itertools.product(config.num_workers, filter(None, (ours, theirs))):
                seconds = time_pass(config, dataset, workers)
                rows.append(
                    {
                        "source": source,
                        "loader": "wvq" if dataset is ours else PEER,
                        "num_workers": workers,
                        "images_per_second": config.num_images / seconds,
                        "images_per_second_per_process": config.num_images / seconds / max(1, workers),
                    }
                )
                print(
                    "{source:<16}{loader:<26}{num_workers:>8}{images_per_second:>10.0f}"
                    "{images_per_second_per_process:>13.0f}".format(**rows[-1]),
                    flush=True,
                )
    path = Path(config.output_dir) / "data.json"
    protocol = {**asdict(config), "cores": os.cpu_count(), "threads_per_process": 1}
    write_json(path, {"protocol": protocol, "rows": rows})
    return path


def write_pictures(config: DataBenchmark, source: str, folder: Path) -> Path:
    """Pictures as smooth as photographs, with some noise, in two classes: a folder, or what is made of one."""
    place = folder / source.replace(" ", "-")
    rng = np.random.default_rng(0)
    for number in range(config.num_images):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = coarse.resize((config.width, config.width * 3 // 4), Image.Resampling.BICUBIC)
        noisy = np.asarray(smooth) + rng.normal(0, 4, (smooth.height, smooth.width, 1))
        file = place / f"class-{number % 2}" / f"{number:06d}.{SOURCES[source]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file)
    files = sorted(place.rglob("*.jpg"))
    if source == "tar stream":
        shards = folder / "shards"
        shards.mkdir()
        for first in range(0, len(files), SHARD):
            with tarfile.open(shards / f"{first:06d}.tar", "w") as archive:
                for file in files[first : first + SHARD]:
                    archive.add(file, file.name)
        return shards
    if "parquet" not in source:
        return place
    cells = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    features = datasets.Features({"image": datasets.Image()})
    table = folder / f"{source}.parquet"
    datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(str(table), batch_size=SHARD)
    return table


def lazy_dataset(config: DataBenchmark, place: Path, streaming: bool = False) -> ImageDataset:
    """Our data set of a place, which decodes whatever is read, as it does with what does not fit in memory."""
    source = find_source(str(place), None, "image", "label", streaming)
    data = DataConfig(source=str(place), image_size=config.image_size, streaming=streaming)
    return ImageDataset(source.train, source.class_names, data, "train", in_memory_bytes=0)


def peer_dataset(config: DataBenchmark, folder: Path) -> ImageFolder:
    """torchvision's, with the same crop and resize."""

    return ImageFolder(str(folder), partial(peer_transform, config.image_size))


def peer_transform(image_size: int, image: Image.Image) -> torch.Tensor:
    """Our crop and resize for a picture that needs no more; (3, image_size, image_size) uint8."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return PILToTensor()(image.resize((image_size, image_size), Image.Resampling.BICUBIC))


def check_same_pixels(ours: ImageDataset, theirs: ImageFolder) -> None:
    """Raises: AssertionError: unless both give the same first and last picture."""
    for index in (0, len(ours) - 1):
        pixels, label = theirs[index]
        assert torch.equal(pixels, ours[index]["images"]), "the transforms differ"
        assert label == ours[index]["labels"], "the labels differ"


def time_pass(config: DataBenchmark, dataset: ImageDataset | ImageFolder, workers: int) -> float:
    """Seconds that the second of two passes over all pictures takes."""
    batches = config.num_images // config.batch_size
    loader: Iterable[Any]
    if isinstance(dataset, ImageDataset):
        both: Sampler[Any] = ShuffledBatches(dataset.shard_sizes, config.batch_size, 0, 2 * batches, seed=0)
        loader = training_loader(dataset, both, workers)
    else:
        twice = RandomSampler(dataset, num_samples=2 * config.num_images, generator=torch.Generator().manual_seed(0))
        loader = DataLoader(dataset, config.batch_size, sampler=twice, num_workers=workers)
    started = 0.0
    for number, _ in enumerate(loader, start=1):
        if number == batches:
            started = time.perf_counter()
    return time.perf_counter() - started
