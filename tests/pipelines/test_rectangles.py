"""Images of 32 x 48 pixels, from training to scores: nothing on the way takes them for squares."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import write_fashion_folder
from PIL import Image

from wvq.eval.evaluate import evaluate
from wvq.pipelines import ClassConditionalPipeline, ReconstructionPipeline
from wvq.pipelines.app.drawing import below, pixels_of
from wvq.pipelines.app.token_grid import around, from_text
from wvq.pipelines.command_line import parse
from wvq.pipelines.reconstruct import reconstruct
from wvq.pipelines.sample import sample
from wvq.pipelines.sharing.card import Card, card
from wvq.pipelines.tokenize import tokenize
from wvq.pipelines.train_prior import train_pipeline
from wvq.pipelines.train_tokenizer import train_tokenizer
from wvq.tokenizer import InputError, VQTokenizer
from wvq.tokenizer.data import load_splits
from wvq.tokenizer.tokens import TokenDataset

SHORT = ("--steps=2", "--batch-size=4", "--evaluate-every=2", "--log-every=1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/, tokenizer/, tokens/ and prior/pipeline."""
    folder = tmp_path_factory.mktemp("rectangles")
    write_fashion_folder(folder / "grey")
    for number, file in enumerate(sorted((folder / "grey").rglob("?0.png"))):  # 6 of each class, wider than high
        with Image.open(file) as image:
            path = folder / "photos" / file.relative_to(folder / "grey")
            path.parent.mkdir(parents=True, exist_ok=True)
            image.convert("RGB").resize((60 + number % 7, 40)).save(path)
    arguments = [
        f"--data.source={folder}/photos", "--data.image-size=[32, 48]", f"--output-dir={folder}/tokenizer",
        "--model.base-channels=8", "--model.num-blocks=1", "--model.latent-channels=8", "--model.codebook-size=64",
        "--model.patch-size=2",
    ]  # fmt: skip
    train_tokenizer(parse("train-tokenizer", [*arguments, *SHORT]))
    arguments = [
        f"--tokenizer={folder}/tokenizer/model", f"--data.source={folder}/photos", f"--tokens-dir={folder}/tokens",
        f"--output-dir={folder}/prior", "--model.hidden-size=16", "--model.num-layers=1", "--model.num-heads=2",
        "--sample-every=2", "--crops=1",
    ]  # fmt: skip
    train_pipeline(parse("train-prior", [*arguments, *SHORT]))
    return folder


def test_both_stages(trained: Path) -> None:
    config = VQTokenizer.from_pretrained(trained / "tokenizer" / "model").config
    assert (config.image_size, config.grid_shape, config.num_tokens) == ((32, 48), (4, 6), 24)
    assert json.loads((trained / "tokenizer" / "model" / "config.json").read_text())["image_size"] == [32, 48]
    picture = next((trained / "tokenizer" / "images").glob("*.png"))
    with Image.open(picture) as sheet:  # 10 evaluation images a row above their reconstructions
        assert sheet.size == (10 * (48 + 2) + 2, 2 * (32 + 2) + 2)
    with Image.open(next((trained / "prior" / "images").glob("*.png"))) as sheet:
        assert sheet.size == (8 * (48 + 2) + 2, 10 * (32 + 2) + 2)
    train_prior = ["--tokenizer", f"{trained}/tokenizer/model", f"--data.source={trained}/photos", "--crops=1"]
    (folder,) = [path for path in (trained / "tokens").iterdir() if (path / "tokens.json").exists()]
    assert tokenize(parse("tokenize", [*train_prior, f"--output-dir={trained}/tokens"])) == folder
    assert json.loads((folder / "tokens.json").read_text())["grid_size"] == [4, 6]
    assert TokenDataset(folder, "train").tokens.shape == (2 * 50, 24)


def test_samples_and_reconstructions(trained: Path, tmp_path: Path) -> None:
    pipeline_folder = str(trained / "prior" / "pipeline")
    out = sample(parse("sample", [
        f"--pipeline={pipeline_folder}", f"--output-dir={tmp_path}/samples", "--num-images=20", "--format=npz",
    ]))  # fmt: skip
    with np.load(Path(out) / "samples.npz") as samples:
        assert samples["arr_0"].shape == (20, 32, 48, 3)
    reconstruct(parse("reconstruct", [
        f"--tokenizer={pipeline_folder}/tokenizer", f"--data.source={trained}/photos", f"--output-dir={tmp_path}/twice",
        "--num-images=2",
    ]))  # fmt: skip
    with Image.open(next((tmp_path / "twice").rglob("000000.png"))) as picture:
        assert picture.size == (48, 32)


def test_scores(trained: Path, tmp_path: Path) -> None:
    """The extractor sees every image at its own size, whatever it was."""
    pipeline_folder = str(trained / "prior" / "pipeline")
    common = [f"--data.source={trained}/photos", "--extractor=efficientnet-lite0", "--allow-few-images=true"]
    evaluate(parse("evaluate", [
        f"--pipeline={pipeline_folder}", *common, "--num-images=10", f"--output={tmp_path}/s.json",
    ]))  # fmt: skip
    scores = json.loads((tmp_path / "s.json").read_text())
    for name in ("reconstruction_frechet_distance", "psnr", "ssim"):
        assert np.isfinite(scores["reconstruction"][name])
    assert np.isfinite(scores["generation"]["generation_frechet_distance"])
    reference = scores["generation"]["protocol"]["reference"]
    assert reference["image_size"] == [32, 48]
    assert "aspect ratio" in reference["crop"]
    for index in range(4):
        Image.new("RGB", (48, 32), (9 * index, 0, 99)).save(tmp_path / f"{index}.png")
    text = evaluate(parse("evaluate", [f"--images={tmp_path}", *common]))
    assert text is not None
    assert "4 generated" in text


def test_pipelines_card_and_application(trained: Path) -> None:
    folder = trained / "prior" / "pipeline"
    pipeline = ClassConditionalPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    _, evaluation = load_splits(
        parse("tokenize", [f"--data.source={trained}/photos", "--data.image-size=[32,48]"]).data
    )
    images = evaluation.take([0, 1])["images"]
    assert pipeline.complete(images, 16, [0, 1], output_type="latent").images.shape == (2, 4, 6)
    completed = pipeline.complete(images, 16, [0, 1], output_type="uint8").images
    assert torch.equal(completed[..., :16, :], images[..., :16, :])
    around_box = pipeline.outpaint(images, (8, 8, 40, 24), [0, 1], output_type="uint8").images
    assert torch.equal(around_box[..., 8:24, 8:40], images[..., 8:24, 8:40])
    picture, hole = Image.new("RGB", (100, 40), "red"), Image.new("L", (100, 40))
    hole.paste(255, (50, 0, 100, 40))  # of the 60 columns that are cut out, those from the middle on
    half = pipeline.inpaint(picture, hole, 0, output_type="uint8").images
    assert torch.equal(half[..., :24], images.new_tensor([255, 0, 0])[:, None, None].expand(1, 3, 32, 24))
    with pytest.raises(InputError, match=r"box is .*, 0 to 48 and 32"):
        pipeline.outpaint(images, (0, 0, 48, 33), [0, 1])
    mask = pixels_of([5, 6], (4, 6), 8)
    assert mask.shape == (32, 48)
    assert pipeline.inpaint(images, mask, [0, 1], output_type="uint8").images.shape == (2, 3, 32, 48)
    assert pipeline.likelihood(images, [0, 1])["bits_per_pixel"].shape == (2,)
    made = ReconstructionPipeline(pipeline.tokenizer)(Image.new("RGB", (100, 40)))
    assert made.images[0].size == (48, 32)
    config = pipeline.tokenizer.config
    assert below(3, config.grid_shape) == list(range(18, 24))
    assert from_text(" ".join(map(str, range(24))), config).shape == (4, 6)
    assert around(images, 23, config).shape == (2, 3, 16, 16)
    text = card(dataclasses.replace(Card(), pipeline=str(folder))).read_text()
    assert "32 x 48 pixels" in text
    assert "4 x 6 positions" in text
