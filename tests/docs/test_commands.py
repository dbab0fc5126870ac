"""Every `wvq` command in the README, the guides and the results is one that `wvq` takes."""

import re
import shlex
from pathlib import Path

import pytest
from doc_pages import PAGES, ROOT, blocks, inline_code, name_of, shell_lines

from wvq.pipelines.command_line import COMMANDS, GROUPS, parse
from wvq.pipelines.options.help import HELP
from wvq.tokenizer import InputError


def commands(page: Path) -> list[tuple[str, list[str]]]:
    """Name and arguments of every `wvq` command, also of those behind a launcher."""
    found = []
    for words in shell_lines(page):
        if "wvq" not in words[:-1]:  # the word alone is the program's name
            continue
        name, *arguments = words[words.index("wvq") + 1 :]
        if arguments and f"{name} {arguments[0]}" in COMMANDS:  # a command of two words
            name, arguments = f"{name} {arguments[0]}", arguments[1:]
        found.append((name, arguments))
    return found


SHOWN = {(name, *arguments): page for page in PAGES for name, arguments in commands(page)}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder that looks like the repository's, with the recipes that pages print under a comment with their name."""
    for room in ("eval", "pipelines"):
        (tmp_path / room).symlink_to(ROOT / room)
    for recipe in (block for page in PAGES for block in blocks(page, "yaml")):
        title = re.match(r"# ([\w-]+\.yaml)\n", recipe)
        assert title, f"a recipe begins with a comment that says its name:\n{recipe}"
        (tmp_path / title[1]).write_text(recipe)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [pytest.param(command, id=shlex.join(command)) for command in SHOWN])
def test_commands_parse(command, folder):
    name, *arguments = command
    if name in ("--help", "completion", *GROUPS):
        return
    assert name in COMMANDS, f"{name_of(SHOWN[command])} shows a command that does not exist"
    parse(name, arguments)


def test_an_unknown_option_is_found(folder):
    with pytest.raises(InputError, match="guidance"):
        parse("sample", ["--guidance", "2"])


def test_every_command_is_shown():
    assert {name for name, *_ in SHOWN} >= COMMANDS.keys()


def test_options_named_alone_exist(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            parse(name, ["--help-all"])
    options = HELP.union(re.findall(r"--[a-z][\w.-]*", capsys.readouterr().out))
    named = {code.split()[0]: name_of(page) for page in PAGES for code in inline_code(page) if code.startswith("--")}
    assert {option: page for option, page in named.items() if option not in options} == {}


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for page in PAGES for words in shell_lines(page) if words[:1] == ["make"]}
    assert {"demo", "install", "lint", "test", "test-slow"} <= named <= targets


def test_files_exist():
    path = re.compile(r"(?<![\w./-])(?:tokenizer|prior|pipelines|eval|tests|docs)/[\w./-]*")
    named = {
        found: name_of(page)
        for page in PAGES
        for words in shell_lines(page)
        for word in words
        for found in path.findall(word)
    }
    assert len(named) > 20
    assert {found: page for found, page in named.items() if not (ROOT / found).exists()} == {}
