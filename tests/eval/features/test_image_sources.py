"""Images from folders and archives, in every form, and the messages where they cannot be used."""

from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import ImageTensor
from PIL import Image
from torch import Tensor, nn

from wvq.eval import ImageArchive, ImageFolder, extract_features, open_images, score_features
from wvq.eval.features.feature_set import to_eight_bit
from wvq.tokenizer.errors import InputError


class Pixels(nn.Module):
    """A module of a user's own: 4x4 average pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.float() / 64, 7).flatten(1)


def all_images(source: ImageFolder | ImageArchive, batch_size: int = 7) -> Tensor:
    return torch.cat([batch["images"] for batch in batches(source, batch_size)])


def batches(source: ImageFolder | ImageArchive, batch_size: int) -> list[dict[str, Tensor]]:
    return [source.__getitems__(range(len(source))[k : k + batch_size]) for k in range(0, len(source), batch_size)]


def test_float_images_slightly_outside_score_as_their_clamped_and_rounded_bytes(
    fashion_images: tuple[Tensor, Tensor],
) -> None:
    generator = torch.Generator().manual_seed(0)
    floats = fashion_images[0] / 255 * 1.02 - 0.01
    floats += torch.randn(floats.shape, generator=generator) * 1e-3
    assert floats.min() < -0.01
    assert floats.max() > 1.01
    bytes_ = floats.mul(255).add(0.5).clamp(0, 255).floor().byte()
    assert (to_eight_bit(floats).int() - bytes_.int()).abs().max() <= (floats.mul(255).frac() == 0.5).any()
    real = extract_features(ImageTensor(fashion_images[0]), Pixels(), progress=False)
    scores = [
        score_features(
            real, extract_features(ImageTensor(images), Pixels(), batch_size=b, progress=False), ["fid", "mind"]
        )
        for images, b in ((floats, 500), (bytes_, 500), (floats.double(), 64))
    ]
    assert scores[0] == scores[1]
    assert scores[0]["fid"]["value"] == pytest.approx(scores[2]["fid"]["value"], rel=1e-9)
    assert real.extractor["name"] == "Pixels"


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.rand(2, 1, 4, 4) * 2 - 1, r"float images are in \[-0\..*they must be in \[0, 1\]"),
        (torch.rand(2, 1, 4, 4) * 255, r"they must be in \[0, 1\]"),
        (torch.full((1, 1, 2, 2), torch.nan), r"\[nan, nan\]"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), r"images are torch\.int64; valid are torch\.uint8"),
    ],
)
def test_images_of_another_range_are_refused(images: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        to_eight_bit(images)


def test_a_module_that_returns_no_features_is_named() -> None:
    with pytest.raises(InputError, match=r"the extractor returned \(2, 1, 4, 4\) for 2 images"):
        extract_features(ImageTensor(torch.zeros(2, 1, 4, 4)), nn.Identity(), progress=False)
    with pytest.raises(InputError, match="there are no images"):
        extract_features(ImageTensor(torch.zeros(0, 1, 4, 4)), nn.Identity(), progress=False)


def test_modules_of_a_class_are_told_apart_by_their_weights(fashion_images: tuple[Tensor, Tensor]) -> None:
    class Projection(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input.flatten(1).float())

    one, other = Projection(784, 3).requires_grad_(False), Projection(784, 3).requires_grad_(False)
    source = ImageTensor(fashion_images[0][:20])
    real, same, generated = (extract_features(source, module, progress=False) for module in (one, one, other))
    assert score_features(real, same, ["mind"])["mind"] == {
        "score": "MIND[Projection]",
        "value": 0,
        "projections": 1000,
    }
    with pytest.raises(InputError, match="of another extractor: weights_sha256 is"):
        score_features(real, generated, ["mind"])


def test_every_kind_of_file_is_read_and_named(fashion_images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    grey = Image.fromarray(fashion_images[0][0, 0].numpy())
    grey.save(tmp_path / "a.png")
    grey.convert("RGB").save(tmp_path / "b.png")
    grey.convert("P").save(tmp_path / "c.png")
    transparent = grey.convert("RGBA")
    transparent.putalpha(0)
    transparent.save(tmp_path / "d.png")
    grey.convert("RGB").save(tmp_path / "e.jpg", quality=95)
    source = ImageFolder(tmp_path)
    images = all_images(source, batch_size=2)
    assert images.shape == (5, 3, 28, 28)
    assert images.dtype == torch.uint8
    for index in range(3):
        assert torch.equal(images[index], fashion_images[0][0].repeat(3, 1, 1))
    assert (images[3] == 255).all(), "transparent is white"
    assert (images[4].int() - images[1].int()).abs().float().mean() < 5
    assert source.description["formats"] == {"JPEG RGB": 1, "PNG L": 1, "PNG P": 1, "PNG RGB": 1, "PNG RGBA": 1}
    assert source.description["image_size"] == 28
    assert ImageFolder(tmp_path, channels=1).description["channels"] == 1


def test_classes_of_a_folder_are_its_labels(fashion_folder: Path, fashion_images: tuple[Tensor, Tensor]) -> None:
    source = open_images(fashion_folder / "evaluation", channels=1)
    read = batches(source, 64)
    assert [len(batch["images"]) for batch in read] == [64, 36]
    labels = torch.cat([batch["labels"] for batch in read])
    assert labels.bincount().tolist() == [10] * 10
    with pytest.raises(InputError, match="has a training and an evaluation split; give the folder of one"):
        ImageFolder(fashion_folder)


def test_workers_read_the_same_images(fashion_folder: Path) -> None:
    alone, together = (ImageFolder(fashion_folder / "train", num_workers=workers) for workers in (0, 2))
    features = [extract_features(source, Pixels(), progress=False) for source in (alone, together)]
    assert torch.equal(features[0].vectors, features[1].vectors)
    assert alone.description == together.description


def test_folders_that_cannot_be_used_say_why(fashion_images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none is no folder of images"):
        open_images(tmp_path / "none")
    with pytest.raises(InputError, match="holds no images; valid suffixes are"):
        open_images(tmp_path)
    grey = Image.fromarray(fashion_images[0][0, 0].numpy())
    for name in ("a", "b"):
        grey.save(tmp_path / f"{name}.png")
    grey.resize((32, 32)).save(tmp_path / "large.png")
    with pytest.raises(InputError, match=r"images of 2 sizes: 2 of 28x28, and .*large\.png of 32x32; .* of one size"):
        open_images(tmp_path)
    (tmp_path / "large.png").write_bytes(b"no image at all")
    with pytest.raises(InputError, match=r"large\.png is a bad image: its header cannot be read"):
        open_images(tmp_path)
    (tmp_path / "large.png").write_bytes((tmp_path / "a.png").read_bytes()[:200])
    with pytest.raises(InputError, match=r"large\.png is a bad image"):
        all_images(ImageFolder(tmp_path))


def test_images_may_be_of_any_height_and_width(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 14, 28, 3), np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
    np.savez(tmp_path / "samples.npz", pixels)
    for source in (open_images(tmp_path), open_images(tmp_path / "samples.npz")):
        assert source.description["image_size"] == [14, 28]
        assert torch.equal(all_images(source), torch.from_numpy(pixels).permute(0, 3, 1, 2))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_archive_is_read_in_batches(save, fashion_images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    images = fashion_images[0][::20].repeat(1, 3, 1, 1)
    save(tmp_path / "samples.npz", images.permute(0, 2, 3, 1).numpy(), fashion_images[1][::20].numpy())
    source = ImageArchive(tmp_path / "samples.npz")
    assert len(source) == 30
    assert torch.equal(all_images(source), images)
    labels = torch.cat([batch["labels"] for batch in batches(source, 11)])
    assert torch.equal(labels, fashion_images[1][::20])
    assert source.description["image_size"] == 28


def test_images_of_an_archive_are_read_in_any_order(fashion_images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    images = fashion_images[0][:40].repeat(1, 3, 1, 1)
    np.savez_compressed(tmp_path / "samples.npz", images.permute(0, 2, 3, 1).numpy())
    source = ImageArchive(tmp_path / "samples.npz")
    for indices in (range(20, 30), range(30, 40), range(5), [39, 0, 7]):
        assert torch.equal(source.__getitems__(indices)["images"], images[list(indices)])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_archive_is_refused(save, fashion_images: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    save(tmp_path / "samples.npz", fashion_images[0].permute(0, 2, 3, 1).numpy())
    content = bytearray((tmp_path / "samples.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "samples.npz").write_bytes(content)
    with pytest.raises(InputError, match=r"samples\.npz is damaged: "):
        all_images(ImageArchive(tmp_path / "samples.npz"))


def test_archives_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    np.savez(tmp_path / "keys.npz", images=np.zeros((2, 4, 4, 3), np.uint8))
    np.savez(tmp_path / "floats.npz", np.zeros((2, 4, 4, 3)))
    np.savez(tmp_path / "pickled.npz", np.array([{"a": 1}], dtype=object))
    (tmp_path / "text.npz").write_text("no archive")
    for name, message in {
        "keys": r"keys\.npz holds the arrays images; samples are arr_0 \(N, H, W, 3\)",
        "floats": r"arr_0 float64 of shape \(2, 4, 4, 3\); samples are uint8",
        "pickled": "pickled objects, which are never loaded",
        "text": r"text\.npz is not an \.npz of arrays",
        "none": r"none\.npz does not exist",
    }.items():
        with pytest.raises(InputError, match=message):
            open_images(tmp_path / f"{name}.npz")
