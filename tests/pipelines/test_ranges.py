"""Numbers that no command can use are refused in one line, before any work."""

import math
from pathlib import Path

import pytest

from wvq.pipelines.command_line import main, parse
from wvq.pipelines.generation import Sampling, SamplingOptions
from wvq.pipelines.reconstruct import Reconstruction
from wvq.pipelines.train_prior import PriorTraining
from wvq.pipelines.train_tokenizer import TokenizerTraining
from wvq.tokenizer import InputError
from wvq.tokenizer.errors import check_range

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("config_class", "options", "message"),
    [
        (SamplingOptions, {"seed": -1}, "seed is -1; it must be at least 0"),
        (SamplingOptions, {"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        (SamplingOptions, {"block_size": 0}, "block_size is 0; it must be at least 1"),
        (SamplingOptions, {"guidance_interval": (3, 3)}, r"guidance_interval is \(3, 3\); valid are 0 <= first < end"),
        (SamplingOptions, {"guidance_interval": (-1, 3)}, r"guidance_interval is \(-1, 3\)"),
        (Sampling, {"num_images": -1}, "num_images is -1; it must be at least 0"),
        (Reconstruction, {"num_images": 0}, "num_images is 0; it must be at least 1"),
        *[
            (config_class, {name: value}, f"{name} is {value}; it must be {valid}")
            for config_class in (TokenizerTraining, PriorTraining)
            for name, value, valid in [
                ("seed", -1, "0 to 4294967295"),
                ("seed", 2**32, "0 to 4294967295"),
                ("learning_rate", -1.0, "at least 0"),
                ("learning_rate", NAN, "at least 0"),
                ("learning_rate", INF, "finite"),
                ("weight_decay", NAN, "at least 0"),
                ("max_grad_norm", 0.0, "above 0"),
                ("max_grad_norm", NAN, "above 0"),
                ("evaluate_every", 0, "at least 1"),
            ]
        ],
        (
            TokenizerTraining,
            {"codebook_learning_rate": -0.1},
            r"codebook_learning_rate is -0\.1; it must be at least 0",
        ),
        (TokenizerTraining, {"evaluation_images": -1}, "evaluation_images is -1; it must be at least 0"),
        (PriorTraining, {"crops": -1}, "crops is -1; it must be at least 0"),
        (PriorTraining, {"sample_every": -1}, "sample_every is -1; it must be at least 0"),
        (PriorTraining, {"sample_guidance_scale": NAN}, "sample_guidance_scale is nan; it must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_named(config_class, options, message):
    with pytest.raises(InputError, match=message):
        config_class(**options)


def test_zero_rates_and_an_infinite_norm_are_valid():
    TokenizerTraining(
        learning_rate=0.0, codebook_learning_rate=0.0, weight_decay=0.0, max_grad_norm=INF, seed=2**32 - 1
    )


def test_each_of_several_numbers_is_in_the_range():
    class Config:
        seeds = (0, -2)

    with pytest.raises(InputError, match=r"seeds is \(0, -2\); it must be at least 0"):
        check_range(Config, "seeds", least=0)


@pytest.mark.parametrize(
    ("command", "option", "message"),
    [
        ("sample", "--seed=-1", "seed is -1; it must be at least 0"),
        ("evaluate", "--sampling.seed=-1", "seed is -1; it must be at least 0"),
        ("compare", "--seeds=-1", "seed is -1; it must be 0 to 4294967295"),
        ("atomic", "--seeds=-1", "seeds is (-1,); it must be 0 to 4294967295"),
        ("atomic", "--shifts=.nan", "shifts is (nan,); it must be finite"),
        ("sample", f"--num-images={10**30}", "whole numbers must be below 2^63"),
        ("train-prior", f"--model.num-layers={10**30}", "model.num_layers is"),
        ("compare", f"--seeds=[1, {10**30}]", "must be"),
    ],
)
def test_a_command_refuses_them_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command, option, message
):
    monkeypatch.chdir(tmp_path)
    needed = ["--tokenizer=here"] if command == "evaluate" else []
    with pytest.raises(SystemExit):
        main([command, *needed, option])
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_memory_that_does_not_suffice_is_said_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys):
    def full(config: object) -> None:
        raise MemoryError("Unable to allocate 7.28 PiB")

    monkeypatch.setattr("wvq.pipelines.sample.sample", full)
    with pytest.raises(SystemExit):
        main(["sample"])
    assert capsys.readouterr().err == "wvq sample: error: out of memory: Unable to allocate 7.28 PiB\n"


def test_the_largest_seed_of_a_sample():
    assert parse("sample", [f"--seed={2**63 - 1}"]).seed == 2**63 - 1
