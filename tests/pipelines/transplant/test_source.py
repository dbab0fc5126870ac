"""A quantizer in an autoencoder that exists: the same latents and images, what is saved, and what is refused."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from toy_autoencoders import OPTIONS, saved_autoencoder

from wvq.pipelines.transplant.source import read_autoencoder, transplanted
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.transplant.base_autoencoder import ADAPTERS

FOREIGN = [name for name in OPTIONS if name != "VQTokenizer"]


def put_into(folder: Path, **options: Any) -> VQTokenizer:
    torch.manual_seed(1)
    quantizer = {"codebook_size": 32, "quantizer_options": {"init_std": 0.5}, "image_size": 28}
    return transplanted(*read_autoencoder(folder), **quantizer | options).eval()


def some_images(channels: int = 1) -> Tensor:
    return torch.rand(2, channels, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1


def own_way(name: str, network: Any, images: Tensor) -> tuple[Tensor, Tensor]:
    """Latents and reconstructions as a user of that class computes them, without a quantizer."""
    if name == "AutoencoderKL":
        latents = (network.encode(images).latent_dist.mode() - 0.1) * 2.0
        return latents, network.decode(latents / 2.0 + 0.1).sample
    if name == "VQModel":
        latents = network.encode(images).latents * 1.5
        return latents, network.decode(latents / 1.5, force_not_quantize=True).sample
    if name == "AutoencoderDC":
        latents = network.encode(images).latent * 0.5
        return latents, network.decode(latents / 0.5).sample
    if name == "AutoencoderTiny":
        latents = network.encode(images).latents
        return latents, network.decode(latents).sample
    latents = network.features(images)
    return latents, network.images(latents)


@pytest.mark.parametrize("name", ADAPTERS)
@torch.no_grad()
def test_its_halves_are_the_autoencoder(name: str, tmp_path: Path):
    network, images = saved_autoencoder(name, tmp_path / "ae"), some_images()
    tokenizer = put_into(tmp_path / "ae")
    latents, reconstructions = own_way(name, network, images)
    assert tokenizer.config.latent_channels == latents.shape[1]
    assert tokenizer.config.grid_shape == tuple(latents.shape[2:])
    torch.testing.assert_close(tokenizer.encoder(images), latents)
    torch.testing.assert_close(tokenizer.decoder(latents), reconstructions)


@pytest.mark.parametrize("name", ADAPTERS)
def test_it_is_a_tokenizer_like_any_other(name: str, tmp_path: Path):
    saved_autoencoder(name, tmp_path / "ae")
    tokenizer, images = put_into(tmp_path / "ae", projector_channels=8), some_images()
    with torch.no_grad():
        tokenizer.from_codebook.residual[-1].weight.normal_()  # pyright: ignore
        output = tokenizer(images)
    indices = tokenizer.encode(images)
    assert torch.equal(indices, output.quantizer.indices)
    torch.testing.assert_close(tokenizer.decode(indices), output.reconstructions.clamp(-1, 1), rtol=1e-4, atol=1e-4)
    assert torch.equal(tokenizer.from_sequence(tokenizer.to_sequence(indices)), indices)

    tokenizer.save_pretrained(tmp_path / "saved")
    again = VQTokenizer.from_pretrained(tmp_path / "saved")
    assert again.config == tokenizer.config
    assert again.fingerprint == tokenizer.fingerprint
    assert torch.equal(again.decode(again.encode(images)), tokenizer.decode(indices))
    assert VQTokenizer.from_pretrained(tmp_path / "saved", torch.bfloat16).decode(indices).dtype == torch.bfloat16


@pytest.mark.parametrize("options", [{"quantizer": "product", "codebook_dim": 4}, {"quantizer": "residual"}])
def test_several_codebooks(options: dict[str, Any], tmp_path: Path):
    saved_autoencoder("AutoencoderKL", tmp_path / "ae")
    tokenizer = put_into(tmp_path / "ae", **options)
    assert tokenizer.encode(some_images()).shape == (2, 7, 7, 2)
    assert tokenizer.config.num_tokens == 98


def test_it_names_the_autoencoder(tmp_path: Path):
    saved_autoencoder("AutoencoderKL", tmp_path / "vae-of-mine")
    base = put_into(tmp_path / "vae-of-mine").config.base
    assert base is not None
    content = (tmp_path / "vae-of-mine" / "diffusion_pytorch_model.safetensors").read_bytes()
    assert (base.class_name, base.source, base.revision) == ("AutoencoderKL", "vae-of-mine", None)
    assert base.sha256 == hashlib.sha256(content).hexdigest()
    assert base.network["act_fn"] == "silu"  # a default, which may be another one day


def test_a_commit_of_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cached = tmp_path / "models--owner--name" / "snapshots" / ("ab" * 20)
    saved_autoencoder("AutoencoderTiny", cached)
    monkeypatch.setattr("wvq.tokenizer.storage.hub.snapshot_download", lambda name, **_: str(cached))
    base, _ = read_autoencoder("owner/name")
    assert (base.source, base.revision) == ("owner/name", "ab" * 20)


def test_attention_under_its_former_names(tmp_path: Path):
    network = saved_autoencoder("AutoencoderKL", tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    former = {"to_q.": "query.", "to_k.": "key.", "to_v.": "value.", "to_out.0.": "proj_attn."}
    weights = load_file(file)
    for new, old in former.items():
        weights = {name.replace(new, old): value for name, value in weights.items()}
    assert "encoder.mid_block.attentions.0.proj_attn.bias" in weights
    save_file(weights, file)
    found = read_autoencoder(tmp_path)[1]
    assert found.keys() == network.state_dict().keys()
    assert all(torch.equal(found[name], value) for name, value in network.state_dict().items())


def test_a_hash_is_checked(tmp_path: Path):
    saved_autoencoder("AutoencoderTiny", tmp_path)
    sha256 = read_autoencoder(tmp_path)[0].sha256
    assert read_autoencoder(tmp_path, sha256)[0].sha256 == sha256
    with pytest.raises(InputError, match=f"sha256 is {'0' * 64}, but the weights of .* have {sha256}"):
        read_autoencoder(tmp_path, "0" * 64)


def edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderOobleck"}, "describes the class 'AutoencoderOobleck'; valid are AutoencoderKL"),
        ({"_class_name": None}, "describes the class None"),
        ({"wings": 2}, "has no option 'wings'"),
        ({"latent_channels": 5}, "does not hold the weights its config.json describes"),
        ({"latent_channels": "many"}, "each must be at least 1"),
        ({"block_out_channels": 8}, "each must be at least 1"),
        ({"down_block_types": ["Mine", "Mine", "Mine"]}, "does not hold the weights .* Mine does not exist"),
        ({"layers_per_block": 10**9}, "describes more than the .* tensors that the file holds"),
    ],
)
def test_descriptions_that_cannot_be_used(changes: dict[str, Any], message: str, tmp_path: Path):
    saved_autoencoder("AutoencoderKL", tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(InputError, match=message):
        read_autoencoder(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 30}, "image_size is 30; .* it must divide by 4"),
        ({"codebook_dim": 5}, "codebook_dim is 5; it can be 4 at most, the channels of the latents"),
        ({"patch_size": 2}, "patch_size is 2; with an autoencoder it must be 1"),
    ],
)
def test_options_that_do_not_fit(options: dict[str, Any], message: str, tmp_path: Path):
    saved_autoencoder("AutoencoderKL", tmp_path)
    with pytest.raises(InputError, match=message):
        put_into(tmp_path, **options)


def test_sizes_of_images(tmp_path: Path):
    saved_autoencoder("VQTokenizer", tmp_path / "own")
    with pytest.raises(InputError, match="image_size is 32; the tokenizer in it takes 28"):
        put_into(tmp_path / "own", image_size=32)
    saved_autoencoder("AutoencoderKL", tmp_path / "kl")
    assert put_into(tmp_path / "kl", image_size=None).config.image_size == 28  # its sample_size
    saved_autoencoder("AutoencoderTiny", tmp_path / "tiny")
    with pytest.raises(InputError, match="image_size is not given, and an AutoencoderTiny is made for none"):
        put_into(tmp_path / "tiny", image_size=None)


def test_no_transplant_of_a_transplant(tmp_path: Path):
    saved_autoencoder("AutoencoderTiny", tmp_path / "tiny")
    put_into(tmp_path / "tiny").save_pretrained(tmp_path / "once")
    with pytest.raises(InputError, match=r"a tokenizer whose quantizer was transplanted; give .* 'tiny'"):
        put_into(tmp_path / "once")


def test_without_diffusers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved_autoencoder("AutoencoderDC", tmp_path / "dc")
    put_into(tmp_path / "dc").save_pretrained(tmp_path / "saved")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    for load in (read_autoencoder, VQTokenizer.from_pretrained):
        folder = tmp_path / ("dc" if load is read_autoencoder else "saved")
        with pytest.raises(InputError, match=r"not installed: pip install 'wvq\[diffusers\]'"):
            load(folder)


def test_pickles_are_not_read(tmp_path: Path):
    saved_autoencoder("AutoencoderKL", tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match=r"diffusion_pytorch_model\.safetensors does not exist"):
        read_autoencoder(tmp_path)


@pytest.mark.parametrize("name", ADAPTERS)
def test_the_last_layer_gives_the_images(name: str, tmp_path: Path):
    saved_autoencoder(name, tmp_path)
    tokenizer = put_into(tmp_path)
    with torch.no_grad():
        for parameter in tokenizer.decoder.last_layer.parameters():
            parameter.zero_()
        images = tokenizer(some_images()).reconstructions
    assert torch.equal(images, images[:1, :1, :1, :1].expand_as(images))
