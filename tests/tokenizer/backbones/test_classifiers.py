"""VGG16 and AlexNet of ST-LPIPS and LPIPS: their numbers, where they are kept, and what is refused."""

import hashlib
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from wvq.tokenizer.backbones import classifiers, pickles
from wvq.tokenizer.backbones.registry import build_backbone
from wvq.tokenizer.errors import InputError


def package_file(name: str) -> Path:
    package, file, _ = classifiers.CLASSIFIERS[name]
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], file)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch hub's cache of the test's own, empty."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("name", ["st-lpips-vgg16", "st-lpips-alex"])
def test_maps_have_the_widths_that_are_said_at_every_size(name: str) -> None:
    backbone = build_backbone(name)
    assert isinstance(backbone, classifiers.Classifier)
    for height, width in ((backbone.least_side, backbone.least_side), (33, 48)):
        maps = backbone(torch.zeros(2, 1, height, width))
        assert [x.shape[:2] for x in maps] == [(2, w) for w in backbone.widths]
        sizes = [x.shape[2] for x in maps]
        assert sizes == sorted(sizes, reverse=True)
    assert [w.shape for w in backbone.linear] == [(1, w, 1, 1) for w in backbone.widths]
    assert min(w.min() for w in backbone.linear) >= 0
    with pytest.raises(InputError, match=r"images are \(16, 64\); st-lpips"):
        backbone(torch.zeros(1, 3, 16, 64))


def test_pickles_are_read_once(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = torch.random.get_rng_state()
    first = build_backbone("st-lpips-alex")
    assert torch.equal(torch.random.get_rng_state(), state)
    (kept,) = (hub / "wvq").iterdir()
    assert kept.name == f"st-lpips-alex-{first.fingerprint}.safetensors"
    assert first.fingerprint == hashlib.sha256(kept.read_bytes()).hexdigest()
    damaged = bytearray(kept.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", None)
        again = build_backbone("st-lpips-alex")
    assert again.fingerprint == first.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    damaged[-1] ^= 1  # then the pickle is read again
    kept.write_bytes(damaged)
    assert build_backbone("st-lpips-alex").fingerprint == first.fingerprint


def test_another_file_is_not_opened(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(package_file("st-lpips-alex").read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights.pth").write_bytes(content)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(InputError, match=r"weights\.pth is not the file of weights of 'st-lpips-alex': its sha256 is"):
        build_backbone("st-lpips-alex", tmp_path / "weights.pth")
    assert not list((hub / "wvq").iterdir())


def test_a_file_that_is_given_stands_for_that_of_the_package(hub: Path, tmp_path: Path) -> None:
    shutil.copy(package_file("st-lpips-alex"), tmp_path / "weights.pth")
    given = build_backbone("st-lpips-alex", tmp_path / "weights.pth")
    assert given.fingerprint == build_backbone("st-lpips-alex").fingerprint


@pytest.mark.usefixtures("hub")
def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"found no weights at .*vgg16-397923af.pth .*https://download\.pytorch\.org"):
        build_backbone("lpips-vgg16")
    monkeypatch.setattr(pickles, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r'pip install "wvq\[adversarial\]"'):
        build_backbone("st-lpips-vgg16")


@pytest.mark.parametrize("name", ["efficientnet-lite0", "inception", "clip"])
def test_what_scores_is_no_backbone(name: str) -> None:
    with pytest.raises(InputError, match=f"backbone is '{name}', by which models are scored"):
        build_backbone(name)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(InputError, match="backbone is 'vgg'; valid are st-lpips-vgg16, "):
        build_backbone("vgg")


@pytest.mark.parametrize("name", ["alex", pytest.param("vgg16", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning")
@pytest.mark.filterwarnings("ignore:Arguments other than a weight enum:UserWarning")
def test_lpips_is_that_of_torchmetrics(
    name: str, hub: Path, monkeypatch: pytest.MonkeyPatch, fashion_images: tuple[Tensor, Tensor]
) -> None:
    """With random weights in torchvision's format, since theirs are a download."""
    from torchmetrics.functional.image import lpips

    from wvq.tokenizer.adversarial.perceptual import PerceptualLoss

    package, file, _ = classifiers.CLASSIFIERS[f"lpips-{name}"]
    monkeypatch.setitem(classifiers.CLASSIFIERS, f"lpips-{name}", (package, file, ""))
    monkeypatch.setattr(torch.nn.Linear, "reset_parameters", lambda _: None)  # of layers that nobody uses
    torch.manual_seed(0)
    theirs = lpips._LPIPS(net="alex" if name == "alex" else "vgg", pnet_rand=True).eval()
    features = {"features." + key.split(".", 1)[1]: value for key, value in theirs.net.state_dict().items()}
    (hub / "checkpoints").mkdir(parents=True)
    torch.save(features | {"classifier.1.weight": torch.zeros(1)}, hub / "checkpoints" / file)
    images = torch.nn.functional.interpolate(fashion_images[0][::300].float() / 127.5 - 1, 48).expand(-1, 3, -1, -1)
    distances = PerceptualLoss(f"lpips-{name}").distances(images, images.roll(1, 0))
    with torch.no_grad():
        torch.testing.assert_close(distances, theirs(images, images.roll(1, 0)).flatten())
