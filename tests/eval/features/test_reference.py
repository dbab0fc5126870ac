"""Reference statistics on disk, published ones, and the errors of both."""

from pathlib import Path

import numpy as np
import pytest
import torch

from wvq.eval import ReferenceStatistics
from wvq.eval.features.reference import check_same_images
from wvq.tokenizer.errors import InputError

EXTRACTOR = {"name": "tiny", "dimension": 3, "resize": "none"}
DATASET = {"source": "photos", "crop": "centre", "image_size": 28, "fingerprint": "f"}


@pytest.fixture
def reference() -> ReferenceStatistics:
    covariance = torch.tensor([[2.0, 0.5, 0], [0.5, 1, 0], [0, 0, 3]], dtype=torch.float64)
    return ReferenceStatistics(10, torch.arange(3.0, dtype=torch.float64), covariance, EXTRACTOR, DATASET)


def test_what_is_saved_is_loaded(reference: ReferenceStatistics, tmp_path: Path) -> None:
    reference.save(tmp_path / "statistics")
    assert sorted(file.name for file in (tmp_path / "statistics").iterdir()) == [
        "protocol.json",
        "statistics.safetensors",
    ]
    loaded = ReferenceStatistics.load(tmp_path / "statistics")
    assert torch.equal(loaded.mean, reference.mean)
    assert torch.equal(loaded.covariance, reference.covariance)
    assert (loaded.count, loaded.extractor, loaded.dataset) == (10, EXTRACTOR, DATASET)


def test_a_folder_without_statistics_says_what_is_missing(reference: ReferenceStatistics, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"protocol\.json does not exist"):
        ReferenceStatistics.load(tmp_path)
    reference.save(tmp_path / "a")
    (tmp_path / "a" / "statistics.safetensors").unlink()
    with pytest.raises(InputError, match=r"statistics\.safetensors does not exist"):
        ReferenceStatistics.load(tmp_path / "a")
    (tmp_path / "a" / "statistics.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="does not hold reference statistics"):
        ReferenceStatistics.load(tmp_path / "a")


def test_published_statistics_are_read_from_arrays(tmp_path: Path) -> None:
    mean, covariance = np.arange(4.0), np.eye(4, dtype=np.float32)
    np.savez(tmp_path / "published.npz", mu=mean, sigma=covariance, mu_s=mean)
    loaded = ReferenceStatistics.load(tmp_path / "published.npz")
    assert loaded.count is None
    assert loaded.mean.tolist() == [0, 1, 2, 3]
    assert torch.equal(loaded.covariance, torch.eye(4, dtype=torch.float64))
    loaded.check_extractor({"name": "any", "dimension": 4})
    with pytest.raises(InputError, match="the reference statistics have 4 dimensions, the extractor 3"):
        loaded.check_extractor(EXTRACTOR)


def test_published_files_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    np.savez(tmp_path / "keys.npz", mean=np.zeros(3), cov=np.eye(3))
    np.savez(tmp_path / "shapes.npz", mu=np.zeros(3), sigma=np.eye(4))
    np.savez(tmp_path / "pickled.npz", mu=np.array([{"a": 1}], dtype=object), sigma=np.eye(1))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty.npz").touch()
    for name, message in {
        "keys": r"keys\.npz holds the arrays mean, cov; published statistics are mu and sigma",
        "shapes": r"mu \(3,\) and sigma \(4, 4\); they must be floating-point, \(d,\) and \(d, d\)",
        "pickled": "pickled objects, which are never loaded",
        "text": r"text\.npz is not an \.npz of arrays",
        "empty": r"empty\.npz is not an \.npz of arrays",
        "none": r"none\.npz does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            ReferenceStatistics.load(tmp_path / f"{name}.npz")


@pytest.mark.parametrize(
    ("key", "other"),
    [("name", "large"), ("dimension", 4), ("input_size", 64), ("resize", "64x64"), ("weights_sha256", "1")],
)
def test_every_difference_of_extractors_is_shown(key: str, other: str | int) -> None:
    protocol = {"name": "tiny", "dimension": 3, "input_size": 28, "resize": "none", "weights_sha256": "0"}
    reference = ReferenceStatistics(9, torch.zeros(3).double(), torch.eye(3).double(), protocol, DATASET)
    reference.check_extractor(dict(protocol))
    message = f"of another extractor: {key} is {protocol[key]!r} there and {other!r} here"
    with pytest.raises(InputError, match=f"{message}$"):
        reference.check_extractor({**protocol, key: other})


@pytest.mark.parametrize(
    ("key", "other"), [("crop", "none"), ("resize", "bilinear"), ("image_size", 64), ("channels", 1)]
)
def test_every_difference_of_images_is_shown(key: str, other: str | int) -> None:
    images = {"crop": "centre", "resize": "bicubic", "image_size": 28, "channels": 3, "source": "photos"}
    check_same_images(images, {**images, "source": "samples"})
    message = f"another protocol than the images: {key} is {images[key]!r} there and {other!r} here"
    with pytest.raises(InputError, match=f"{message}$"):
        check_same_images(images, {**images, key: other})


def test_another_protocol_is_refused_with_the_difference(reference: ReferenceStatistics) -> None:
    reference.check_extractor(EXTRACTOR)
    with pytest.raises(InputError, match="another extractor: resize is 'none' there and '299x299' here"):
        reference.check_extractor({**EXTRACTOR, "resize": "299x299"})
    check_same_images(DATASET, {"source": "samples", "image_size": 28})
    with pytest.raises(InputError, match="another protocol than the images: image_size is 28 there and 64 here"):
        check_same_images(DATASET, {"image_size": 64})
