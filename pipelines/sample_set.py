"""A large set of samples in chunks: shared by processes, and made up to what is missing when it is started again."""

import io
import math
import tarfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wvq.tokenizer import InputError
from wvq.tokenizer.data.shard_files import CLASS_NAMES_FILE
from wvq.tokenizer.progress import progress_bar
from wvq.tokenizer.storage.atomic import write_file, write_json
from wvq.tokenizer.storage.pretrained import state_sha256
from wvq.tokenizer.storage.untrusted import read_json

from .base import to_pil
from .class_conditional import ClassConditionalPipeline
from .generation import Sampling, sample_images
from .processes import this_process
from .training.saved_config import first_difference

_RUNNING = ("batch_size", "output_dir", "num_images_per_class")  # options that change no image


def sample_set(pipeline: ClassConditionalPipeline, labels: torch.Tensor, config: Sampling) -> Path:
    """Write the images of labels (N,) that config.output_dir does not have yet; returns the folder.

    "folder" has a PNG for each image, "webdataset" tar files of config.part_size images (PNG and class) and the names
    of classes, "npz" one samples.npz of arr_0 (N, H, W, C), uint8, and arr_1 (N,), the labels, as evaluators of FID
    read. Every file is written whole or not at all and depends on its images alone, so the set is the same however
    often it was interrupted.

    Raises:
        InputError: if the folder holds samples of other options.
    """
    state, folder = this_process(), Path(config.output_dir)
    about = {key: value for key, value in asdict(config).items() if key not in _RUNNING}
    about |= {"tokenizer": pipeline.tokenizer.fingerprint, "prior": state_sha256(pipeline.prior)}
    about |= {"labels": labels.tolist(), "class_names": list(pipeline.class_names)}
    about = {key: list(value) if isinstance(value, tuple) else value for key, value in about.items()}
    if state.is_main_process:
        _claim(folder, about)
        names = folder / CLASS_NAMES_FILE
        if config.format == "webdataset" and pipeline.class_names and not names.exists():
            write_file(names, "".join(f"{name}\n" for name in pipeline.class_names).encode())
    state.wait_for_everyone()
    write_chunks(pipeline, labels, config, state.process_index, state.num_processes)
    state.wait_for_everyone()
    if config.format == "npz" and state.is_main_process:
        _merge(folder, math.ceil(len(labels) / config.part_size))
    state.wait_for_everyone()
    return folder


def write_chunks(
    pipeline: ClassConditionalPipeline, labels: torch.Tensor, config: Sampling, process: int, processes: int
) -> None:
    """Make what is missing of every chunk whose number is `process` modulo `processes`."""
    folder = Path(config.output_dir)
    if (folder / "samples.npz").exists():
        return
    work = [
        (chunk, missing)
        for chunk, numbers in enumerate(torch.arange(len(labels)).split(config.part_size))
        if chunk % processes == process and (missing := _missing(folder, config.format, chunk, numbers.tolist()))
    ]
    with progress_bar(
        total=sum(len(m) for _, m in work), desc="sampling", unit="image", disable=process > 0
    ) as progress:
        for chunk, missing in work:
            made = sample_images(pipeline, labels[missing], config, missing, progress)
            if config.format == "folder":
                _write_pictures(folder, iter(missing), made)
            else:
                images = torch.cat([batch.cpu() for batch in made])
                write = _npz if config.format == "npz" else _tar
                write_file(_chunk_path(folder, config.format, chunk), write(images, labels[missing], missing))


def _claim(folder: Path, about: dict[str, Any]) -> None:
    """Note in the folder what it is for, or see that it is for the same."""
    note = folder / "samples.json"
    if note.exists():
        before = read_json(note)
        # Where the pipeline lies is compared only where an older version did not note what is in it.
        if difference := first_difference(
            before, about, {"pipeline"} if "prior" in before else {"prior", "class_names"}
        ):
            raise InputError(f"{folder} holds samples of another {difference[0]}; give another output_dir")
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} holds '{min(p.name for p in folder.iterdir())}'; give a new or empty output_dir")
    else:
        write_json(note, about)


def _chunk_path(folder: Path, form: str, chunk: int) -> Path:
    return folder / ("parts" if form == "npz" else "") / f"samples-{chunk:06d}.{'npz' if form == 'npz' else 'tar'}"


def _missing(folder: Path, form: str, chunk: int, numbers: list[int]) -> list[int]:
    """The images of a chunk that have to be made."""
    if form == "folder":
        return [number for number in numbers if not _picture_path(folder, number).exists()]
    return [] if _chunk_path(folder, form, chunk).exists() else numbers


def _picture_path(folder: Path, number: int) -> Path:
    return folder / "images" / f"{number:06d}.png"


def _write_pictures(folder: Path, numbers: Iterator[int], batches: Iterator[torch.Tensor]) -> None:
    for batch in batches:
        for picture, number in zip(to_pil(batch), numbers, strict=False):
            write_file(_picture_path(folder, number), _png(picture))


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
    """All chunks as one samples.npz; the chunks go."""
    if (folder / "samples.npz").exists():
        return
    paths = [_chunk_path(folder, "npz", chunk) for chunk in range(count)]
    chunks = [np.load(path, allow_pickle=False) for path in paths]
    images, labels = (torch.from_numpy(np.concatenate([chunk[key] for chunk in chunks])) for key in ("arr_0", "labels"))
    for chunk in chunks:
        chunk.close()
    write_file(folder / "samples.npz", _npz(images.permute(0, 3, 1, 2), labels, []))
    for path in paths:
        path.unlink()
    paths[0].parent.rmdir()
