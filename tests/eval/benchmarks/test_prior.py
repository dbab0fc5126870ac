"""`wvq benchmark prior` at toy size."""

import json

import pytest
import torch

from wvq.eval.benchmarks.prior import CONTENDERS, PriorBenchmark, benchmark_prior, build_step
from wvq.prior import PriorSize
from wvq.tokenizer import InputError


def toy(**changes) -> PriorBenchmark:
    size = PriorSize(hidden_size=16, num_layers=1, num_heads=2)
    return PriorBenchmark(model=size, num_codes=12, num_tokens=6, batch_size=4, **changes)


def test_contenders_are_measured_in_processes_of_their_own(tmp_path):
    output = tmp_path / "prior.json"
    table = benchmark_prior(toy(output=str(output), repeats=1, contenders=["wvq llama, muon", "plain gpt, adamw"]))
    rows = json.loads(output.read_text())["rows"]
    assert [row["contender"] for row in rows] == ["wvq llama, muon", "plain gpt, adamw"]
    for row in rows:
        assert row["tokens_per_second"] == pytest.approx(24 / row["seconds"][0])
        assert row["arithmetic_limit"] > 0
    assert len(table.splitlines()) == 3


@pytest.mark.parametrize("contender", CONTENDERS)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("sampled_ids", [0, 5])
def test_every_contenders_step_learns(contender, half, sampled_ids):
    torch.manual_seed(0)
    config = toy(mixed_precision=half, sampled_ids=sampled_ids)
    model, step = build_step(config, contender, torch.device("cpu"))
    codes, labels = torch.randint(12, (4, 6)), torch.tensor([0, 1, 2, 3])
    before = [p.detach().clone() for p in model.parameters()]
    step(codes, labels)
    assert all(not torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_unknown_contenders_are_named():
    with pytest.raises(InputError, match="contenders holds 'mine'; valid are wvq llama, muon, wvq llama, adamw"):
        toy(contenders=["mine"])
