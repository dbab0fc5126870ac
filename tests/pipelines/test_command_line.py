"""The commands as a user types them: bad input says what is wrong in a line or two, exits with 2, writes nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.command_line import COMMANDS, main, parse
from wvq.prior import PriorConfig, build_prior
from wvq.tokenizer import TokenizerConfig, VQTokenizer
from wvq.tokenizer.data.dataset import load_splits

TINY = [
    "--data.channels=1",
    "--model.base-channels=8",
    "--model.channel-multipliers=[1,1]",
    "--model.num-blocks=1",
    "--model.latent-channels=8",
    "--model.codebook-size=16",
    "--model.codebook-dim=4",
    "--steps=2",
    "--batch-size=8",
    "--warmup-steps=0",
    "--evaluate-every=2",
    "--evaluation-images=16",
    "--checkpoint-every=2",
]


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that must exit with 2 and say one or two lines on stderr."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    printed = capsys.readouterr()
    message = [line for line in printed.err.splitlines() if "error:" in line]
    assert stopped.value.code == 2
    assert len(message) == 1
    after = printed.err[printed.err.index(message[0]) :].strip().splitlines()
    assert len(after) <= 2, after
    assert "Traceback" not in printed.err
    return "\n".join(after)


def train(capsys: pytest.CaptureFixture[str], folder: Path, output: Path, *options: str) -> str:
    return refused(capsys, "train-tokenizer", f"--data.source={folder}", f"--output-dir={output}", *TINY, *options)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Two classes of 12 small pictures, of several sizes and modes."""
    for label in ("cat", "dog"):
        (tmp_path / "photographs" / label).mkdir(parents=True)
        for index in range(12):
            mode = ("L", "RGB", "RGBA", "P")[index % 4]
            image = Image.linear_gradient("L").resize((30 + index, 40)).convert(mode)
            image.putpixel((0, 0), index)
            image.save(tmp_path / "photographs" / label / f"{index}.png")
    return tmp_path / "photographs"


@pytest.fixture
def untrained_pipeline(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    config = TokenizerConfig(image_size=8, channels=1, base_channels=8, channel_multipliers=(1, 1), latent_channels=8,
                             codebook_size=16, codebook_dim=4)  # fmt: skip
    size = PriorConfig(hidden_size=16, num_layers=1, num_heads=2, num_codes=16, num_tokens=16, num_classes=2)
    ClassConditionalPipeline(VQTokenizer(config), build_prior(size), ("cat", "dog")).save_pretrained(tmp_path / "pipe")
    return tmp_path / "pipe"


def test_missing_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    message = train(capsys, tmp_path / "nowhere", tmp_path / "run")
    assert str(tmp_path / "nowhere") in message
    assert not (tmp_path / "run").exists()


def test_folder_without_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "readme.txt").write_text("no picture here")
    message = train(capsys, tmp_path / "notes", tmp_path / "run")
    assert str(tmp_path / "notes") in message
    assert ".png" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_bad_image_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, photographs: Path, damage: str) -> None:
    bad = photographs / "cat" / "3.png"
    bad.write_bytes({"truncated": bad.read_bytes()[:120], "empty": b"", "text": b"not a picture"}[damage])
    message = train(capsys, photographs, tmp_path / "run")
    assert "3.png" in message
    assert "skip" in message
    assert not (tmp_path / "run").exists()


def test_bad_image_is_counted_and_skipped(photographs: Path) -> None:
    (photographs / "cat" / "3.png").write_bytes(b"not a picture")
    config = parse("train-tokenizer", [f"--data.source={photographs}", "--data.skip-bad-images=true", *TINY])
    splits = load_splits(config.data)
    assert sum(map(len, splits)) == 23
    assert [Path(name).name for split in splits for name in split.bad_images] == ["3.png"]


def test_mixed_sizes_and_modes_are_converted(photographs: Path) -> None:
    config = parse("train-tokenizer", [f"--data.source={photographs}", "--data.channels=3"])
    train_set, _ = load_splits(config.data)
    assert train_set[0]["images"].shape == (3, 28, 28)


def test_unknown_recipe_key(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: 10\nlerning_rate: 0.1\n")
    assert "lerning_rate" in refused(capsys, "train-tokenizer", f"--config={recipe}")


def test_missing_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "nowhere.yaml" in refused(capsys, "train-tokenizer", f"--config={tmp_path}/nowhere.yaml")


def test_unknown_option_and_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--sped" in refused(capsys, "train-tokenizer", "--sped=3")
    message = refused(capsys, "trian-tokenizer")
    assert "trian-tokenizer" in message
    assert "train-tokenizer" in message


def test_unknown_quantizer(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "train-tokenizer", "--model.quantizer=waserstein")
    assert "waserstein" in message
    assert "'wasserstein'" in message


def test_unknown_quantizer_option(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, "train-tokenizer", "--model.quantizer=vanilla", "--model.quantizer-options.gamma=1")
    assert "gamma" in message
    assert "commitment_weight" in message


def test_codebook_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert "codebook_size is 1" in refused(capsys, "train-tokenizer", "--model.codebook-size=1")


@pytest.mark.parametrize(("given", "said"), [("dgo", "did you mean dog"), ("2", "classes 0 to 1"), ("-1", "0 to 1")])
def test_class_out_of_range(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, untrained_pipeline: Path, given: str, said: str
) -> None:
    message = refused(
        capsys, "sample", f"--pipeline={untrained_pipeline}", f"--classes=['{given}']", f"--output-dir={tmp_path}/out"
    )
    assert given in message
    assert said in message
    assert not (tmp_path / "out").exists()


def test_missing_pipeline(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert str(tmp_path / "gone") in refused(capsys, "sample", f"--pipeline={tmp_path}/gone")


def test_checkpoint_of_another_configuration(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, photographs: Path
) -> None:
    arguments = [f"--data.source={photographs}", f"--output-dir={tmp_path}/run", *TINY]
    main(["train-tokenizer", *arguments])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    message = refused(capsys, "train-tokenizer", *arguments, "--model.codebook-size=32")
    assert "model.codebook_size = 16" in message
    assert "32" in message
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


def test_full_disk(tmp_path: Path, photographs: Path) -> None:
    """Every file ends at 8 KiB, as on a disk without room; what a write then reports is handled the same way."""
    program = (
        "import resource, signal, sys; from wvq.pipelines.command_line import main; "
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192)); main(sys.argv[1:])"
    )
    options = [f"--data.source={photographs}", f"--output-dir={tmp_path}/run", *TINY]
    # a process of its own: the limit would also end what pytest itself writes, a redirected report for instance
    command = [sys.executable, "-c", program, "train-tokenizer", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    message = done.stderr[done.stderr.index("error:") :].strip().splitlines()
    assert len(message) <= 2
    assert str(tmp_path / "run") in message[0]
    assert not list((tmp_path / "run" / "checkpoints").iterdir())
    assert not (tmp_path / "run" / "model").exists()


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    main([])
    overview = capsys.readouterr().out
    main(["benchmark"])
    overview += capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n  {name} " in overview
        with pytest.raises(SystemExit) as stopped:
            main([*name.split(), "--help"])
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert "--output" in text or name in ("card", "push", "app", "recipes")
        assert "default: " in text or name == "recipes"


def test_commands_of_two_words_are_one_row_with_a_list_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    rows = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
    assert rows.count("benchmark") == 1
    for asked in (["benchmark"], ["benchmark", "--help"]):
        main(asked)
        listed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  ")]
        assert len(listed) == sum(name.startswith("benchmark ") for name in COMMANDS)
        assert all(line.startswith("  benchmark ") for line in listed)
    assert "valid are benchmark quantizers, " in refused(capsys, "benchmark", "quantiser")


def test_recipes_and_options_mean_the_same(tmp_path: Path) -> None:
    config = parse("train-tokenizer", ["--data.image-size=32", "--model.codebook_size=64", "--seed=3"])
    assert (config.data.image_size, config.model.image_size, config.model.codebook_size) == (32, 32, 64)
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"data": {"image_size": 32}, "model": {"codebook_size": 64}, "seed": 1}))
    assert parse("train-tokenizer", [f"--config={recipe}", "--seed=3"]) == config


def test_installed_command(tmp_path: Path) -> None:
    command = Path(sys.executable).with_name("wvq")
    done = subprocess.run([command, "sample", "--top-p=2"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip() == "wvq sample: error: top_p is 2.0; it must be in (0, 1] (1 keeps all codes)"
    assert not list(tmp_path.iterdir())
