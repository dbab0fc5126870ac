"""Fashion-MNIST, tables and the hub: the sources of `wvq.tokenizer.data.dataset` that are no folders of images."""

import gzip
import hashlib
import io
import struct
from pathlib import Path

import datasets
import datasets.config
import huggingface_hub.constants
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.data.published import fashion_mnist
from wvq.tokenizer.errors import InputError


@pytest.fixture(autouse=True)
def own_cache_and_no_network(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def png(image: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[0].numpy()).save(buffer, "PNG")
    return buffer.getvalue()


# Fashion-MNIST


@pytest.fixture
def idx(tmp_path, monkeypatch, fashion_images) -> Path:
    """A folder of idx files with 500 and 100 real images, whose sums stand in for the published ones."""
    images, labels = fashion_images
    held_out = torch.arange(600) % 60 >= 50
    sums = {}
    folder = tmp_path / "idx"
    folder.mkdir()
    for prefix, chosen in (("train", ~held_out), ("t10k", held_out)):
        pixels = images[chosen][:, 0].numpy()
        contents = {
            "images-idx3": struct.pack(">4I", 0x803, *pixels.shape) + pixels.tobytes(),
            "labels-idx1": struct.pack(">2I", 0x801, len(pixels)) + labels[chosen].numpy().astype(np.uint8).tobytes(),
        }
        for kind, content in contents.items():
            (folder / f"{prefix}-{kind}-ubyte.gz").write_bytes(gzip.compress(content, 1))
            sums[f"{prefix}-{kind}-ubyte"] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(fashion_mnist, "SHA256", sums)
    monkeypatch.setattr(fashion_mnist, "FOLDERS", (tmp_path / "absent", tmp_path / "absent-too"))
    return folder


def test_idx_files_gzipped_or_not(idx, fashion_images):
    images, labels = fashion_images
    train, evaluation = load_splits(DataConfig(root=str(idx), channels=1))
    assert (evaluation.__getitems__(range(100))["images"] == images[torch.arange(600) % 60 >= 50]).all()
    assert (train.labels == labels[torch.arange(600) % 60 < 50]).all()
    assert train.class_names[0] == "T-shirt/top"
    assert evaluation.description["origin"] == "official test split"
    for path in idx.glob("*images*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert load_splits(DataConfig(root=str(idx), channels=1))[0].fingerprint == train.fingerprint


def test_idx_files_are_searched_for_in_order(idx, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "FOLDERS", (idx.parent / "absent", idx))
    assert len(load_splits(DataConfig())[0]) == 500
    monkeypatch.setattr(fashion_mnist, "FOLDERS", (idx.parent / "half", idx))
    (idx.parent / "half").mkdir()
    (idx / "t10k-labels-idx1-ubyte.gz").rename(idx.parent / "half" / "t10k-labels-idx1-ubyte.gz")
    with pytest.raises(InputError, match=r"half/train-images-idx3-ubyte.gz is missing"):
        load_splits(DataConfig())


def test_idx_files_that_are_others_damaged_or_missing(idx):
    labels = idx / "train-labels-idx1-ubyte.gz"
    content = gzip.compress(np.random.default_rng(0).bytes(500))
    labels.write_bytes(gzip.compress(b"\0" * 508))
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte from .*idx is not Fashion-MNIST: its sha256"):
        load_splits(DataConfig(root=str(idx)))
    for damaged in (content[:100], b"not gzip", content[:50] + b"\0" * 20 + content[70:]):
        labels.write_bytes(damaged)
        with pytest.raises(InputError, match=r"train-labels-idx1-ubyte.gz: cannot be read"):
            load_splits(DataConfig(root=str(idx)))
    labels.unlink()
    with pytest.raises(InputError, match=r"train-labels-idx1-ubyte.gz is missing; needed are"):
        load_splits(DataConfig(root=str(idx)))


def test_fashion_mnist_that_is_nowhere_names_three_ways(idx):
    with pytest.raises(InputError, match=r"--data.root FOLDER.*apt-get install dataset-fashion-mnist.*make data.*hub"):
        load_splits(DataConfig())


def test_the_hubs_copy_is_checked_by_the_same_sums(idx, fashion_images, monkeypatch):
    images, labels = fashion_images
    held_out = torch.arange(600) % 60 >= 50
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
    tables = datasets.DatasetDict()
    for split, chosen in (("train", ~held_out), ("test", held_out)):
        columns = {
            "image": [{"bytes": png(image), "path": None} for image in images[chosen]],
            "label": labels[chosen].tolist(),
        }
        tables[split] = datasets.Dataset.from_dict(columns, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda name: tables)
    from_files = load_splits(DataConfig(root=str(idx)))
    assert [split.fingerprint for split in load_splits(DataConfig())] == [split.fingerprint for split in from_files]
    tables["test"] = tables["test"].select(range(99))
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte from .* on the hub is not Fashion-MNIST"):
        load_splits(DataConfig())


@pytest.mark.skipif(
    not any((folder / "train-images-idx3-ubyte.gz").exists() for folder in fashion_mnist.FOLDERS),
    reason="Fashion-MNIST is not installed",
)
def test_the_whole_of_fashion_mnist():
    train, evaluation = load_splits(DataConfig(channels=1))
    assert (train.labels.bincount() == 6000).all()
    assert (evaluation.labels.bincount() == 1000).all()
    assert evaluation.description["also_in_train"] == 0


# Tables


def write_parquet(path: Path, images: torch.Tensor, labels=None, name="image") -> None:
    columns = {name: [png(image) for image in images]} | ({} if labels is None else {"label": labels})
    pq.write_table(pa.table(columns), path)


def test_a_parquet_file_with_text_labels(tmp_path, fashion_images):
    images, labels = fashion_images[0][::3], fashion_images[1][::3]
    write_parquet(tmp_path / "x.parquet", images, [f"class {label}" for label in labels])
    train, evaluation = load_splits(DataConfig(source=str(tmp_path / "x.parquet"), channels=1))
    assert train.class_names == tuple(f"class {label}" for label in range(10))
    assert len(train) + len(evaluation) == 200
    known = {image.numpy().tobytes(): label for image, label in zip(images, labels, strict=True)}
    for split in (train, evaluation):
        batch = split.__getitems__(range(len(split)))
        assert [known[image.numpy().tobytes()] for image in batch["images"]] == batch["labels"].tolist()


@pytest.mark.parametrize("kind", ["bytes", "struct", "feature"])
def test_every_way_to_store_an_encoded_image(tmp_path, fashion_images, kind):
    images = fashion_images[0][:40]
    path = tmp_path / "x.parquet"
    if kind == "bytes":
        write_parquet(path, images)
    else:
        cells = [{"bytes": png(image), "path": "a.png"} for image in images]
        if kind == "struct":
            pq.write_table(pa.table({"image": cells}), path)
        else:
            features = datasets.Features({"image": datasets.Image()})
            datasets.Dataset.from_dict({"image": cells}, features=features).to_parquet(str(path))
    train, evaluation = load_splits(DataConfig(source=str(path), channels=1, evaluation_fraction=0.3))
    found = torch.cat([split.__getitems__(range(len(split)))["images"] for split in (train, evaluation)])
    assert {image.numpy().tobytes() for image in found} == {image.numpy().tobytes() for image in images}
    assert train.class_names == ()


def test_a_folder_of_parquet_files_named_after_splits(tmp_path, fashion_images):
    images, labels = fashion_images
    write_parquet(tmp_path / "train-00000-of-00002.parquet", images[:200], labels[:200].numpy(), name="picture")
    write_parquet(tmp_path / "train-00001-of-00002.parquet", images[200:], labels[200:].numpy(), name="picture")
    write_parquet(tmp_path / "test.parquet", images[60:90], labels[60:90].numpy(), name="picture")
    train, evaluation = load_splits(DataConfig(source=str(tmp_path), channels=1, image_column="picture"))
    assert (train.__getitems__(range(600))["images"] == images).all()
    assert evaluation.class_names == tuple(map(str, range(10)))
    assert (evaluation.labels == 1).all()
    assert evaluation.description["also_in_train"] == 30
    (tmp_path / "test.parquet").rename(tmp_path / "other.parquet")
    with pytest.raises(
        InputError, match=r"train-00000-of-00002.parquet is named after a split but other.parquet is not"
    ):
        load_splits(DataConfig(source=str(tmp_path), image_column="picture"))


def test_class_labels_keep_their_names_and_the_hubs_splits_are_used(fashion_images, monkeypatch):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["b", "a", "unused"])})
    cells = [{"bytes": png(image), "path": None} for image in fashion_images[0][:10]]
    table = datasets.Dataset.from_dict({"image": cells, "label": [0, 1] * 5}, features=features)
    tables = datasets.DatasetDict(
        {"train": table, "test": table.select(range(4)), "validation": table.select(range(3))}
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda name: tables)
    train, evaluation = load_splits(DataConfig(source="owner/name"))
    assert train.class_names == ("b", "a", "unused")
    assert evaluation.description["origin"] == "split validation"
    assert evaluation.labels.tolist() == [0, 1, 0]
    unlabelled = datasets.Dataset.from_dict({"image": cells, "label": [-1] * 10}, features=features)
    tables["validation"] = unlabelled
    with pytest.raises(InputError, match=r"no class of its train split: -1; to train without classes"):
        load_splits(DataConfig(source="owner/name"))
    assert load_splits(DataConfig(source="owner/name", label_column="none"))[1].class_names == ()
    monkeypatch.setattr(datasets, "load_dataset", lambda name: datasets.DatasetDict({"first": table, "second": table}))
    with pytest.raises(InputError, match="has the splits first, second; one of them must be called train"):
        load_splits(DataConfig(source="owner/name"))


def test_bad_images_of_a_table_are_named_by_their_row(tmp_path, fashion_images):
    cells: list[bytes | None] = [png(image) for image in fashion_images[0][:40]]
    cells[7], cells[30] = b"broken", None
    pq.write_table(pa.table({"image": cells}), tmp_path / "x.parquet")
    config = {"source": str(tmp_path / "x.parquet"), "evaluation_fraction": 0.3}
    with pytest.raises(InputError, match=r"row (7|30) of split train.* is a bad image: (not an image|empty)"):
        load_splits(DataConfig(**config))
    splits = load_splits(DataConfig(**config, skip_bad_images=True))
    assert sorted(name.split(" of ")[0] for split in splits for name in split.bad_images) == ["row 30", "row 7"]


def test_tables_that_make_no_sense(tmp_path, fashion_images):
    path = tmp_path / "x.parquet"
    write_parquet(path, fashion_images[0][:4], [0.5, 1.5, 2.5, 3.5])
    with pytest.raises(InputError, match="no image column 'picture'; its columns: image, label"):
        load_splits(DataConfig(source=str(path), image_column="picture"))
    with pytest.raises(InputError, match=r"column 'label' holds .*; valid are encoded images"):
        load_splits(DataConfig(source=str(path), image_column="label"))
    with pytest.raises(InputError, match=r"label column 'label' of .* holds .*float.*; valid are"):
        load_splits(DataConfig(source=str(path)))
    write_parquet(path, fashion_images[0][:4], ["a", "b", None, "a"])
    with pytest.raises(InputError, match="row 2 of split train is a bad image: has no label"):
        load_splits(DataConfig(source=str(path)))
    write_parquet(path, fashion_images[0][:0])
    with pytest.raises(InputError, match=r"column .image. holds Value\(.null.\); valid are encoded images"):
        load_splits(DataConfig(source=str(path)))
    path.write_bytes(b"PAR1 this is no parquet file")
    with pytest.raises(InputError, match=r"x.parquet: cannot be read as parquet"):
        load_splits(DataConfig(source=str(path)))


# Sources that do not exist


@pytest.mark.parametrize("source", ["fashion_mnist", "FashionMNIST", "fashion-minst"])
def test_a_near_match_is_offered(source):
    with pytest.raises(InputError, match=f"{source!r} does not exist; did you mean 'fashion-mnist'"):
        load_splits(DataConfig(source=source))


def test_a_path_that_does_not_exist(tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    (tmp_path / "notes.txt").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"photo' does not exist; did you mean '.*/photos'"):
        load_splits(DataConfig(source=str(tmp_path / "photo")))
    for source in ("/no/such/folder", "./absent", "absent.parquet", "photos/absent", "two words"):
        with pytest.raises(
            InputError, match=f"{source!r} does not exist; valid are fashion-mnist and cifar-10, a folder"
        ):
            load_splits(DataConfig(source=source))
    with pytest.raises(InputError, match=r"notes.txt' is a file; valid are a folder"):
        load_splits(DataConfig(source=str(tmp_path / "notes.txt")))
    with pytest.raises(InputError, match="no file or folder here, and the hub gave no data set 'owner/absent'"):
        load_splits(DataConfig(source="owner/absent"))
