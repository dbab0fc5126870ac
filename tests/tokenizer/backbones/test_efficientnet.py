"""EfficientNet-Lite2: its maps are the package's, its weights are the known ones."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wvq.tokenizer.backbones.efficientnet import EFFICIENTNETS, EfficientNetLite2
from wvq.tokenizer.backbones.registry import build_backbone
from wvq.tokenizer.errors import InputError


def package_file() -> Path:
    package, file, _ = EFFICIENTNETS["efficientnet-lite2"]
    spec = find_spec(package)
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0], file)


@pytest.mark.parametrize("size", [(64, 64), (96, 160)])
def test_the_last_map_and_those_before_it_are_the_package_s(size: tuple[int, int]) -> None:
    from efficientnet_lite_pytorch import EfficientNet

    network: Any = EfficientNet.from_name("efficientnet-lite2", image_size=64).eval()
    network.load_state_dict(torch.load(package_file(), weights_only=True))
    seen: list[Tensor] = []
    for block in network._blocks:
        block.register_forward_hook(lambda _, __, output: seen.append(output))
    images = torch.rand(2, 3, *size) * 2 - 1
    with torch.no_grad():
        network.extract_features(((images + 1) * 127.5 - 127) / 128)
        maps = build_backbone("efficientnet-lite2")(images)
    last_of_size = {tuple(x.shape[2:]): x for x in seen}
    expected = list(last_of_size.values())[1:]  # without that of half the size
    assert [x.shape[2] for x in maps] == [size[0] // 4, size[0] // 8, size[0] // 16, size[0] // 32]
    for ours, theirs in zip(maps, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "finest"), [((32, 32), (16, 16)), ((28, 28), (16, 16)), ((24, 48), (16, 32)), ((100, 70), (24, 16))]
)
def test_images_of_other_sizes_are_resized(size: tuple[int, int], finest: tuple[int, int]) -> None:
    backbone = build_backbone("efficientnet-lite2")
    maps = backbone(torch.zeros(2, 1, *size))
    assert maps[0].shape[2:] == finest
    assert [x.shape[:2] for x in maps] == [(2, width) for width in backbone.widths]


def test_grey_equals_repeated_rgb_and_gradients_reach_the_images_alone() -> None:
    backbone = build_backbone("efficientnet-lite2").train()
    assert not any(module.training for module in backbone.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in backbone.modules())
    images = (torch.rand(2, 1, 32, 32) * 2 - 1).requires_grad_()
    maps = backbone(images)
    for ours, theirs in zip(maps, backbone(images.repeat(1, 3, 1, 1)), strict=True):
        torch.testing.assert_close(ours, theirs)
    torch.stack([x.square().mean() for x in maps]).sum().backward()
    assert images.grad is not None
    assert images.grad.abs().min() > 0
    assert all(not parameter.requires_grad and parameter.grad is None for parameter in backbone.parameters())


def test_another_file_and_a_missing_package_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(package_file().read_bytes())
    content[-1] ^= 1
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pth is not the file of weights of 'efficientnet-lite2'"):
        EfficientNetLite2(tmp_path / "weights.pth")
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(InputError, match=r'efficientnet_lite_pytorch.*pip install "wvq\[adversarial\]"'):
        build_backbone("efficientnet-lite2")


def test_its_relative_that_scores_stays_refused() -> None:
    with pytest.raises(InputError, match="backbone is 'efficientnet-lite0', by which models are scored"):
        build_backbone("efficientnet-lite0")
