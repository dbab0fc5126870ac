"""A recipe names no code and takes no memory; one that was downloaded writes nowhere that the user did not name."""

import itertools
from pathlib import Path

import pytest

from wvq.pipelines.command_line import parse
from wvq.tokenizer import InputError

# Nine references to nine references, eight deep: 43 million values in 300 characters.
NESTED = "a: &a [x]\n" + "".join(
    f"{c}: &{c} [{', '.join(['*' + b] * 9)}]\n" for b, c in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {class_path: subprocess.Popen, init_args: {args: [touch, ran]}}", "which names code to run"),
        ("model: {quantizer_options: {init_std: {class_path: os.system}}}", "which names code to run"),
        ("model.class_path: os.system", "which names code to run"),
        ("steps: !!python/object/apply:os.system ['touch ran']", "could not determine a constructor"),
        (NESTED, "unfolds to more than 100,000 values"),
    ],
)
def test_recipes_are_plain_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        parse("train-tokenizer", ["--config=recipe.yaml"])
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


@pytest.mark.parametrize(
    ("command", "text", "message"),
    [
        ("train-tokenizer", "{data: {image_size: 32}, model: {image_size: 64}}", "model.image_size = 64, .* is 32"),
        ("train-tokenizer", "{data: {image_size: 32}, model.image_size: 64}", "model.image_size = 64, .* is 32"),
        ("train-tokenizer", "{model: {image_size: 64}}", "which follows data.image_size and is 28"),
        ("train-tokenizer", "{data: {channels: 1}, model: {channels: 3}}", "follows data.channels and is 1"),
        ("demo", "{tokenizer: {model: {image_size: 64}}}", "follows data.image_size and is 32"),
        (
            "compare",
            "{data: {image_size: [32, 48]}, tokenizer: {model: {image_size: 32}}}",
            r"tokenizer.model.image_size = 32, .* is \(32, 48\); give data.image_size alone",
        ),
    ],
)
def test_what_follows_another_option_has_no_value_of_its_own(tmp_path: Path, command: str, text: str, message: str):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    with pytest.raises(InputError, match=message):
        parse(command, [f"--config={recipe}"])


@pytest.mark.parametrize(
    ("command", "texts", "arguments"),
    [
        ("train-tokenizer", ["{data: {image_size: [32, 32]}, model: {image_size: 32}}"], []),
        ("train-tokenizer", ["{data: {image_size: 32}}", "{model: {image_size: 32}}"], []),
        ("train-tokenizer", ["{data: {channels: null}, model: {channels: 3}}"], ["--data.image-size", "32"]),
        ("train-tokenizer", ["{model: {image_size: 28, channels: 3}}"], ["--data.image-size", "32"]),
        ("demo", ["{tokenizer: {model: {image_size: 32}}}"], []),
    ],
)
def test_what_follows_another_option_may_repeat_its_value(tmp_path: Path, command, texts, arguments):
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.yaml").write_text(text)
        arguments = [f"--config={tmp_path}/{number}.yaml", *arguments]
    config = parse(command, arguments)
    model = config.tokenizer.model if command == "demo" else config.model
    assert (model.image_size, model.channels) == (32, 3)


def test_what_follows_another_option_is_none_of_the_command_line():
    with pytest.raises(InputError, match=r"model\.image_size follows data\.image_size; give that"):
        parse("train-tokenizer", ["--model.image-size", "64"])


def test_recipes_of_plain_values_are_read(tmp_path: Path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("learning_rate: &rate 1e-3\ncodebook_learning_rate: *rate\noutput_dir: runs/x\n")
    configuration = parse("train-tokenizer", [f"--config={recipe}"])
    assert (configuration.codebook_learning_rate, configuration.output_dir) == (1e-3, "runs/x")


def test_the_recipe_of_a_user_may_name_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("output_dir: /elsewhere/run\ntokens_dir: ../tokens\ntokenizer: ~/tokenizer\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for given in ([f"--config={recipe}"], ["--config", "recipe.yaml"], ["--config=~/recipe.yaml"]):
        configuration = parse("train-prior", given)
        assert (configuration.output_dir, configuration.tokens_dir) == ("/elsewhere/run", "../tokens")
    assert parse("train-prior", ["--config={output_dir: /elsewhere}"]).output_dir == "/elsewhere"
    assert parse("train-prior", [f"--config={recipe}", "--output-dir=/tmp/x"]).output_dir == "/tmp/x"
    assert parse("compare", ["--tokenizer={output_dir: /elsewhere}"]).tokenizer.output_dir == "/elsewhere"


@pytest.fixture(params=["cache", "link into the cache", "local folder"])
def downloaded(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a file that came from the hub, in one of its ways; the folder that commands are started in has one
    of the user's own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    blob = tmp_path / "hub" / "models--owner--name" / "blobs" / "1234"
    if request.param == "local folder":
        note = working / "model" / ".cache" / "huggingface" / "download" / "recipes" / "recipe.yaml.metadata"
        note.parent.mkdir(parents=True)
        note.touch()
        blob = working / "model" / "recipes" / "recipe.yaml"
    blob.parent.mkdir(parents=True)
    blob.touch()
    if request.param != "link into the cache":
        return blob
    (working / "recipe.yaml").symlink_to(blob)
    return working / "recipe.yaml"


@pytest.mark.parametrize("folder", ["/etc", "a/../../b", "~/.ssh", "~root"])
def test_a_downloaded_recipe_stays_in_the_working_folder(downloaded: Path, folder: str):
    downloaded.write_text(f"output_dir: {folder}\n")
    for given in ([f"--config={downloaded}"], ["--data.root=/tmp/x", "--config", str(downloaded)]):
        with pytest.raises(InputError, match=f"output_dir = {folder}, outside the working folder"):
            parse("train-tokenizer", given)
    configuration = parse("train-tokenizer", [f"--config={downloaded}", "--output-dir=/tmp/x"])
    assert configuration.output_dir == "/tmp/x"
    downloaded.write_text("output_dir: runs/x\n")
    assert parse("train-tokenizer", [f"--config={downloaded}"]).output_dir == "runs/x"


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("train-prior", "tokens_dir"),
        ("transplant", "latents_dir"),
        ("evaluate", "output"),
        ("evaluate", "resume_dir"),
        ("evaluate", "save_reference"),
    ],
)
def test_whatever_a_downloaded_recipe_writes_stays_there(downloaded: Path, command: str, option: str):
    downloaded.write_text(f"{option}: /elsewhere\n")
    with pytest.raises(InputError, match=f"{option} = /elsewhere, outside the working folder"):
        parse(command, [f"--config={downloaded}"])


def test_a_downloaded_recipe_beside_an_own_one(downloaded: Path):
    downloaded.write_text("steps: 300\n")
    own = Path("own.yaml")
    own.write_text("output_dir: /elsewhere\n")
    configuration = parse("train-tokenizer", [f"--config={downloaded}", f"--config={own}"])
    assert (configuration.steps, configuration.output_dir) == (300, "/elsewhere")


def test_a_recipe_that_a_recipe_names_stays_in_the_working_folder(downloaded: Path):
    """Whoever wrote the one may have written the other."""
    other = downloaded.with_name("other.yaml")
    other.write_text("output_dir: /elsewhere\n")
    for text in ("tokenizer: other.yaml", "tokenizer: '{output_dir: /elsewhere}'"):
        downloaded.write_text(text)
        with pytest.raises(InputError, match="output_dir = /elsewhere, outside the working folder"):
            parse("compare", [f"--config={downloaded}"])


def test_recipes_are_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for address in ("https://example.org/recipe.yaml", "hf://owner/name/recipe.yaml"):
        with pytest.raises(InputError, match=r"recipe\.yaml"):
            parse("train-tokenizer", [f"--config={address}"])
