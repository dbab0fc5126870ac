"""The quantizer benchmark: contenders do the work they are named for, and figures are written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from wvq.eval.benchmarks.quantizers import OURS, PEERS, QuantizerBenchmark, benchmark_quantizers, build_step
from wvq.tokenizer import InputError


@pytest.mark.parametrize("contender", [*OURS, *PEERS])
def test_every_contender_takes_a_training_step(contender: str):
    torch.manual_seed(0)
    vectors = torch.randn(64, 4, requires_grad=True)
    step, scale = build_step(contender, 16, 4)
    assert scale.shape == (4,)
    loss = step(vectors)
    loss.backward()
    assert loss.isfinite()
    assert vectors.grad is not None
    assert (vectors.grad != 0).all()


def test_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = QuantizerBenchmark(
        output_dir=str(tmp_path),
        contenders=("vanilla", "plain N x K"),
        codebook_sizes=(16,),
        codebook_dims=(4,),
        num_vectors=64,
        repeats=3,
    )
    assert benchmark_quantizers(config) == tmp_path / "quantizers.png"
    rows = json.loads((tmp_path / "quantizers.json").read_text())["rows"]
    assert [row["contender"] for row in rows] == ["vanilla", "plain N x K"]
    for row in rows:
        assert 0 < row["fastest"] <= row["seconds"] <= row["slowest"]
        assert row["peak_mib"] >= 0
    assert capsys.readouterr().out.count("plain N x K") == 1
    with Image.open(tmp_path / "quantizers.png") as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("contenders", ("faiss",), "contenders holds 'faiss'; valid are vanilla"), ("repeats", 2, "repeats is 2")],
)
def test_options_that_cannot_be_used(field: str, value: Any, message: str):
    with pytest.raises(InputError, match=message):
        QuantizerBenchmark(**{field: value})
