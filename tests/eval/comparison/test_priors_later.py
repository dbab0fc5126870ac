"""A comparison of tokenizers that goes on with priors."""

import dataclasses
import json
from pathlib import Path

import pytest
from toy_comparisons import toy_comparison

from wvq.eval.comparison.compare import Method, compare
from wvq.tokenizer import InputError


def test_priors_may_follow_tokenizers_that_were_compared_alone(tmp_path: Path, fashion_folder: Path) -> None:
    with_priors = dataclasses.replace(toy_comparison(tmp_path, fashion_folder), methods={"plain": Method("vanilla")})
    alone = dataclasses.replace(with_priors, tokenizers_only=True)
    compare(alone)
    before = json.loads((tmp_path / "comparison.json").read_text())["rows"][0]
    model = tmp_path / "plain-0" / "tokenizer" / "model" / "model.safetensors"
    trained = model.stat().st_mtime_ns
    compare(dataclasses.replace(with_priors, num_generated=30))
    after = json.loads((tmp_path / "comparison.json").read_text())["rows"][0]
    assert model.stat().st_mtime_ns == trained
    assert before["generation_frechet_distance"] is None
    assert (after["generation_frechet_distance"] > 0, after["num_generated"]) == (True, 30)
    assert after["psnr"] == before["psnr"]
    with pytest.raises(InputError, match="holds a comparison with num_generated = 30, this one has 20"):
        compare(with_priors)
    with pytest.raises(InputError, match=r"holds a comparison with .*tokenizers_only = False, this one has True"):
        compare(dataclasses.replace(alone, num_generated=30))
