"""A large set of samples in parts: shared by workers that come and go, and completed when it is started again."""

import io
import json
import math
import shutil
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wvq.prior.guidance import guidance_scales
from wvq.prior.sampling import check_passes, check_vocabulary
from wvq.tokenizer import InputError
from wvq.tokenizer.data.shard_files import CLASS_NAMES_FILE
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.atomic import write_once
from wvq.tokenizer.storage.leases import GONE, work_through
from wvq.tokenizer.storage.pretrained import state_sha256
from wvq.tokenizer.storage.untrusted import read_json

from .base import to_pil
from .class_conditional import ClassConditionalPipeline
from .generation import Sampling, sample_images
from .processes import this_process
from .training.saved_config import first_difference

_RUNNING = ("batch_size", "output_dir", "num_images_per_class")  # options that change no image
_PLACES = {"folder": "images", "webdataset": "", "npz": "parts"}  # of what is made, by format
_WHOLE = "samples.npz"
_WORK = ".work"  # leases, and files that are not whole yet; gone when all is done


def sample_set(pipeline: ClassConditionalPipeline, labels: torch.Tensor, config: Sampling) -> Path:
    """Write the images of labels (N,) that config.output_dir does not have yet; returns the folder.

    "folder" has a PNG for each image, "webdataset" tar files of config.part_size images (PNG and class) and the names
    of classes, "npz" one samples.npz of arr_0 (N, H, W, C), uint8, and arr_1 (N,), the labels, as evaluators of FID
    read. Every file is written whole or not at all and depends on its images alone, so the set is the same however
    often it was interrupted, and whoever made its parts: workers share them by leases. Under `accelerate launch` a
    collective call.

    Raises:
        InputError: if the folder holds samples of other options, and for options that are not the prior's; then nothing
            is written.
    """
    folder, num_tokens = Path(config.output_dir), pipeline.tokenizer.config.num_tokens
    check_passes(pipeline.prior.config, num_tokens, config.num_passes or None)
    scales = guidance_scales(config.guidance_scale, num_tokens, config.guidance_schedule, config.guidance_interval)
    guided = any(scale != 1 for scale in scales)
    check_vocabulary(pipeline.prior, labels, pipeline.tokenizer.config.num_codes, guided)
    about = {key: value for key, value in asdict(config).items() if key not in _RUNNING}
    about |= {"tokenizer": pipeline.tokenizer.fingerprint, "prior": state_sha256(pipeline.prior)}
    about |= {"labels": labels.tolist(), "class_names": list(pipeline.class_names)}
    about = {key: list(value) if isinstance(value, tuple) else value for key, value in about.items()}
    try:
        _complete(pipeline, labels, config, about)
    except GONE:  # others cleaned up in the moment when this one came
        _complete(pipeline, labels, config, about)
    shutil.rmtree(folder / _WORK, ignore_errors=True)
    this_process().wait_for_everyone()
    return folder


def _complete(
    pipeline: ClassConditionalPipeline, labels: torch.Tensor, config: Sampling, about: dict[str, Any]
) -> None:
    """Have the set made, by this worker and others."""
    folder = Path(config.output_dir)
    whole = folder / _WHOLE
    _claim(folder, about)
    if config.format == "webdataset" and pipeline.class_names:
        names = "".join(f"{name}\n" for name in pipeline.class_names)
        write_once(folder / CLASS_NAMES_FILE, names.encode(), folder / _WORK)
    if not whole.exists():
        _write_parts(pipeline, labels, config)
    if config.format == "npz":
        count = math.ceil(len(labels) / config.part_size)
        work_through(folder / _WORK / "leases", ["merge"], lambda _: whole.exists(), lambda *_: _merge(folder, count))


def _write_parts(pipeline: ClassConditionalPipeline, labels: torch.Tensor, config: Sampling) -> None:
    """Make what is missing of every part, unless others do."""
    folder, size = Path(config.output_dir), config.part_size
    numbers = {
        f"samples-{part:06d}": range(first, min(first + size, len(labels)))
        for part, first in enumerate(range(0, len(labels), size))
    }
    (folder / _PLACES[config.format]).mkdir(parents=True, exist_ok=True)

    def done(part: str) -> bool:
        return next(_missing(folder, config.format, part, numbers[part]), None) is None or (folder / _WHOLE).exists()

    def make(part: str, held: Callable[[], bool]) -> None:
        missing = list(_missing(folder, config.format, part, numbers[part]))
        batches = _while_held(sample_images(pipeline, labels[missing], config, missing, progress), held)
        if config.format == "folder":
            _write_pictures(folder, iter(missing), batches)
            return
        images = torch.cat([batch.cpu() for batch in batches])
        if len(images) == len(missing):
            write = _npz if config.format == "npz" else _tar
            content = write(images, labels[missing], missing)
            write_once(_archive(folder, config.format, part), content, folder / _WORK)

    total = sum(1 for part in numbers for _ in _missing(folder, config.format, part, numbers[part]))
    shown = {"desc": "sampling", "unit": "image", "disable": not this_process().is_main_process}
    with progress_bar(total=total, **shown) as progress:
        work_through(folder / _WORK / "leases", numbers, done, make)


def _while_held(batches: Iterator[torch.Tensor], held: Callable[[], bool]) -> Iterator[torch.Tensor]:
    """Batches until the part they belong to is lost to another worker; the one made meanwhile is still good."""
    for batch in batches:
        yield batch
        if not held():
            return


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Note in the folder what it is for, or see that it is for the same."""
    note = folder / "samples.json"
    there = {path.name for path in folder.iterdir()} - {_WORK} if folder.exists() else set()
    if there and not note.exists():
        raise InputError(f"{folder} holds '{min(there)}'; give a new or empty output_dir")
    (folder / _WORK).mkdir(parents=True, exist_ok=True)
    write_once(note, (json.dumps(about, indent=2) + "\n").encode(), folder / _WORK)
    before = {"block_size": "auto"} | read_json(note)  # which older versions did not note
    # Where the pipeline lies is compared only where an older version did not note what is in it.
    if difference := first_difference(before, about, {"pipeline"} if "prior" in before else {"prior", "class_names"}):
        raise InputError(f"{folder} holds samples of another {difference[0]}; give another output_dir")


def _archive(folder: Path, form: str, part: str) -> Path:
    return folder / _PLACES[form] / f"{part}.{'npz' if form == 'npz' else 'tar'}"


def _missing(folder: Path, form: str, part: str, numbers: Sequence[int]) -> Iterator[int]:
    """The images of a part that have to be made."""
    if form == "folder":
        return (number for number in numbers if not _picture_path(folder, number).exists())
    return iter(() if _archive(folder, form, part).exists() else numbers)


def _picture_path(folder: Path, number: int) -> Path:
    return folder / "images" / f"{number:06d}.png"


def _write_pictures(folder: Path, numbers: Iterator[int], batches: Iterator[torch.Tensor]) -> None:
    for batch in batches:
        for picture, number in zip(to_pil(batch), numbers, strict=False):
            write_once(_picture_path(folder, number), _png(picture), folder / _WORK, synchronized=False)


def _png(picture: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def _npz(images: torch.Tensor, labels: torch.Tensor, numbers: list[int]) -> bytes:
    content = io.BytesIO()
    np.savez(content, arr_0=images.permute(0, 2, 3, 1).numpy(), arr_1=labels.numpy(), labels=labels.numpy())
    return content.getvalue()


def _tar(images: torch.Tensor, labels: torch.Tensor, numbers: list[int]) -> bytes:
    """A webdataset shard: NUMBER.png and NUMBER.cls for each image, without times or owners."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for picture, label, number in zip(to_pil(images), labels.tolist(), numbers, strict=True):
            for suffix, value in (("png", _png(picture)), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                member.size = len(value)
                archive.addfile(member, io.BytesIO(value))
    return content.getvalue()


def _merge(folder: Path, count: int) -> None:
    """All parts as one samples.npz; the parts go."""
    paths = [_archive(folder, "npz", f"samples-{part:06d}") for part in range(count)]
    parts = [np.load(path, allow_pickle=False) for path in paths]
    images, labels = (torch.from_numpy(np.concatenate([part[key] for part in parts])) for key in ("arr_0", "labels"))
    for part in parts:
        part.close()
    write_once(folder / _WHOLE, _npz(images.permute(0, 3, 1, 2), labels, []), folder / _WORK)
    shutil.rmtree(paths[0].parent)
