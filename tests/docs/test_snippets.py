"""Every Python block of the README, the guides and the results runs as it is printed, on toys."""

import dataclasses
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import toy_vllm
from doc_pages import PAGES, blocks, name_of
from hub_server import local_hub
from local_ray import local_ray
from PIL import Image
from tiny_pipelines import tiny_pipeline, tiny_prior, tiny_tokenizer

import wvq.tokenizer.data
from wvq.pipelines import ClassConditionalPipeline

BLOCKS = [(name_of(page), code) for page in PAGES for code in blocks(page, "python")]
RUN_HERE: list[str] = []

PIPELINE = "runs/demo/wasserstein-0/prior/pipeline"
OF_CIFAR = ("horse", "ship", "truck")


def snippet(containing: str) -> pytest.MarkDecorator:
    """Give a test the one block with this text."""
    RUN_HERE.append(containing)
    found = [code for _, code in BLOCKS if containing in code]
    assert len(found) == 1, f"{len(found)} Python blocks contain {containing!r}; a test runs one"
    return pytest.mark.parametrize("code", [pytest.param(found[0], id=containing)])


def snippets_of(page: str) -> pytest.MarkDecorator:
    """Give a test all blocks of a page, which belong together."""
    found = [code for name, code in BLOCKS if name == page]
    RUN_HERE.extend(found)
    return pytest.mark.parametrize("codes", [pytest.param(found, id=page)])


@pytest.mark.parametrize(("page", "code"), BLOCKS, ids=[page for page, _ in BLOCKS])
def test_every_block_is_run(page, code):
    tests = [containing for containing in RUN_HERE if containing in code]
    assert len(tests) == 1, f"{page} has a Python block that no test here runs:\n{code}"


@snippet("from wvq.prior.next_scale import next_scale_inputs")
def test_scores_of_scales(code):
    scope: dict[str, object] = {}
    exec(code, scope)
    assert isinstance(scope["scores"], torch.Tensor)
    assert scope["scores"].shape == (8, 21, 267)


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Where the block runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def fashion_source(fashion_folder, monkeypatch) -> None:
    """Every source is Fashion-MNIST's 600 images."""
    load_splits = wvq.tokenizer.data.load_splits
    monkeypatch.setattr(
        wvq.tokenizer.data,
        "load_splits",
        lambda config: load_splits(dataclasses.replace(config, source=str(fashion_folder))),
    )


@snippet("reconstruction_loss")
def test_a_quantizer_in_somebody_elses_autoencoder(code):
    torch.manual_seed(0)
    encoder, decoder = torch.nn.Conv2d(3, 8, 4, stride=4), torch.nn.ConvTranspose2d(8, 3, 4, stride=4)
    images = torch.rand(2, 3, 64, 64)
    z = encoder(images)
    names = {"z": z, "decoder": decoder, "reconstruction_loss": lambda x: (x - images).square().mean()}
    exec(code, names)
    names["loss"].backward()
    assert names["quantizer"].weight.grad is not None
    assert encoder.weight.grad is not None
    assert encoder.weight.grad.abs().sum() > 0
    assert names["output"].indices.shape == (2, 16, 16)
    assert {"commitment_loss", "codebook_loss", "wasserstein_distance"} == names["output"].terms.keys()


@snippet("ResidualQuantizer")
def test_quantizers_combine(code):
    names: dict = {"z": torch.randn(2, 8, 4, 4)}
    exec(code, names)
    assert names["output"].indices.shape == (2, 4, 4, 4)


@snippet("num_images_per_label=4")
def test_a_pipeline_draws_images(code, folder):
    named = ClassConditionalPipeline(tiny_tokenizer(), tiny_prior(), OF_CIFAR)
    named.save_pretrained(folder / PIPELINE)
    names: dict = {}
    exec(code, names)
    assert [type(image) for image in names["images"]] == 8 * [Image.Image]


@snippets_of("docs/adversarial.md")
def test_losses_of_the_adversarial_guide(codes, capsys):
    namespaces = [{} for _ in codes]
    for code, namespace in zip(codes, namespaces, strict=True):
        exec(code, namespace)
    assert capsys.readouterr().out.startswith("st-lpips-alex ")
    assert namespaces[0]["reconstructions"].grad.norm() > 0
    assert namespaces[1]["discriminator_loss"].isfinite()
    assert namespaces[1]["generator_loss"].isfinite()


@snippets_of("docs/tour.md")
def test_the_tour(codes, folder, fashion_source):
    tokenizer, prior = tiny_tokenizer(image_size=32), tiny_prior(num_tokens=64)
    prior.config.tokenizer_fingerprint = tokenizer.fingerprint
    ClassConditionalPipeline(tokenizer, prior, OF_CIFAR).save_pretrained(folder / PIPELINE)
    names: dict = {}
    for code in codes:
        exec(code, names)
    assert names["tokens"].shape == (3, 8, 8)
    assert names["reconstructions"].shape == (3, 3, 32, 32)
    assert 1 / 32 <= names["scores"]["utilization"] <= 1
    assert [type(image) for image in names["ships"]] == 16 * [Image.Image]


@snippet("moments =")
def test_the_distance_of_collapsed_codes(code):
    names: dict = {}
    exec(code, names)
    assert abs(names["distance"] - 2 * 8**0.5) < 0.3


@snippet("build_extractor")
def test_a_frechet_distance(code):
    names: dict = {}
    exec(code, names)
    assert names["value"] > 0


@snippet("clothes = TokenizerConfig")
def test_tokens_of_clothes(code):
    exec(code, {})


@snippet("a BaseAutoencoder")
def test_a_tokenizer_of_our_own_design_has_no_base(code):
    exec(code, {})


@snippet("train.take")
def test_images_are_taken_by_index(code, folder, fashion_folder):
    (folder / "photos").symlink_to(fashion_folder)
    names: dict = {}
    exec(code, names)
    assert (names["batch"]["images"].dtype, names["batch"]["images"].shape) == (torch.uint8, (2, 3, 64, 64))
    assert (names["batch"]["labels"].dtype, names["batch"]["labels"].shape) == (torch.int64, (2,))
    assert names["names"] == ["Ankle boot", "Ankle boot"]


@snippet("pipeline.inpaint")
def test_images_are_completed_and_inpainted(code, folder, fashion_source):
    tokenizer, prior = tiny_tokenizer(image_size=32), tiny_prior(num_classes=10, num_tokens=64)
    prior.config.tokenizer_fingerprint = tokenizer.fingerprint
    ClassConditionalPipeline(tokenizer, prior).save_pretrained(folder / PIPELINE)
    names: dict = {}
    exec(code, names)
    kept, completed, inpainted = names["rows"][0], names["rows"][2], names["rows"][6]
    assert [rows.shape for rows in names["rows"]] == 9 * [(10, 3, 32, 32)]
    assert names["hole"].sum() == 256
    assert not torch.equal(completed, kept)
    assert not torch.equal(inpainted, kept)
    with Image.open("edits.png") as picture:
        assert picture.width > picture.height > 0


@pytest.fixture
def photos(folder, fashion_folder) -> Path:
    """The folder, with 100 photos in it and a tokenizer for them."""
    for path in sorted((fashion_folder / "evaluation").rglob("*.png")):
        target = folder / "photos" / "train" / path.relative_to(fashion_folder / "evaluation")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    tiny_tokenizer(image_size=28, channels=1).save_pretrained(folder / "runs" / "tokenizer" / "model")
    return folder


@snippet("datasets.load_dataset")
def test_datasets_tokenizes(code, photos):
    names: dict = {}
    exec(code, names)
    assert names["tokens"].column_names == ["label", "tokens"]
    assert np.array(names["tokens"]["tokens"][:]).shape == (100, 49)


@pytest.mark.slow  # the start of Ray and of its workers
@snippet("read_binary_files")
def test_ray_tokenizes(code, photos):
    with local_ray():
        exec(code, {})
    table = pq.read_table(photos / "tokens")
    assert set(table.column_names) == {"path", "tokens"}
    assert len(set(table["path"].to_pylist())) == table.num_rows == 100


@snippet("ann/photographs-copy")
def test_parts_are_pushed_and_loaded_by_name(code, folder):
    with local_hub(folder / "cache") as hub:
        tiny_pipeline().push_to_hub("ann/photographs")
        names: dict = {}
        exec(code, names)
        assert hub.repositories["ann/photographs-copy"].private
    assert names["pipeline"].dtype == torch.float32
    assert names["tokenizer"].fingerprint == tiny_tokenizer().fingerprint
    assert torch.equal(names["prior"].lm_head.weight, tiny_prior().lm_head.weight)


@pytest.fixture
def on_disk(folder, monkeypatch) -> Path:
    """A pipeline where its name on the hub would be a folder, and room for the code that diffusers copies."""
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(folder / "modules"))
    monkeypatch.syspath_prepend(str(folder))
    own = tiny_pipeline()
    named = ClassConditionalPipeline(own.tokenizer, own.prior, ("horse", "ship", "truck"))
    named.save_pretrained(folder / "ann" / "photographs")
    return folder


@snippet("steps.append")
def test_diffusers_draws_with_a_callback(code, on_disk):
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (2, 16, 16, 3)
    assert [tokens.shape for tokens in names["steps"]] == [(2, position + 1) for position in range(16)]


@snippet("negative_prompt_ids")
def test_transformers_draws_tokens(code, on_disk):
    names: dict = {}
    exec(code, names)
    for tokens in (names["tokens"], names["guided"]):
        assert tokens.shape == (2, 16)
        assert int(tokens.max()) < 32


@snippet("class Guidance")
def test_the_recipe_for_vllm_draws_guided_images(code, folder, monkeypatch):
    for name, module in toy_vllm.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    tiny_pipeline().save_pretrained(folder / PIPELINE)
    names: dict = {}
    exec(code, names)
    assert names["images"].shape == (3, 3, 16, 16)
    assert len(names["tokens"][::2].unique(dim=0)) == 3
