"""Headers that ask for more memory than their files hold, and paths that would be waited for, are refused at once."""

import gzip
import io
import os
import signal
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from wvq.eval import ImageArchive, ReferenceStatistics, open_images
from wvq.eval.features.archives import read_headers
from wvq.tokenizer import InputError
from wvq.tokenizer.data.published.fashion_mnist import SHA256, read_fashion_mnist
from wvq.tokenizer.data.sources import find_source


def npy(shape: tuple[int, ...], dtype: Any = "<f8", content: bytes = b"") -> bytes:
    """An .npy whose header says `shape`, whatever its content is."""
    stream = io.BytesIO()
    about = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, about)
    return stream.getvalue() + content


def archive(path: Path, compression: int = zipfile.ZIP_STORED, **arrays: bytes) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in arrays.items():
            file.writestr(f"{name}.npy", content)
    return path


def claim(path: Path, size: int, compressed: bool) -> None:
    """Let the directory of a zip say that its last file has `size` bytes, also compressed."""
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\x01\x02")
    if compressed:
        content[entry + 20 : entry + 24] = struct.pack("<I", size)
    content[entry + 24 : entry + 28] = struct.pack("<I", size)
    path.write_bytes(content)


@pytest.fixture
def nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("memory was taken before the headers were checked")

    monkeypatch.setattr(np, "load", fail)


@pytest.mark.usefixtures("nothing_is_read")
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_array_that_its_file_cannot_hold_is_refused(compression: int, tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz", compression, mu=npy((3,), content=bytes(24)), sigma=npy((2**40, 2**40)))
    with pytest.raises(
        InputError, match=r"has the array sigma\.npy of 9,671,406,556,917,033,397,649,408 bytes .* holds 0"
    ):
        ReferenceStatistics.load(path)

    size = 2**28 * 8
    for compressed in (False, True):
        header = npy((2**28,))
        path = archive(tmp_path / "b.npz", compression, arr_0=header + bytes(24))
        claim(path, size + len(header), compressed)
        with pytest.raises(
            InputError, match=r"b\.npz has the array arr_0\.npy of 2,147,483,648 bytes .* cannot hold more"
        ):
            read_headers(path)


@pytest.mark.usefixtures("nothing_is_read")
def test_what_is_not_expected_is_refused_by_its_header(tmp_path: Path) -> None:
    large = 2**14 + 1
    zeros = archive(
        tmp_path / "large.npz", zipfile.ZIP_DEFLATED, mu=npy((large,), "<f4", bytes(4 * large)), sigma=npy((0, 0))
    )
    with pytest.raises(InputError, match=r"mu \(16385,\) and sigma \(0, 0\); they must be floating-point"):
        ReferenceStatistics.load(zeros)
    samples = npy((2, 4, 4, 3), "u1", bytes(96))
    for labels, message in (
        (npy((3,), "<i8", bytes(24)), r"arr_1 int64 of shape \(3,\); labels are integers \(2,\)"),
        (npy((2,), "<f4", bytes(8)), r"arr_1 float32 of shape \(2,\); labels are integers \(2,\)"),
    ):
        with pytest.raises(InputError, match=message):
            ImageArchive(archive(tmp_path / "samples.npz", arr_0=samples, arr_1=labels))


def test_dimensions_and_pixels_without_end_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wvq.eval.features.reference.MAX_DIMENSION", 3)
    np.savez(tmp_path / "statistics.npz", mu=np.zeros(4), sigma=np.eye(4))
    with pytest.raises(InputError, match="has statistics of 4 dimensions; valid are 1 to 3"):
        ReferenceStatistics.load(tmp_path / "statistics.npz")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    np.savez(tmp_path / "samples.npz", np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match="has images of 4x4; at most 15 pixels are read"):
        ImageArchive(tmp_path / "samples.npz")


KEYS = ("arr_0", "arr_1", "labels", "class_names", "mu", "sigma", "mu_s", "sigma_s", "mean/x", "ä", "")
DTYPES = ("|u1", "<i8", ">u8", "<f2", "<f8", "|b1", "<c16", "<U3", "|S2", "<M8[s]", "|V5", "|O")


@st.composite
def arrays(draw: st.DrawFn) -> bytes:
    """An .npy of any shape and dtype, most with as many bytes as its header says; or no .npy at all."""
    shape = draw(st.sampled_from([(2, 4, 4, 3), (2, 4, 4, 1), (0, 4, 4, 3), (2,), (3,), (3, 3), (1, 3), (), (2, -1)]))
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    size = draw(st.sampled_from([abs(int(np.prod(shape))) * dtype.itemsize] * 4 + [0, 7]))
    content = draw(st.binary(min_size=size, max_size=size))
    made = npy(shape, dtype, content)
    return draw(st.sampled_from([made, made, made, made, made[:9], made.replace(b"descr", b"shape"), content]))


@settings(max_examples=int(os.environ.get("WVQ_FUZZ_EXAMPLES", "300")), deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), arrays(), max_size=6),
    st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]),
    st.sampled_from([b"", b"a\nb\nc\n", b"\xef\xbb\xbfa\nb", b"a\n\nb", b"a\na", b"\xff\xfe", b"\0"]),
    st.tuples(st.integers(0, 400), st.binary(max_size=3), st.booleans()),
)
def test_no_archive_gives_anything_but_images_statistics_or_a_refusal(
    contents: dict[str, bytes], compression: int, names: bytes, damage: tuple[int, bytes, bool]
) -> None:
    place, replaced, cut = damage
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of zipfile and numpy, for what makes no sense
        path = archive(Path(folder, "a.npz"), compression, **contents)
        whole = path.read_bytes()
        if replaced or cut:
            path.write_bytes(whole[:place] + replaced + (b"" if cut else whole[place + len(replaced) :]))
        if names:
            (path.parent / "classnames.txt").write_bytes(names)
        for read in (open_images, ReferenceStatistics.load):
            with suppress(InputError):
                found = read(path)
                if isinstance(found, ImageArchive):
                    batch = found.__getitems__(range(len(found)))
                    assert batch["images"].shape[0] == len(found) > 0
                    if found.labels is not None:
                        assert int(found.labels.min()) >= 0
                        assert not found.class_names or int(found.labels.max()) < len(found.class_names)


def test_a_gz_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    for name in SHA256:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"\0"))
    bomb = tmp_path / "train-images-idx3-ubyte.gz"
    part = gzip.compress(bytes(2**24))
    bomb.write_bytes(part * 256)  # 4 GiB in 4 MB
    with pytest.raises(
        InputError, match=r"train-images-idx3-ubyte\.gz: .* more than the 47,040,016 bytes of the largest"
    ):
        read_fashion_mnist(str(tmp_path))


@pytest.fixture
def impatient() -> Iterator[None]:
    """Waiting for a pipe is a failure, not a test without end."""

    def fail(number: int, frame: Any) -> None:
        raise AssertionError("waited for a named pipe")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("name", "read", "message"),
    [
        ("pipe.npz", ReferenceStatistics.load, "is no regular file"),
        ("pipe.npz", open_images, "is no regular file"),
        ("pipe", open_images, "is no folder of images"),
        ("images/pipe.png", lambda path: open_images(path.parent), "is a bad image: not a regular file"),
        ("train-labels-idx1-ubyte.gz", lambda path: read_fashion_mnist(str(path.parent)), "not a regular file"),
        ("pipe", lambda path: find_source(str(path), None, "image", "label"), "does not exist"),
        ("statistics/statistics.safetensors", lambda path: ReferenceStatistics.load(path.parent), "is no regular file"),
    ],
)
def test_a_named_pipe_is_refused_and_not_waited_for(
    name: str, read: Callable[[Path], Any], message: str, tmp_path: Path
) -> None:
    pipe = tmp_path / name
    pipe.parent.mkdir(exist_ok=True)
    for idx in SHA256:
        (pipe.parent / f"{idx}.gz").write_bytes(gzip.compress(b"\0"))
    (pipe.parent / "protocol.json").write_text('{"count": 1, "extractor": {}, "dataset": {}}')
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    assert not ImageArchive.holds_images(pipe)
    with pytest.raises(InputError, match=message):
        read(pipe)
