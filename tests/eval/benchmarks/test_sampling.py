"""`wvq benchmark sampling` at toy size, and the measuring of memory."""

import gc
import json
from pathlib import Path

import pytest
import torch

from wvq.eval.benchmarks.memory import peak_memory
from wvq.eval.benchmarks.sampling import SamplingBenchmark, benchmark_sampling
from wvq.pipelines.command_line import main
from wvq.prior import PriorSize
from wvq.tokenizer import InputError


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_sampler_is_measured_at_every_setting(tmp_path, architecture):
    config = SamplingBenchmark(
        output=str(tmp_path / "scores.json"),
        model=PriorSize(architecture=architecture, hidden_size=16, num_layers=1, num_heads=2),
        num_codes=12, lengths=(6, 40), batch_sizes=(1, 3), guidance_scales=(1.0, 2.0), repeats=2,
    )  # fmt: skip
    table = benchmark_sampling(config)
    written = json.loads((tmp_path / "scores.json").read_text())
    rows = written["rows"]

    def setting(row):
        return row["tokens"], row["batch"], row["guidance"]

    settings = [(*setting(r), r["sampler"]) for r in rows]
    names = ("wvq", "wvq, bfloat16", "wvq, int8", "transformers")
    passes = [f"wvq{dtype}, {number} passes" for number in (24, 16) for dtype in ("", ", bfloat16")]
    few = {6: [], 40: passes}  # not more passes than tokens
    assert settings == [(t, b, g, n) for t in (6, 40) for b in (1, 3) for g in (1.0, 2.0) for n in (*names, *few[t])]
    for row in rows:
        assert row["tokens_per_second"] == pytest.approx(row["batch"] * row["tokens"] / (sum(row["seconds"]) / 2))
        assert min(row["arithmetic_limit"], row["bandwidth_limit"]) > 0
        assert (row["last_over_first"] is not None) == (row["tokens"] == 40 and row["sampler"] in names[:3])
        assert row["times_transformers"] == 1 or row["sampler"] != "transformers"
        raster = "wvq, bfloat16" if row["sampler"].startswith("wvq, bfloat16, ") else "wvq"
        of_raster = next(r for r in rows if r["sampler"] == raster and setting(r) == setting(row))
        assert row["times_raster"] == pytest.approx(sum(of_raster["seconds"]) / sum(row["seconds"]))
    assert len(table.splitlines()) == 1 + len(rows) + 1
    about = written["protocol"]
    assert about["threads"] == torch.get_num_threads()
    assert torch.backends.cpu.get_cpu_capability() in about["device"]
    assert table.splitlines()[-1] == f"{about['device']}, {about['threads']} threads"


def test_the_command_has_two_words(tmp_path, capsys):
    output = tmp_path / "scores.json"
    sizes = ["--model.hidden-size", "16", "--model.num-layers", "1", "--model.num-heads", "2", "--num-codes", "8"]
    main(["benchmark", "sampling", "--lengths", "[3]", "--batch-sizes", "[1]", "--output", str(output), *sizes])
    assert capsys.readouterr().out.splitlines()[0].split()[:3] == ["sampler", "tokens", "batch"]
    assert json.loads(output.read_text())["config"]["batch_sizes"] == [1]


@pytest.mark.parametrize(
    "changes",
    [{"repeats": 0}, {"batch_sizes": ()}, {"lengths": (0,)}, {"guidance_scales": (-1,)}, {"num_passes": (0,)}],
)
def test_bad_settings_are_named(changes):
    with pytest.raises(InputError, match=f"{next(iter(changes))} is "):
        SamplingBenchmark(**changes)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="resident memory is read from Linux's /proc")
def test_the_peak_is_what_a_block_needed_at_most_at_one_time():
    gc.collect()  # what earlier tests left behind must not be freed meanwhile
    with peak_memory(torch.device("cpu")) as peak:
        for _ in range(3):
            torch.ones(2**26)
    assert 0.8 * 2**28 < peak.bytes < 1.5 * 2**28
