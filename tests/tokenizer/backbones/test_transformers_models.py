"""DINO, DINOv2 and ConvNeXt from a folder: tiny, randomly initialised, but the real classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    Dinov2Config,
    Dinov2Model,
    PretrainedConfig,
    PreTrainedModel,
    ViTConfig,
    ViTModel,
)

from wvq.tokenizer.adversarial.discriminators import FeatureDiscriminator
from wvq.tokenizer.adversarial.perceptual import PerceptualLoss
from wvq.tokenizer.backbones.registry import build_backbone
from wvq.tokenizer.errors import InputError

TINY: dict[str, Any] = {"num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
CLASSES: dict[str, tuple[type[PreTrainedModel], PretrainedConfig]] = {
    "dino": (ViTModel, ViTConfig(**TINY, hidden_size=16, image_size=32, patch_size=8)),
    "dinov2": (Dinov2Model, Dinov2Config(**TINY, hidden_size=16, image_size=42, patch_size=14)),
    "convnext": (ConvNextModel, ConvNextConfig(hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transformers")
    torch.manual_seed(0)
    for name, (model, config) in CLASSES.items():
        options = {"add_pooling_layer": False} if name == "dino" else {}
        model(config, **options).save_pretrained(root / name)
    return {name: root / name for name in CLASSES}


@pytest.mark.parametrize("name", CLASSES)
def test_features_of_places_serve_both_losses(name: str, folders: dict[str, Path]) -> None:
    backbone = build_backbone(name, folders[name])
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    maps = backbone(images)
    assert [x.shape[:2] for x in maps] == [(2, width) for width in backbone.widths]
    sides = {"dino": [8] * 4, "dinov2": [5] * 4, "convnext": [16, 8, 4, 2]}
    assert [x.shape[2] for x in maps] == sides[name]
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    reconstructions = images.roll(1, 0).requires_grad_()
    loss = PerceptualLoss(name, folders[name])(images, reconstructions)
    logits = FeatureDiscriminator(name, folders[name], width=8).judge(reconstructions)
    assert logits.shape == (2, 4 * sides[name][-1] ** 2)
    (loss + logits.mean()).backward()
    assert reconstructions.grad is not None
    assert reconstructions.grad.norm() > 0


@pytest.mark.parametrize("name", ["dino", "dinov2"])
def test_a_place_is_where_it_was(name: str, folders: dict[str, Path]) -> None:
    """The hidden state of a patch lies at its row and column, without the token of the class."""
    model, _ = CLASSES[name]
    side = 32 if name == "dino" else 42
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1)) * 2 - 1
    backbone = build_backbone(name, folders[name])
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((images + 1) / 2 - mean.view(3, 1, 1)) / deviation.view(3, 1, 1)
    options: dict[str, Any] = {"add_pooling_layer": False} if name == "dino" else {}
    with torch.no_grad():
        network = model.from_pretrained(folders[name], **options).eval()
        tokens = network(pixel_values=pixels, output_hidden_states=True).hidden_states[-1]
    last, grid = backbone(images)[-1], side // (8 if name == "dino" else 14)
    for row, column in ((0, 0), (0, 2), (2, 1)):
        torch.testing.assert_close(last[0, :, row, column], tokens[0, 1 + grid * row + column])


def test_what_does_not_fit_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds a vit; valid for 'dinov2' is dinov2"):
        build_backbone("dinov2", folders["dino"])
    with pytest.raises(InputError, match=r"found no model\.safetensors"):
        build_backbone("convnext", tmp_path)
    large = Dinov2Config(hidden_size=1024, num_hidden_layers=1, num_attention_heads=1, mlp_ratio=1, image_size=14)
    large.save_pretrained(tmp_path / "large")
    (tmp_path / "large" / "model.safetensors").touch()
    with pytest.raises(InputError, match="holds DINOv2-large, by which models are scored"):
        build_backbone("dinov2", tmp_path / "large")
