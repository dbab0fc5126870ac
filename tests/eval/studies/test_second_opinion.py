"""A second opinion: what it compares, and what it says of itself."""

import json
from pathlib import Path

import pytest
import torch

from tests.tiny_pipelines import tiny_tokenizer
from wvq.eval.metrics.frechet import frechet_distance, mean_and_factor
from wvq.eval.studies.second_opinion import SecondOpinion, main, pooled_features
from wvq.tokenizer import InputError
from wvq.tokenizer.backbones.registry import build_backbone
from wvq.tokenizer.data import DataConfig, load_splits, to_model, to_uint8


@pytest.mark.parametrize("backbone", ["st-lpips-alex", "efficientnet-lite2"])
def test_it_compares_all_held_out_images_with_their_reconstructions(
    fashion_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], backbone: str
) -> None:
    tokenizers = [tiny_tokenizer(seed, channels=1, image_size=32) for seed in (0, 1)]
    folders = [str(tmp_path / str(number)) for number in range(2)]
    for tokenizer, folder in zip(tokenizers, folders, strict=True):
        tokenizer.save_pretrained(folder)
    output = tmp_path / "opinion.json"
    main(
        [
            *("--tokenizers", json.dumps(folders), "--data.source", str(fashion_folder)),
            *("--backbone", backbone, "--output", str(output)),
        ]
    )
    written = json.loads(output.read_text())
    network = build_backbone(backbone)
    assert written["protocol"]["backbone"] == backbone
    assert written["protocol"]["weights_sha256"] == network.fingerprint
    _, held_out = load_splits(DataConfig(source=str(fashion_folder), image_size=32, channels=1))
    images = held_out.__getitems__(range(len(held_out)))["images"]
    for tokenizer, row in zip(tokenizers, written["rows"], strict=True):
        with torch.no_grad():
            shown = to_uint8(tokenizer.eval()(to_model(images)).reconstructions)
            sides = [torch.cat([x.mean((2, 3)) for x in network(to_model(x))], 1) for x in (images, shown)]
        expected = float(frechet_distance(*mean_and_factor(sides[0]), *mean_and_factor(sides[1])))
        assert row["distance"] == pytest.approx(expected, rel=1e-3)
        variance = float(sides[0].double().var(dim=0).sum())
        assert row["relative"] == pytest.approx(row["distance"] / variance, rel=1e-3)
    printed = [line for line in capsys.readouterr().out.splitlines() if line.endswith(tuple(folders))]
    assert len(printed) == 2


def test_images_that_are_reconstructed_perfectly_are_at_no_distance(fashion_folder: Path) -> None:
    class Perfect(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> object:
            return type("Output", (), {"reconstructions": images})

    _, held_out = load_splits(DataConfig(source=str(fashion_folder), image_size=28, channels=1))
    tokenizer = Perfect()
    vectors, again = pooled_features(tokenizer, held_out, build_backbone("st-lpips-alex"))  # pyright: ignore[reportArgumentType]
    assert torch.equal(vectors, again)
    assert len(vectors) == len(held_out)


def test_no_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match=r"tokenizers is \(\); give at least one folder"):
        SecondOpinion(tokenizers=())
