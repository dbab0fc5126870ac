"""Every kind of broken file: handled right, or named with a reason and left out; never a hang or a wrong label."""

import dataclasses
import io
import json
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import write_fashion_folder
from PIL import Image
from toy_runs import MODEL

from wvq.pipelines.train_tokenizer import TokenizerTraining, train_tokenizer
from wvq.tokenizer.data import dataset as data
from wvq.tokenizer.data import folders as files
from wvq.tokenizer.data.bad_images import BadImageReport, read_bad_images
from wvq.tokenizer.data.batches import ShuffledBatches, training_loader
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits, report_bad_images
from wvq.tokenizer.errors import InputError, plain_message

SIZE = 8
PICTURE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_of_16_bits(colour_type: int, values: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which PIL does not write: values (H, W, channels)."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def png_header(width: int, height: int) -> bytes:
    """A whole, tiny file that claims to be of this size."""
    start = png_of_16_bits(0, np.zeros((1, 1, 1)))
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return start[:12] + header + struct.pack(">I", zlib.crc32(header)) + start[33:]


def upright(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 20 small pictures, each of one colour: 10 times its number, and 0 or 255 for its class."""
    for label, name in enumerate(("cats", "dogs")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(20):
            colour = (10 * number, 255 * label, 7)
            Image.new("RGB", (SIZE, SIZE), colour).save(tmp_path / "photos" / name / f"{number:02d}.png")
    return tmp_path / "photos"


def config_of(folder: Path, **changes) -> DataConfig:
    return DataConfig(source=str(folder), **{"image_size": SIZE, "evaluation_fraction": 0.3, **changes})


def assert_labels_are_right(batch: dict[str, torch.Tensor]) -> None:
    assert (batch["images"][:, 1] == 255 * batch["labels"][:, None, None]).all()


# What is unusual, but an image

CMYK = Image.fromarray(PICTURE).convert("CMYK")
PALETTE = Image.fromarray(PICTURE // 86 * 86).quantize(27)
SIXTEEN = np.random.default_rng(1).integers(0, 65536, (SIZE, SIZE, 3), np.uint16)
OTHER = Image.new("RGB", (SIZE, SIZE), (1, 2, 3))
TURNED = Image.Exif()
TURNED[0x0112] = 6  # the camera was held upright

GOOD: dict[str, tuple[bytes, np.ndarray]] = {
    "cmyk.tif": (encoded(CMYK, "TIFF"), upright(CMYK)),
    "cmyk.jpg": (
        encoded(CMYK, "JPEG", quality=95),
        upright(Image.open(io.BytesIO(encoded(CMYK, "JPEG", quality=95)))),
    ),
    "16-bit-grey.png": (encoded(Image.fromarray(SIXTEEN[..., 0])), np.stack([np.round(SIXTEEN[..., 0] / 257)] * 3)),
    "16-bit-rgb.png": (png_of_16_bits(2, SIXTEEN), (SIXTEEN >> 8).transpose(2, 0, 1)),
    "animated.gif": (encoded(PALETTE, "GIF", save_all=True, append_images=[OTHER]), upright(PALETTE)),
    "animated.png": (
        encoded(Image.fromarray(PICTURE), save_all=True, append_images=[OTHER]),
        upright(Image.fromarray(PICTURE)),
    ),
    "animated.webp": (
        encoded(Image.fromarray(PICTURE), "WEBP", save_all=True, append_images=[OTHER], lossless=True),
        upright(Image.fromarray(PICTURE)),
    ),
    "palette-with-alpha.png": (
        encoded(Image.new("P", (SIZE, SIZE), 0), transparency=0),
        np.full((3, SIZE, SIZE), 255),
    ),
    "turned.png": (encoded(Image.fromarray(PICTURE), exif=TURNED), np.rot90(PICTURE, -1).transpose(2, 0, 1)),
    "1x1.png": (encoded(Image.new("RGB", (1, 1), (9, 8, 7))), np.broadcast_to([[[9]], [[8]], [[7]]], (3, SIZE, SIZE))),
    "png-called.jpg": (encoded(Image.fromarray(PICTURE)), upright(Image.fromarray(PICTURE))),
    "line\nbreak.png": (encoded(Image.fromarray(PICTURE)), upright(Image.fromarray(PICTURE))),
    "ünïcödé 猫 🐈.png": (encoded(Image.fromarray(PICTURE)), upright(Image.fromarray(PICTURE))),
    os.fsdecode(b"not-unicode-\xff.png"): (encoded(Image.fromarray(PICTURE)), upright(Image.fromarray(PICTURE))),
}


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("name", GOOD, ids=ascii)
def test_unusual_images_are_handled_right(photos: Path, monkeypatch: pytest.MonkeyPatch, name: str, fits: bool):
    content, expected = GOOD[name]
    shutil.rmtree(photos / "cats")
    (photos / "cats").mkdir()
    (photos / "cats" / name).write_bytes(content)
    shutil.copytree(photos, photos / "both" / "train")
    shutil.copytree(photos / "both" / "train", photos / "both" / "test", ignore=shutil.ignore_patterns("both"))
    if not fits:
        monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)
    for split in load_splits(config_of(photos / "both")):
        batch = split.__getitems__(range(len(split)))
        assert batch["labels"].tolist() == [0] + [1] * 20
        assert (batch["images"][0].numpy() == expected).all()
        assert split.bad_images == {}


# What is no image


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


# What vanishes or changes while training


@pytest.fixture
def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)


@pytest.mark.usefixtures("too_large")
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: OTHER.save(path)], ids=["vanished", "changed"])
def test_an_image_that_vanishes_or_changes_stops_training_or_is_replaced_and_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
):
    strict = load_splits(config_of(photos))
    splits = load_splits(config_of(photos, skip_bad_images=True))
    report_bad_images(tmp_path / "run", *splits)
    assert read_bad_images(tmp_path / "run") == []
    assert splits[0]._records is not None
    gone = Path(splits[0]._records.name(5))
    damage(gone)
    with pytest.raises(InputError, match=r"\.png is a bad image: (cannot be read: No such file|changed since it was)"):
        strict[0].__getitems__([4, 5, 6])
    for _ in range(3):
        batch = splits[0].__getitems__([4, 5, 6])
        assert (batch["images"][1] == batch["images"][2]).all()
        assert_labels_are_right(batch)
    (row,) = read_bad_images(tmp_path / "run")
    assert (row["name"], row["split"]) == (str(gone), "train")
    assert capsys.readouterr().err.count(str(gone)) == 1
    report_bad_images(tmp_path / "run", *load_splits(config_of(photos, skip_bad_images=True)))  # when the run goes on
    assert read_bad_images(tmp_path / "run") == [row]


@pytest.mark.usefixtures("too_large")
def test_an_evaluation_image_that_vanishes_stops_the_run(photos: Path, tmp_path: Path):
    splits = load_splits(config_of(photos, skip_bad_images=True))
    report_bad_images(tmp_path / "run", *splits)
    assert splits[1]._records is not None
    Path(splits[1]._records.name(0)).unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        list(splits[1].batches(8))


@pytest.mark.usefixtures("too_large")
def test_a_folder_that_vanishes_stops_the_run(photos: Path, tmp_path: Path):
    train, evaluation = load_splits(config_of(photos, skip_bad_images=True))
    report_bad_images(tmp_path / "run", train, evaluation)
    shutil.rmtree(photos)
    with pytest.raises(InputError, match=r"\.png and the 19 images after it cannot be used: cannot be read: No such"):
        train.__getitems__([0, 1])


@pytest.mark.usefixtures("too_large")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_name_what_vanishes(photos: Path, tmp_path: Path):
    train, evaluation = load_splits(config_of(photos, skip_bad_images=True))
    report_bad_images(tmp_path / "run", train, evaluation)
    assert train._records is not None
    gone = {train._records.name(index) for index in (3, 9, 20)}
    for name in gone:
        Path(name).unlink()
    loader = training_loader(train, ShuffledBatches(len(train), 7, 0, 12, seed=0), num_workers=2)
    for batch in loader:
        assert_labels_are_right(batch)
    rows = read_bad_images(tmp_path / "run")
    assert {row["name"] for row in rows} == gone
    assert len(rows) <= 2 * len(gone)


@pytest.mark.usefixtures("too_large")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_message_of_a_worker_process_is_one_line(photos: Path):
    train, _ = load_splits(config_of(photos))
    assert train._records is not None
    gone = train._records.name(0)
    Path(gone).unlink()
    loader = training_loader(train, ShuffledBatches(len(train), len(train), 0, 1, seed=0), num_workers=1)
    with pytest.raises(InputError, match="Traceback") as stopped:
        list(loader)
    assert plain_message(stopped.value).startswith(f"{gone} is a bad image: cannot be read: No such file")
    assert plain_message(InputError("steps is 0")) == "steps is 0"


def test_a_report_cut_off_by_a_crash_goes_on(tmp_path: Path):
    BadImageReport(tmp_path, "train").add({"a.png": "empty", "b.png": "empty"})
    path = tmp_path / "bad_images.jsonl"
    path.write_bytes(path.read_bytes()[:-5])
    assert [row["name"] for row in read_bad_images(tmp_path)] == ["a.png"]
    report = BadImageReport(tmp_path, "train")
    report.add({"a.png": "empty", "b.png": "empty"})
    assert [row["name"] for row in read_bad_images(tmp_path)] == ["a.png", "b.png"]


# At scale


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
        str(tmp_path / "run"),
        DataConfig(source=str(flat), channels=1, skip_bad_images=True),
        dataclasses.replace(MODEL, codebook_size=16),
        steps=3, batch_size=20, warmup_steps=0, evaluation_images=20,
    )  # fmt: skip
    assert (train_tokenizer(run) / "model.safetensors").is_file()
    splits = load_splits(run.data)
    assert sum(map(len, splits)) == 1800
    assert {row["name"] for row in read_bad_images(run.output_dir)} == set(map(str, broken))
