"""The tokenizer: shapes, ranges, and what is saved, loaded and refused."""

import errno
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from wvq.tokenizer import InputError, TokenizerConfig, VQTokenizer
from wvq.tokenizer.storage import pretrained as saving
from wvq.tokenizer.storage.pretrained import SavedModule

TINY: dict[str, Any] = {
    "base_channels": 8,
    "num_blocks": 1,
    "latent_channels": 8,
    "codebook_size": 32,
    "codebook_dim": 4,
    "quantizer_options": {"init_std": 1.0, "initialization": "normal"},
}


def build(seed: int = 0, **changes: Any) -> VQTokenizer:
    torch.manual_seed(seed)
    return VQTokenizer(TokenizerConfig(**TINY | changes)).eval()


def images_for(tokenizer: VQTokenizer, batch: int = 2) -> Tensor:
    config = tokenizer.config
    shape = (batch, *config.image_shape)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    build().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


# Shapes and ranges


@pytest.mark.parametrize(
    ("changes", "grid"),
    [
        ({}, 7),
        ({"image_size": 32, "channels": 1}, 8),
        ({"image_size": 27, "channel_multipliers": (1,)}, 27),
        ({"image_size": 30, "channel_multipliers": (1, 2)}, 15),
        ({"image_size": 64, "channel_multipliers": (1, 1, 1, 2), "attention": True}, 8),
        ({"patch_size": 2, "channel_multipliers": (1, 2)}, 7),
        ({"quantizer": "vanilla", "base_channels": 6}, 7),
    ],
)
def test_shapes(changes: dict[str, Any], grid: int):
    tokenizer = build(**changes)
    images = images_for(tokenizer)
    assert tokenizer.config.grid_size == grid
    output = tokenizer(images)
    assert output.reconstructions.shape == images.shape
    assert output.features.shape == (2, 4, grid, grid)
    assert output.quantizer.quantized.shape == (2, 4, grid, grid)
    indices = tokenizer.encode(images)
    assert indices.shape == (2, grid, grid)
    assert indices.dtype == torch.int64
    assert torch.equal(indices, output.quantizer.indices)
    assert tokenizer.decode(indices).shape == images.shape


def test_decoding_is_the_reconstruction_clamped_to_the_range_of_images():
    tokenizer = build()
    with torch.no_grad():
        tokenizer.decoder.last_layer.get_parameter("weight").mul_(20)
        reconstructions = tokenizer(images_for(tokenizer)).reconstructions
    images = tokenizer.decode(tokenizer.encode(images_for(tokenizer)))
    assert reconstructions.abs().max() > 1
    assert images.abs().max() == 1
    torch.testing.assert_close(images, reconstructions.clamp(-1, 1), rtol=1e-4, atol=1e-4)


def test_gradient_reaches_every_weight_of_the_network():
    tokenizer = build().train()
    images = images_for(tokenizer)
    output = tokenizer(images)
    ((output.reconstructions - images).square().mean() + output.quantizer.loss).backward()
    assert [name for name, p in tokenizer.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_configuration_draws_nothing():
    before = torch.get_rng_state()
    TokenizerConfig(**TINY)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 30}, "image_size is 30; .*2 down-samplings it must divide by 4"),
        ({"image_size": 28, "patch_size": 2}, "image_size is 28; with patch_size 2 .* must divide by 8"),
        ({"image_size": 0}, "image_size is 0; it must be at least 1"),
        ({"channels": 4}, "channels is 4; valid are 1 and 3"),
        ({"channel_multipliers": ()}, r"channel_multipliers is \(\); it needs one or more numbers >= 1"),
        ({"channel_multipliers": (1, 0)}, r"channel_multipliers is \(1, 0\)"),
        ({"codebook_size": 1}, "codebook_size is 1"),
        ({"quantizer": "vanila"}, "did you mean 'vanilla'"),
        ({"quantizer_options": {"beta": 1}}, "quantizer 'wasserstein' has no option 'beta'"),
    ],
)
def test_configurations_that_cannot_be_used(changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        TokenizerConfig(**TINY | changes)


@pytest.mark.parametrize("shape", [(2, 1, 28, 28), (2, 3, 32, 32), (3, 28, 28)])
def test_images_of_another_shape(shape: tuple[int, ...]):
    with pytest.raises(InputError, match=re.escape(f"images have shape {shape}; this tokenizer takes (B, 3, 28, 28)")):
        build().encode(torch.zeros(shape))


def test_grid_of_another_size():
    with pytest.raises(InputError, match=r"indices have shape \(2, 8, 8\); this tokenizer takes \(B, 7, 7\)"):
        build().decode(torch.zeros(2, 8, 8, dtype=torch.int64))


@pytest.mark.parametrize("token", [-1, 32])
def test_token_out_of_range(token: int):
    indices = torch.zeros(1, 7, 7, dtype=torch.int64)
    indices[0, 3, 3] = token
    with pytest.raises(InputError, match="valid are 0 to 31"):
        build().decode(indices)


# Saving and loading


@pytest.mark.parametrize("changes", [{}, {"quantizer": "vanilla", "attention": True, "channels": 1}])
def test_round_trip_is_exact(tmp_path: Path, changes: dict[str, Any]):
    tokenizer = build(**changes).train()
    for _ in range(3):  # fills the window of statistics, which is saved as well
        tokenizer(images_for(tokenizer))
    tokenizer.eval().save_pretrained(tmp_path / "a" / "model")
    loaded = VQTokenizer.from_pretrained(tmp_path / "a" / "model")

    assert names(tmp_path / "a" / "model") == {"config.json", "model.safetensors"}
    assert not loaded.training
    assert loaded.config == tokenizer.config
    assert loaded.fingerprint == tokenizer.fingerprint
    weights, expected = loaded.state_dict(), tokenizer.state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    images = images_for(tokenizer)
    assert torch.equal(loaded.encode(images), tokenizer.encode(images))
    assert torch.equal(loaded(images).reconstructions, tokenizer(images).reconstructions)


def test_saving_again_replaces(saved: Path):
    other = build(seed=1)
    other.save_pretrained(saved)
    assert VQTokenizer.from_pretrained(saved).fingerprint == other.fingerprint
    assert names(saved.parent) == {"model"}


def test_saving_keeps_a_link_to_another_disk(saved: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(saved)
    other = build(seed=1)
    other.save_pretrained(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert VQTokenizer.from_pretrained(saved).fingerprint == other.fingerprint


def test_fingerprint_changes_with_every_weight_and_the_configuration():
    tokenizer = build()
    seen = {tokenizer.fingerprint, build(quantizer_options={"init_std": 1.0, "commitment_weight": 0.2}).fingerprint}
    for name, weight in tokenizer.named_parameters():
        with torch.no_grad():
            weight.view(-1)[0] += 1
        assert tokenizer.fingerprint not in seen, name
        seen.add(tokenizer.fingerprint)


def test_fingerprint_does_not_depend_on_the_order_of_options():
    options = {"init_std": 1.0, "commitment_weight": 0.2}
    backwards = dict(reversed(options.items()))
    assert build(quantizer_options=options).fingerprint == build(quantizer_options=backwards).fingerprint


def test_fingerprint_of_half_precision():
    assert build().bfloat16().fingerprint != build().fingerprint


def test_full_disk_leaves_the_old_model_and_nothing_else(saved: Path, monkeypatch: pytest.MonkeyPatch):
    before = VQTokenizer.from_pretrained(saved).fingerprint

    def full(weights: dict[str, Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saving, "save_file", full)
    for folder in (saved, saved.with_name("new")):
        with pytest.raises(OSError, match="No space left"):
            build(seed=1).save_pretrained(folder)
    assert VQTokenizer.from_pretrained(saved).fingerprint == before
    assert names(saved.parent) == {"model"}


def test_saving_over_other_files_is_refused_and_loses_none(saved: Path):
    before = VQTokenizer.from_pretrained(saved).fingerprint
    (saved / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"would be replaced, but holds 'thesis.tex' as well; give another folder"):
        build(seed=1).save_pretrained(saved)
    assert names(saved) == {"config.json", "model.safetensors", "thesis.tex"}
    assert VQTokenizer.from_pretrained(saved).fingerprint == before
    assert names(saved.parent) == {"model"}


def test_saving_into_the_working_directory_loses_nothing(saved: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(saved.parent)
    with pytest.raises(InputError, match="holds 'model' as well"):
        build().save_pretrained(".")
    assert names(saved.parent) == {"model"}


# What is refused


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def edit_weights(folder: Path, **changes: Tensor | None) -> None:
    weights = load_file(folder / "model.safetensors") | changes
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, folder / "model.safetensors")


DAMAGES = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json does not exist"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is not valid JSON"),
    "JSON of another kind": (lambda f: (f / "config.json").write_text("[]"), "does not describe a VQTokenizer"),
    "unknown key": (lambda f: edit_config(f, codebok_size=8), "has the unknown key 'codebok_size'; valid are"),
    "value out of range": (lambda f: edit_config(f, codebook_size=1), "codebook_size is 1"),
    "value of another type": (lambda f: edit_config(f, image_size="28"), "does not describe a VQTokenizer"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors does not exist"),
    "a weight missing": (lambda f: edit_weights(f, **{"quantizer.weight": None}), "quantizer.weight is missing"),
    "a weight too many": (lambda f: edit_weights(f, extra=torch.zeros(1)), "extra is no part of it"),
    "wrong shapes": (
        lambda f: edit_config(f, codebook_size=64),
        r"quantizer.weight has the shape \(32, 4\), not \(64, 4\)",
    ),
    "truncated weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-100]),
        "model.safetensors does not hold the weights its config.json describes",
    ),
    "weights that are none": (
        lambda f: (f / "model.safetensors").write_bytes(b"\x80\x04 no safetensors"),
        "model.safetensors does not hold the weights its config.json describes",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_folder(saved: Path, damage: str):
    inflict, message = DAMAGES[damage]
    inflict(saved)
    with pytest.raises(InputError, match=message):
        VQTokenizer.from_pretrained(saved)


def test_folder_of_another_class(saved: Path):
    class Other(SavedModule):
        config_class = TokenizerConfig

    with pytest.raises(InputError, match=r"config\.json does not describe a Other"):
        Other.from_pretrained(saved)


def test_no_folder_and_no_repository():
    with pytest.raises(InputError, match="'a/b/c' is no folder, and no repository of that name could be had"):
        VQTokenizer.from_pretrained("a/b/c")
