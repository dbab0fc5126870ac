"""The card of a saved pipeline: what it says, what it keeps of its author's, and what its metadata are worth."""

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import local_hub
from model_cards import read_card
from PIL import Image
from tiny_pipelines import NAMES, tiny_pipeline

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.command_line import main
from wvq.pipelines.sharing.card import Card, card, write_card
from wvq.pipelines.sharing.card_text import BEGIN
from wvq.pipelines.sharing.push import Push, push
from wvq.prior import PriorConfig, PriorSize, build_prior
from wvq.tokenizer import InputError

REFERENCE = {"source": "fashion-mnist", "split": "evaluation", "count": 100, "crop": "centre square",
             "fingerprint": "04daf2", "bad_images": 0}  # fmt: skip
EXTRACTOR = {"name": "efficientnet-lite0", "weights_sha256": "579344"}
STAGE = {"data": {"source": "fashion-mnist", "crop": "centre square", "resize": "bicubic", "horizontal_flip": True,
                  "train_images": "e06d18"},
         "steps": 1500, "batch_size": 32, "images": 48_000, "hours": 1.25, "recipe": {}}  # fmt: skip


def scores_of(pipeline: Any, guidance_scale: float = 2.0) -> dict[str, Any]:
    """As `wvq evaluate --output` writes them."""
    tokenizer = pipeline.tokenizer.fingerprint
    sampling = {"guidance_scale": guidance_scale, "seed": 3, "batch_size": 250, "dtype": "auto",
                "guidance_interval": None, "tokenizer": tokenizer, "classes": "in equal shares"}  # fmt: skip
    return {
        "reconstruction": {
            "reconstruction_frechet_distance": 12.3456, "psnr": 19.568529, "ms_ssim": None, "utilization": 0.96,
            "num_images": 100,
            "protocol": {"score": "rFD[efficientnet-lite0]", "extractor": EXTRACTOR, "reference": REFERENCE,
                         "tokenizer": tokenizer, "psnr": "mean over images",
                         "utilization, perplexity": "over the whole set"},
        },
        "generation": {
            "generation_frechet_distance": 1661.16, "num_generated": 300, "num_reference": 100,
            "protocol": {"score": "FD[efficientnet-lite0]", "extractor": EXTRACTOR, "reference": REFERENCE,
                         "sampling": sampling},
            "scores": {"kid": {"score": "KD[efficientnet-lite0]", "value": 0.01234, "deviation": 0.001, "subsets": 100},
                       "recall": {"score": "Recall", "value": 0.5, "low": 0.4, "high": 0.6}},
        },
    }  # fmt: skip


@pytest.fixture
def pipeline() -> Any:
    pipeline = tiny_pipeline()
    pipeline.origin = {"tokenizer": STAGE, "prior": {**STAGE, "bits_per_token": 4.5678}}
    return pipeline


@pytest.fixture
def folder(pipeline: Any, tmp_path: Path) -> Path:
    pipeline.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def test_scores_become_metadata_with_their_whole_protocol(pipeline: Any, folder: Path, tmp_path: Path):
    scores = scores_of(pipeline)
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    assert card(Card(str(folder), str(tmp_path / "scores.json"))) == folder / "README.md"
    page, values = read_card(folder / "README.md")
    assert values == {"rfd": 12.3456, "psnr": 19.568529, "utilization": 0.96, "fd": 1661.16, "kid": 0.01234,
                      "recall": 0.5}  # fmt: skip
    by_type = {result.metric_type: result for result in page.data.eval_results}
    for result in by_type.values():
        assert result.dataset_args == REFERENCE
        assert (result.dataset_split, result.dataset_revision) == ("evaluation", "04daf2")
    sampling = {key: value for key, value in scores["generation"]["protocol"]["sampling"].items() if value is not None}
    assert by_type["fd"].metric_name == "FD[efficientnet-lite0]"
    assert by_type["fd"].metric_args == {"num_generated": 300, "num_reference": 100, "score": "FD[efficientnet-lite0]",
                                         "extractor": EXTRACTOR, "sampling": sampling}  # fmt: skip
    assert by_type["psnr"].metric_args == {"num_images": 100, "measured": "mean over images"}
    for row in ("| rFD[efficientnet-lite0] | 12.35 |", "| FD[efficientnet-lite0] | 1,661 | 300 generated, 100 re",
                "| KD[efficientnet-lite0] | 0.01234 ± 0.001000 |", "| Recall | 0.5000 [0.4000, 0.6000] |"):  # fmt: skip
        assert row in page.text


def test_it_says_what_the_pipeline_is_and_comes_from(pipeline: Any, folder: Path):
    page = write_card(folder, pipeline, None).read_text()
    for line in (
        "| images | fashion-mnist | fashion-mnist |",
        "| fingerprint of the training images | `e06d18` | `e06d18` |",
        "| steps | 1,500 | 1,500 |",
        "| images in all, repeated ones counted | 48,000 | 48,000 |",
        "| held-out bits per token | \N{EN DASH} | 4.568 |",
        "| hours | 1.25 | 1.25 |",
        "| quantizer | wasserstein (init_std 1.0) |",
        "| codebook | 32 codes of dimension 4 |",
        "| classes | Sneaker, Sandal, Bag |",
        f"| tokenizer's fingerprint | `{pipeline.tokenizer.fingerprint}` |",
        "*Still to be written by the author.*",
        "*Still to be chosen by the author*",
    ):
        assert line in page
    read, values = read_card(folder / "README.md")
    assert not values
    assert read.data.to_dict()["datasets"] == ["zalando-datasets/fashion_mnist"]
    assert "license" not in read.data.to_dict()
    loaded: Any = ClassConditionalPipeline.from_pretrained(folder)
    assert loaded.origin == pipeline.origin
    loaded.origin = None
    (folder / "README.md").unlink()
    assert "Not recorded" in write_card(folder, loaded, None).read_text()


def test_its_picture_is_of_the_first_samples_as_they_were_scored(pipeline: Any, folder: Path):
    write_card(folder, pipeline, scores_of(pipeline))
    page = (folder / "README.md").read_text()
    assert "the first of seed 3, a row for each class, guidance scale 2.0." in page
    with Image.open(folder / "samples.png") as picture:
        picture.load()
    assert picture.size == (8 * 66 + 2, 3 * 66 + 2)
    from wvq.pipelines.generation import image_generator

    labels = [name for name in NAMES for _ in range(8)]
    generators = [image_generator(3, number) for number in range(24)]
    images = pipeline(labels, guidance_scale=2.0, generator=generators, output_type="uint8").images
    assert picture.getpixel((2 + 66 * 7 + 5, 2 + 66 * 2 + 5)) == tuple(images[23, :, 1, 1].tolist())


def test_written_again_it_keeps_what_its_author_wrote(pipeline: Any, folder: Path):
    scores = scores_of(pipeline)
    write_card(
        folder, pipeline, scores, Card(name="Shoes", license="other", license_name="mine", license_link="LICENSE")
    )
    path = folder / "README.md"
    path.write_text(path.read_text().replace("*Still to be written by the author.*", "Nothing | that\n\nflies."))
    before = path.read_bytes()
    write_card(folder, pipeline, scores)
    assert path.read_bytes() == before
    write_card(folder, pipeline, None)  # without scores, those of before stay
    assert read_card(path)[1] == {"rfd": 12.3456, "psnr": 19.568529, "utilization": 0.96, "fd": 1661.16, "kid": 0.01234,
                                  "recall": 0.5}  # fmt: skip
    scores["generation"]["generation_frechet_distance"] = 7.0
    write_card(folder, pipeline, scores, Card(license="mit"))
    page, values = read_card(path)
    assert values["fd"] == 7
    assert page.data.to_dict()["license"] == "mit"
    assert "license_name" not in page.data.to_dict()
    assert "Nothing | that\n\nflies." in page.text
    assert "\n# Shoes\n" in page.text


def test_what_is_no_card_or_no_score_of_this_model_is_refused(pipeline: Any, folder: Path, tmp_path: Path):
    other = copy.deepcopy(scores_of(pipeline))
    other["generation"]["protocol"]["sampling"]["tokenizer"] = "0123456789abcdef"
    with pytest.raises(InputError, match="the scores are of tokenizer 0123456789ab, not of the one in"):
        write_card(folder, pipeline, other)
    for scores in ({"reconstruction": {"psnr": 3}}, {"generation": []}, {"generation": {"protocol": {}}}, []):
        (tmp_path / "scores.json").write_text(json.dumps(scores))
        with pytest.raises(InputError, match=r"the scores are not those that `wvq evaluate --output` writes"):
            card(Card(str(folder), str(tmp_path / "scores.json")))
    assert not (folder / "README.md").exists()
    (folder / "README.md").write_text("# mine")
    with pytest.raises(InputError, match=r"was not written by `wvq card`, which would replace it"):
        write_card(folder, pipeline, None)
    with pytest.raises(InputError, match=r"license is 'mit'; license_name and license_link belong to 'other'"):
        Card(license="mit", license_name="x")


def test_a_pipeline_is_pushed_with_its_card(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with local_hub(tmp_path / "cache") as hub:
        main(["push", str(folder), "ann/shoes", "--private"])
        assert capsys.readouterr().out == f"{hub.address}/ann/shoes\n"
        repository = hub.repositories["ann/shoes"]
        assert repository.private
        assert repository.files.keys() == {
            ".gitattributes", "README.md", "samples.png", "training.json", "model_index.json", "pipeline.py",
            "tokenizer/config.json", "tokenizer/model.safetensors", "tokenizer/wvq.tokenizer.py",
            "prior/config.json", "prior/generation_config.json", "prior/model.safetensors",
        }  # fmt: skip
        assert b'from_pretrained("ann/shoes")' in repository.files["README.md"]
        (folder / "README.md").write_text("of the author: OWNER/NAME")
        push(Push(str(folder), "ann/shoes"))
        assert repository.files["README.md"] == b"of the author: OWNER/NAME"
        with pytest.raises(InputError, match=r"holds no pipeline: it has no model_index\.json"):
            push(Push(str(folder / "prior"), "ann/shoes"))


def test_its_ways_to_load_work(
    pipeline: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    page = write_card(folder, pipeline, None).read_text()
    ours, diffusers, transformers, vllm = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    drawn = []
    for code in (ours, diffusers):
        exec(code.replace("OWNER/NAME", str(folder)), {})
        drawn.append((tmp_path / "image.png").read_bytes())
        os.remove("image.png")
    assert drawn[0] == drawn[1]
    names: dict[str, Any] = {}
    exec(transformers.replace("OWNER/NAME", str(folder)), names)
    assert names["tokens"].shape == (1, 16)
    assert int(names["tokens"].max()) < 32
    compile(vllm, "vllm", "exec")
    assert "range(32)" in vllm
    assert BEGIN in page
    assert torch.equal(names["prior"].lm_head.weight, pipeline.prior.lm_head.weight)


def test_it_offers_no_library_that_draws_in_another_order(pipeline: Any, folder: Path):
    torch.manual_seed(0)
    size = PriorSize(hidden_size=16, num_layers=1, num_heads=2)
    counts: Any = {"num_codes": 32, "num_tokens": 16, "num_classes": 3, "token_order": "random"}
    free = ClassConditionalPipeline(pipeline.tokenizer, build_prior(PriorConfig(**vars(size), **counts)))
    free.set_progress_bar_config(disable=True)
    page = write_card(folder, free, None).read_text()
    assert len(re.findall("```python", page)) == 2
    assert "draws such tokens in any order" in page
    assert "vllm" not in page
