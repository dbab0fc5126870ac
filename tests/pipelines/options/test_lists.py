"""Lists on the command line and in recipes: texts stay as they were typed, and one bare value is a list of one."""

import json
from pathlib import Path
from typing import Any

import pytest

from wvq.pipelines.command_line import COMMANDS, parse
from wvq.tokenizer import InputError

TEXTS = [
    ("[0, 1]", ("0", "1")),
    ("[no, Yes, null, ~]", ("no", "Yes", "null", "~")),
    ("[1e3, 0x10, 1_000, .5]", ("1e3", "0x10", "1_000", ".5")),
    ("[2020-01-01, 'a, b', \"é\"]", ("2020-01-01", "a, b", "é")),
    ("cat", ("cat",)),
    ("7", ("7",)),
    ("no", ("no",)),
    ("0,no,1e3", ("0", "no", "1e3")),
    ("tench,goldfish", ("tench", "goldfish")),
    ("Ankle boot,Bag", ("Ankle boot", "Bag")),
    ("[]", ()),
]


@pytest.mark.parametrize(("text", "expected"), TEXTS)
def test_a_list_of_texts_keeps_them(tmp_path: Path, text: str, expected: tuple[str, ...]):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"classes: {text}\n")
    for given in (["--classes", text], [f"--classes={text}"], [f"--config={recipe}"]):
        assert parse("sample", given).classes == expected


@pytest.mark.parametrize("text", ["it's: cat, or dog", "cat: dog", "{a", "Ankle boot", "a, b"])
def test_a_bare_name_is_taken_as_it_is(text: str):
    assert parse("sample", ["--classes", text]).classes == (text,)


def test_lists_of_numbers_take_a_bare_one(tmp_path: Path):
    assert parse("compare", ["--seeds=3"]).seeds == parse("compare", ["--seeds", "[3]"]).seeds == (3,)
    assert parse("atomic", ["--shifts=1e1"]).shifts == (10.0,)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("seeds: 3\n")
    assert parse("compare", [f"--config={recipe}"]).seeds == (3,)
    recipe.write_text("seeds: 3,4\n")
    assert parse("compare", [f"--config={recipe}"]).seeds == parse("compare", ["--seeds=3,4"]).seeds == (3, 4)
    with pytest.raises(InputError, match="seeds"):
        parse("compare", ["--seeds=three"])


@pytest.mark.parametrize("given", ["fid,kid", "[fid, kid]", '["fid", "kid"]'])
@pytest.mark.parametrize("command", ["evaluate", "sweep"])
def test_scores_are_named_with_commas_or_as_yaml(tmp_path: Path, command: str, given: str):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"scores: {given}\npipeline: somewhere\n")
    for arguments in ([f"--config={recipe}"], ["--pipeline=somewhere", "--scores", given]):
        assert parse(command, arguments).scores == ["fid", "kid"]


def test_pairs_and_lists_of_words_take_commas():
    assert parse("sample", ["--guidance-interval", "2,9"]).guidance_interval == (2, 9)
    assert parse("sample", ["--guidance-interval", "null"]).guidance_interval is None
    assert parse("sweep", ["--grid.guidance-schedule=constant,cosine"]).grid.guidance_schedule == ("constant", "cosine")
    assert parse("sweep", ["--grid.top-p", "0.5,1"]).grid.top_p == (0.5, 1.0)
    assert parse("train-tokenizer", ["--model.channel-multipliers=1,2"]).model.channel_multipliers == (1, 2)


@pytest.mark.parametrize(
    ("command", "option", "of"),
    [
        ("train-tokenizer", "log_with", ""),
        ("train-prior", "log_with", ""),
        ("compare", "tokenizer.log_with", "tokenizer"),
    ],
)
def test_trackers_are_named_without_brackets(tmp_path: Path, command: str, option: str, of: str):
    nested: Any = {"log_with": "tensorboard"}
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({of: nested} if of else nested))
    given = [[f"--{option}=tensorboard"], [f"--{option.replace('_', '-')}", "tensorboard"], [f"--config={recipe}"]]
    if of:
        group = tmp_path / "group.yaml"
        group.write_text("log_with: tensorboard\n")
        given += [[f"--{of}={{log_with: tensorboard}}"], [f"--{of}={group}"]]
    for arguments in given:
        config = parse(command, arguments)
        assert (getattr(config, of) if of else config).log_with == ("tensorboard",)


@pytest.mark.parametrize("text", ["[[a]]", "[a", "[{a: b}]"])
def test_what_is_no_list_of_texts_is_refused(text: str):
    with pytest.raises(InputError, match=r"classes|flow sequence|\["):
        parse("sample", [f"--classes={text}"])


def test_the_lists_of_every_command_take_what_they_have_by_default():
    for name in COMMANDS:
        needed = {"evaluate": ["--tokenizer=runs/tokenizer/model"], "push": ["folder", "ann/shoes"]}.get(name, [])
        config = parse(name, needed)
        for field, value in vars(config).items():
            if isinstance(value, tuple) and value:
                again = json.dumps(value)
                assert getattr(parse(name, [*needed, f"--{field}={again}"]), field) == value


def test_a_flag_given_alone_is_true():
    parsed = {
        arguments: parse("push", ["folder", *arguments.split(), "ann/shoes"])
        for arguments in ("--private", "--private true", "--private=true", "--private false", "")
    }
    assert [one.private for one in parsed.values()] == [True, True, True, False, False]
    assert {(one.folder, one.repository) for one in parsed.values()} == {("folder", "ann/shoes")}
    assert parse("push", ["folder", "ann/shoes", "--private"]).private
    with pytest.raises(InputError, match="repository"):
        parse("push", ["folder"])
