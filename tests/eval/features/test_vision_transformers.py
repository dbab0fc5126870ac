"""DINOv2 and CLIP from a local folder: tiny, randomly initialised, but the real classes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    BitImageProcessor,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    Dinov2Config,
    Dinov2Model,
)
from transformers.utils.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from wvq.eval import build_extractor, score_name
from wvq.tokenizer.errors import InputError

TINY: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("transformers")
    torch.manual_seed(0)
    vision = CLIPVisionConfig(**TINY, image_size=32, patch_size=8, projection_dim=12)
    models = {
        "dinov2": Dinov2Model(Dinov2Config(**TINY, image_size=42, patch_size=14)),
        "vision": CLIPVisionModelWithProjection(vision),
        "clip": CLIPModel(
            CLIPConfig(text_config={**TINY, "vocab_size": 50}, vision_config=vision.to_dict(), projection_dim=12)
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
    return {name: root / name for name in models}


def test_dinov2_is_the_class_token_of_its_model(
    folders: dict[str, Path], fashion_images: tuple[Tensor, Tensor]
) -> None:
    extractor = build_extractor("dinov2", folders["dinov2"])
    images = fashion_images[0][::150]
    features = extractor(images)
    assert features.shape == (4, 16) == (4, extractor.num_features)
    # PIL's bicubic, as the authors of FD-DINOv2 resize, on the same pixels.
    processor = BitImageProcessor(
        size={"height": 224, "width": 224}, do_center_crop=False, resample=Image.Resampling.BICUBIC,
        image_mean=IMAGENET_DEFAULT_MEAN, image_std=IMAGENET_DEFAULT_STD, do_convert_rgb=True,
    )  # fmt: skip
    pixels = processor([Image.fromarray(image[0].numpy()).convert("RGB") for image in images], return_tensors="pt")
    with torch.no_grad():
        expected = Dinov2Model.from_pretrained(folders["dinov2"]).eval()(**pixels).last_hidden_state[:, 0]
    torch.testing.assert_close(features, expected, atol=2e-2, rtol=0)
    assert (features[0] - features[1]).norm() > 10 * (features - expected).norm(dim=1).max()
    assert score_name(extractor, "generation") == "FD[dinov2]"
    assert extractor.protocol["resize"] == "224x224, bicubic with antialias (torch), rounded to 8 bits"
    assert len(extractor.protocol["weights_sha256"]) == 64
    assert not any(module.training for module in extractor.train().modules())


@pytest.mark.parametrize("name", ["clip", "vision"])
def test_clip_is_the_projected_embedding(
    name: str, folders: dict[str, Path], fashion_images: tuple[Tensor, Tensor]
) -> None:
    extractor: Any = build_extractor("clip", folders[name])
    images = fashion_images[0][::150]
    assert extractor.input_size == 32
    features = extractor(images)
    assert features.shape == (4, 12) == (4, extractor.num_features)
    with torch.no_grad():
        pixels = extractor.pixels(images.expand(-1, 3, -1, -1))
        reference: Any = CLIPVisionModelWithProjection.from_pretrained(folders[name])
        expected = reference.eval()(pixel_values=pixels).image_embeds
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-4)
    assert (features[0] - features[1]).norm() > 1e-3
    with pytest.raises(InputError, match="'clip' has no classes"):
        extractor.logits(features)


def test_folders_that_do_not_hold_the_model_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found no model\.safetensors in .*pass weights=FOLDER"):
        build_extractor("dinov2", tmp_path)
    with pytest.raises(InputError, match="holds a clip; valid is dinov2"):
        build_extractor("dinov2", folders["clip"])
    with pytest.raises(InputError, match="is no folder, and no repository of that name"):
        build_extractor("clip", "./no/such/folder")
    for file in folders["dinov2"].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(InputError, match="does not hold a transformers model"):
        build_extractor("dinov2", tmp_path)


def test_missing_weights_are_never_left_random(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folders["dinov2"] / "model.safetensors")
    state.pop("layernorm.weight")
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_bytes((folders["dinov2"] / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"does not hold the weights of dinov2: no layernorm\.weight"):
        build_extractor("dinov2", tmp_path)
