"""Webdataset shards: tar archives whose neighbouring members of one name, `000.png` and `000.cls`, are a sample.

An archive's headers are read once, into an index of where its images lie. It is kept in the cache of `datasets` under
the path, size and time of the archive, and memory-mapped, so that an archive takes the same memory whatever it holds.
Nothing is ever extracted.
"""

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets.config
import pyarrow as pa

from ..errors import InputError
from ..storage.cache import writable_cache
from ..storage.untrusted import first_line
from .decoding import SUFFIXES, BadImage
from .folders import MAX_FILE_BYTES
from .names import Label, in_nfc

MAX_FIELD_BYTES = 2**20  # of a label, of JSON, and of a header: their sizes are claims of the archive
_FOLDER = "wvq-shards"  # of the cache
_FORMAT = 2  # of the index: raise it when what it holds changes
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}
# All that tarfile raises.
_DAMAGE = (tarfile.TarError, OSError, ValueError, LookupError, ArithmeticError, RecursionError)
_SCHEMA = pa.schema([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64()), ("label", pa.string())])


@dataclass(frozen=True)
class TarShard:
    """An archive: what is known of it without its index.

    Attributes:
        path: of the archive.
        label_column: the field of `.json` that is the label; the `.cls` counts as "label".
        status: size and time of the file when it was listed.
        count: images.
        digest: hex sha256 of the file's name and size, and of name, place, size and label of every image; not of their
            bytes.
    """

    path: Path
    label_column: str
    status: tuple[int, int]
    count: int
    digest: str

    def __len__(self) -> int:
        return self.count

    def open(self) -> "OpenTar":
        return OpenTar(self)


class OpenTar:
    """An archive to be read.

    Raises:
        InputError: if it is gone, or another than when it was listed.
    """

    def __init__(self, shard: TarShard):
        self._path = shard.path
        if _status(shard.path) != shard.status:
            raise InputError(f"{shard.path} has changed since it was listed")
        index = tar_index(shard.path, shard.label_column)
        self._names, self._offsets, self._sizes, self._labels = index.columns
        self._file = os.open(shard.path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        if hasattr(os, "posix_fadvise"):  # images are read in any order, the disk reads the archive from end to end
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_WILLNEED)

    def content(self, row: int) -> bytes:
        size = self._sizes[row].as_py()
        if size > MAX_FILE_BYTES:
            raise BadImage(f"{size:,} bytes are more than the {MAX_FILE_BYTES:,} of the largest image")
        try:
            content = os.pread(self._file, size, self._offsets[row].as_py())
        except OSError as error:
            raise InputError(f"{self._path} cannot be read: {error.strerror}") from error
        if len(content) < size:
            raise InputError(f"{self._path} has changed since it was listed")
        return content

    def name(self, row: int) -> str:
        return f"{self._names[row].as_py()} in {self._path}"

    def label(self, row: int) -> Label:
        return _value(self._labels[row].as_py())


def list_tar(path: Path, label_column: str) -> tuple[TarShard, set[Label], dict[str, str]]:
    """(the archive, all labels in it, what is bad by name with the reason): samples without an image or a label that
    can be read, and damage."""
    status = _status(path)
    index = tar_index(path, label_column)
    about = index.schema.metadata
    values = {_value(text) for text in index["label"].unique().to_pylist()}
    shard = TarShard(path, label_column, status, len(index), about[b"digest"].decode())
    return shard, values, json.loads(about[b"bad"])


def tar_index(path: Path, label_column: str) -> pa.Table:
    """Name, offset, size and label of every image of an archive, from the cache or into it, where it can be kept."""
    identity = [_FORMAT, os.path.realpath(path), *_status(path), label_column]
    key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        return _read_index(cache, key)
    except (OSError, pa.ArrowInvalid):  # not there yet, or cut off by a power failure
        pass
    try:
        writable = writable_cache(cache)
        if writable != cache and (writable / _FOLDER / f"{key}.arrow").exists():
            return _read_index(writable, key)
        index = _read_headers(path, label_column)
        _write_index(index, writable, key)
        return index
    except OSError:  # of a full disk: it is read anew every time
        return _read_headers(path, label_column)


def _read_index(cache: Path, key: str) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(cache / _FOLDER / f"{key}.arrow"))).read_all()


def _write_index(index: pa.Table, cache: Path, key: str) -> None:
    folder = cache / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    # A name of its own: several processes may be writing the same index.
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{key}-") as own:
        with pa.ipc.new_file(f"{own}/index", index.schema) as writer:
            writer.write_table(index)
        os.replace(f"{own}/index", folder / f"{key}.arrow")


def _status(path: Path) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    return status.st_size, status.st_mtime_ns


def _value(text: str | None) -> Label:
    return int(text) if text and re.fullmatch(r"0|-?[1-9]\d{0,17}", text) else text


def _read_headers(path: Path, label_column: str) -> pa.Table:
    rows: list[dict[str, Any]] = []
    bad: dict[str, str] = {}
    first_names: list[str] = []
    try:
        with _Headers(path) as file:
            for members in _samples(_members(file, first_names)):
                try:
                    rows.append(_image(members) | {"label": _label(file, members, label_column)})
                except BadImage as error:
                    bad[f"{_key(members[0].name)[0]} in {path}"] = str(error)
    except OSError as error:  # may pass, as that of a network: not to be kept as damage
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except _DAMAGE as error:
        kind = _compression(path)
        damage = (
            f"compressed with {kind}, to be unpacked first" if kind else f"damaged after {len(rows)} images: {error}"
        )
        bad[str(path)] = damage
    if first_names and not rows and not bad:
        bad[str(path)] = f"no member is called like an image; the first are {', '.join(first_names)}"
    index = pa.Table.from_pylist(rows, _SCHEMA).combine_chunks()
    digest = hashlib.sha256(json.dumps([path.name, os.stat(path).st_size, index.to_pylist()]).encode()).hexdigest()
    return index.replace_schema_metadata({"digest": digest, "bad": json.dumps(bad)})


def _compression(path: Path) -> str | None:
    """With what an archive is compressed as a whole, so that no image in it can be read by its place."""
    with path.open("rb") as file:
        start = file.read(8)
    return next((kind for magic, kind in _COMPRESSED.items() if start.startswith(magic)), None)


class _Headers(io.FileIO):
    """An archive of which only headers and short fields are read, whatever sizes it claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_FIELD_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes, more than {MAX_FIELD_BYTES}")
        return super().read(size)


def _members(file: _Headers, first_names: list[str]) -> Iterator[tarfile.TarInfo]:
    """The regular files of an archive; the names of the first three are added to `first_names`.

    Raises:
        tarfile.TarError: for what is no archive or a damaged one; `tarfile` takes a damaged header for the end.
    """
    end = os.fstat(file.fileno()).st_size
    with tarfile.open(fileobj=file, mode="r:") as archive:
        while (member := archive.next()) is not None:
            if not 0 <= member.size <= end - member.offset_data:
                raise tarfile.ReadError("unexpected end of data")
            if member.isreg() and not member.issparse():
                if len(first_names) < 3:
                    first_names.append(_unicode(member.name))
                yield member
        file.seek(archive.offset)
        if (block := file.read(tarfile.BLOCKSIZE)) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"{'a damaged header' if block else 'no end mark'} at byte {archive.offset:,}")


def _key(name: str) -> tuple[str, str]:
    """(sample, field) of a member, as webdataset cuts its name: at the first point after the folders."""
    folder, _, last = name.rpartition("/")
    key, _, field = last.partition(".")
    return f"{folder}/{key}" if folder else key, field.lower()


def _samples(members: Iterator[tarfile.TarInfo]) -> Iterator[list[tarfile.TarInfo]]:
    """Neighbouring members of one key; names without a field or with nothing before it are passed over."""
    sample: list[tarfile.TarInfo] = []
    for member in members:
        key, field = _key(member.name)
        if not field or not key.rpartition("/")[2]:
            continue
        if sample and key != _key(sample[0].name)[0]:
            yield sample
            sample = []
        sample.append(member)
    if sample:
        yield sample


def _image(members: Sequence[tarfile.TarInfo]) -> dict[str, Any]:
    """Where the one image of a sample lies. Raises: BadImage: if there is none, or not one."""
    fields = [_key(member.name)[1] for member in members]
    images = [member for member, field in zip(members, fields, strict=True) if f".{field}" in SUFFIXES]
    if len(set(fields)) < len(fields):
        raise BadImage(f"two members of one name ({', '.join(fields)})")
    if len(images) != 1:
        raise BadImage(f"{len(images) or 'no'} images ({', '.join(fields)})")
    return {"name": _unicode(images[0].name), "offset": images[0].offset_data, "size": images[0].size}


def _unicode(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()  # a name in a tar need not be Unicode


def _label(file: _Headers, members: Sequence[tarfile.TarInfo], label_column: str) -> str | None:
    """The text of `.cls`, else the field of `.json`, a whole number or text; None without either.

    Raises:
        BadImage: for a label of another type, or one that cannot be read.
    """
    fields = {_key(member.name)[1]: member for member in members}
    own = "cls" in fields and label_column in ("label", "cls")
    name = "cls" if own else "json"
    if name not in fields:
        return None
    try:
        content = _field(file, fields[name])
        value: Any = content.decode("utf-8-sig").strip() or None if own else _json_field(content, label_column)
        label = None if value is None else in_nfc(str(value))
        (label or "").encode()  # JSON can name half of a surrogate pair, which is no text
    except (ValueError, RecursionError) as error:
        raise BadImage(f"its .{name} cannot be read: {first_line(error)}") from error
    return label


def _json_field(content: bytes, name: str) -> int | str | None:
    """Raises: ValueError: for what is no JSON, and a value that is neither a whole number nor text."""
    values = json.loads(content)
    value = values.get(name) if isinstance(values, dict) else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if value is not None and not isinstance(value, str | int):
        raise ValueError(f"{name} is {value!r:.60}, neither a whole number nor text")
    return value


def _field(file: _Headers, member: tarfile.TarInfo) -> bytes:
    if member.size > MAX_FIELD_BYTES:
        raise ValueError(f"{member.size:,} bytes; at most {MAX_FIELD_BYTES:,} are read")
    file.seek(member.offset_data)
    return file.read(member.size)
