"""Every kind of file that is no image: named with a reason and left out; never a hang or a wrong label."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import write_fashion_folder
from image_files import PICTURE, SIZE, assert_labels_are_right, config_of, encoded, png_header
from PIL import Image
from toy_runs import MODEL

from wvq.pipelines.train_tokenizer import TokenizerTraining, train_tokenizer
from wvq.tokenizer.data import dataset as data
from wvq.tokenizer.data import folders as files
from wvq.tokenizer.data.bad_images import BadImageReport, read_bad_images
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits, report_bad_images
from wvq.tokenizer.errors import InputError


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def far_too_long(path: Path) -> None:
    path.touch()
    os.truncate(path, files.MAX_FILE_BYTES + 1)  # sparse: it takes no room


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated.png": (write(encoded(Image.fromarray(PICTURE.repeat(9, 0)))[:150]), "truncated"),
    "truncated.jpg": (write(encoded(Image.fromarray(PICTURE.repeat(9, 0)), "JPEG")[:700]), "truncated"),
    "empty.png": (write(b""), "empty"),
    "text.jpg": (write(b"<html>404</html>"), "not an image in BMP, GIF, JPEG"),
    "program.png": (write(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "not an image in BMP, GIF, JPEG"),
    "huge.png": (write(png_header(30_000, 30_000)), "exceeds limit"),
    "no-pixels.png": (write(png_header(0, 0)), ""),
    "float.tif": (write(encoded(Image.new("F", (SIZE, SIZE), 0.5), "TIFF")), "no defined white"),
    "folder.png": (lambda path: path.mkdir(), "not a regular file"),
    "nowhere.png": (lambda path: path.symlink_to(path.with_name("absent")), "cannot be read: No such file"),
    "circle.png": (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    "pipe.png": (lambda path: os.mkfifo(path), "not a regular file"),
    "endless.png": (lambda path: path.symlink_to("/dev/zero"), "not a regular file"),
    "too-long.png": (far_too_long, "bytes are more than"),
    "line\nbreak.png": (write(b"x"), "not an image"),
    "escape\x1b[31m.png": (write(b"x"), "not an image"),
}


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("name", BAD, ids=ascii)
def test_broken_files_stop_or_are_left_out_and_named(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, fits: bool
):
    make, reason = BAD[name]
    if not fits:
        monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)
    before = load_splits(config_of(photos))
    make(photos / "dogs" / name)
    with pytest.raises(InputError, match=r"is a bad image: .*--data.skip-bad-images") as refused:
        [list(split.batches(16)) for split in load_splits(config_of(photos))]
    assert reason in str(refused.value)
    assert str(refused.value).isprintable()

    splits = load_splits(config_of(photos, skip_bad_images=True))
    report_bad_images(tmp_path / "run", *splits)
    (line,) = (tmp_path / "run" / "bad_images.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert row["name"] == str(photos / "dogs" / name)
    assert reason in row["reason"]
    assert [split.fingerprint for split in splits] == [split.fingerprint for split in before]
    for split in splits:
        assert_labels_are_right(split.__getitems__(range(len(split))))


def test_a_header_of_30000_by_30000_takes_no_memory(photos: Path):
    from wvq.eval.benchmarks.memory import peak_memory

    (photos / "dogs" / "huge.png").write_bytes(png_header(30_000, 30_000))
    with peak_memory(torch.device("cpu")) as peak:
        load_splits(config_of(photos, skip_bad_images=True))
    assert peak.bytes < 200 * 2**20  # of 2.7 GB


def test_permission_denied(photos: Path, monkeypatch: pytest.MonkeyPatch):
    refused = photos / "dogs" / "03.png"
    read = Path.read_bytes

    def read_bytes(path: Path) -> bytes:  # file modes do not bind root, as which tests may run
        if path == refused:
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    with pytest.raises(InputError, match=r"03.png is a bad image: cannot be read: Permission denied"):
        load_splits(config_of(photos))
    splits = load_splits(config_of(photos, skip_bad_images=True))
    assert {name: reason for split in splits for name, reason in split.bad_images.items()} == {
        str(refused): "cannot be read: Permission denied"
    }
    monkeypatch.setattr(os, "scandir", _deny)
    with pytest.raises(InputError, match="photos': cannot be read: Permission denied"):
        load_splits(config_of(photos, skip_bad_images=True))  # nobody knows how many images that leaves out


def _deny(path: object) -> None:
    raise PermissionError(13, "Permission denied", str(path))


def test_links_that_lead_in_circles_are_refused_and_others_followed(photos: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(photos / "dogs" / "00.png", tmp_path / "elsewhere" / "more.png")
    (photos / "dogs" / "linked").symlink_to(tmp_path / "elsewhere")
    assert sum(map(len, load_splits(config_of(photos)))) == 41
    (tmp_path / "elsewhere" / "back").symlink_to(photos / "dogs")
    (tmp_path / "elsewhere" / "again").symlink_to(photos / "dogs")  # two of them: without a check 2^40 folders
    with pytest.raises(InputError, match=r"(back|again)' is a link to a folder that contains it"):
        load_splits(config_of(photos))


def test_a_folder_with_the_name_of_an_image_is_a_folder(photos: Path):
    (photos / "dogs" / "scan.tif").mkdir()
    (photos / "dogs" / "00.png").rename(photos / "dogs" / "scan.tif" / "page.png")
    assert sum(map(len, load_splits(config_of(photos)))) == 40


def test_a_class_without_a_good_image_is_refused(photos: Path):
    for file in (photos / "cats").iterdir():
        file.write_bytes(file.name.encode())
    with pytest.raises(InputError, match="every train image of class 'cats' is bad"):
        load_splits(config_of(photos, skip_bad_images=True))


def test_a_report_cut_off_by_a_crash_goes_on(tmp_path: Path):
    path = tmp_path / "bad_images.jsonl"
    BadImageReport(tmp_path, "train").add({"a.png": "empty"})
    first = len(path.read_bytes())
    BadImageReport(tmp_path, "train").add({"{b}.png": 'no "}" at its end'})
    whole = path.read_bytes()
    for end in range(first, len(whole) - 1):  # wherever it was cut, also behind a bracket
        path.write_bytes(whole[:end])
        assert [row["name"] for row in read_bad_images(tmp_path)] == ["a.png"]
        report = BadImageReport(tmp_path, "train")
        report.add({"a.png": "empty", "{b}.png": "empty"})
        assert [row["name"] for row in read_bad_images(tmp_path)] == ["a.png", "{b}.png"]


def test_2000_images_of_which_200_are_broken_train_and_all_200_are_named(tmp_path: Path):
    folder = tmp_path / "images"
    for copy in range(3):
        write_fashion_folder(folder / str(copy))
    pictures = sorted(folder.rglob("*.png"))
    rng = np.random.default_rng(0)
    for number in range(200):  # emoji-like: a disc of one colour on a transparent ground
        disc = np.zeros((28, 28, 4), np.uint8)
        disc[np.hypot(*(np.indices((28, 28)) - 13.5)) < 5 + number % 8] = (*rng.integers(0, 256, 3), 255)
        Image.fromarray(disc).save(folder / f"disc-{number}.png")
    files = [*pictures, *folder.glob("disc-*.png")]
    flat = tmp_path / "flat"
    for number, file in enumerate(files):
        (flat / f"class-{number % 4}").mkdir(parents=True, exist_ok=True)
        file.rename(flat / f"class-{number % 4}" / f"{number}.png")
    everything = sorted(flat.rglob("*.png"))
    assert len(everything) == 2000
    makers = [make for make, _ in BAD.values()]
    broken = [everything[index] for index in rng.permutation(2000)[:200]]
    for number, path in enumerate(broken):
        path.unlink()
        makers[number % len(makers)](path)

    run = TokenizerTraining(
        output_dir=str(tmp_path / "run"),
        data=DataConfig(source=str(flat), channels=1, skip_bad_images=True),
        model=dataclasses.replace(MODEL, codebook_size=16),
        steps=3, batch_size=20, warmup_steps=0, evaluation_images=20,
    )  # fmt: skip
    assert (train_tokenizer(run) / "model.safetensors").is_file()
    splits = load_splits(run.data)
    assert sum(map(len, splits)) == 1800
    assert {row["name"] for row in read_bad_images(run.output_dir)} == set(map(str, broken))
