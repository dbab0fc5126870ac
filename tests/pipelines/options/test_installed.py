"""Recipes that come with the package: how they are found by name, and what they say of themselves."""

from pathlib import Path

import pytest

from wvq.pipelines.command_line import COMMANDS, main, parse
from wvq.pipelines.options.installed import FACTS, Recipes, installed_recipes, recipes
from wvq.tokenizer import InputError

RECIPES = installed_recipes()
MAX_LINES = 40


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_says_what_it_is_and_is_short(name: str):
    recipe = RECIPES[name]
    lines = recipe.path.read_text().splitlines()
    assert len(lines) <= MAX_LINES
    assert max(map(len, lines)) <= 120
    assert list(recipe.facts) == list(FACTS)
    assert recipe.facts["Command"].startswith(f"wvq {recipe.command} --config {name}")
    assert recipe.command in COMMANDS
    assert all(recipe.facts.values())


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_of_a_recipe_is_understood(name: str):
    _, command, *arguments = RECIPES[name].facts["Command"].split()
    configuration = parse(command, arguments)
    assert configuration.output_dir != parse(command, []).output_dir
    assert parse(command, [f"--config={name}.yaml", *arguments[2:]]) == configuration


def test_the_list(capsys: pytest.CaptureFixture[str]):
    main(["recipes"])
    lines = capsys.readouterr().out.splitlines()
    for name, recipe in RECIPES.items():
        (at,) = (i for i, line in enumerate(lines) if line.startswith(f"{name} "))
        assert lines[at].endswith(recipe.summary)
        assert lines[at + 1].strip() == recipe.facts["Hardware"]


def test_a_recipe_is_printed_to_be_changed(working_folder: Path):
    text = recipes(Recipes(show="paper/ffhq-vqvae"))
    assert text == RECIPES["paper/ffhq-vqvae"].path.read_text().rstrip("\n")
    (working_folder / "mine.yaml").write_text(text.replace("65610", "100"))
    assert parse("train-tokenizer", ["--config", "mine.yaml"]).steps == 100
    with pytest.raises(InputError, match=r"show is 'paper/ffhq' \(did you mean 'paper/ffhq-vq\w+'\?\); valid are"):
        recipes(Recipes(show="paper/ffhq"))


def test_a_local_file_of_that_name_wins_and_it_is_said(working_folder: Path, capsys: pytest.CaptureFixture[str]):
    assert parse("train-tokenizer", ["--config", "paper/ffhq-vqvae"]).steps == 65610
    assert capsys.readouterr().err == ""
    (working_folder / "paper").mkdir()
    (working_folder / "paper" / "ffhq-vqvae").write_text("steps: 7\n")
    assert parse("train-tokenizer", ["--config=paper/ffhq-vqvae"]).steps == 7
    assert "is the file in this folder, not the installed recipe" in capsys.readouterr().err


def test_options_after_it_and_inline_ones(working_folder: Path):
    assert parse("train-tokenizer", ["--config=paper/ffhq-vqvae", "--steps=9"]).steps == 9
    assert parse("train-tokenizer", ["--config={steps: 9}"]).steps == 9


@pytest.mark.parametrize(
    ("command", "name", "message"),
    [
        ("train-prior", "paper/ffhq-vqvae", "a recipe of `wvq train-tokenizer`; this is `wvq train-prior`"),
        ("train-tokenizer", "paper/ffhq-vqvea", r"neither a file nor a recipe \(did you mean 'paper/ffhq-vqvae'\?\)"),
        ("train-tokenizer", "nothing.yaml", "nothing.yaml"),
    ],
)
def test_names_that_cannot_be_used(command: str, name: str, message: str):
    with pytest.raises(InputError, match=message):
        parse(command, ["--config", name])
