"""Completion as bash does it: the script is sourced, and asked for what may follow a line."""

import shlex
import shutil
import subprocess
import sys

import pytest

from wvq.pipelines.command_line import COMMANDS, main

CASES = [
    ("wvq ", {"train-tokenizer", "benchmark", "completion"}, {"benchmark data", "--steps"}),
    ("wvq tr", {"train-tokenizer", "train-prior"}, {"sample"}),
    ("wvq benchmark ", {"quantizers", "sample-size"}, {"sample"}),
    ("wvq completion ", {"bash", "zsh"}, set()),
    ("wvq sample --gui", {"--guidance-scale", "--guidance-schedule", "--guidance-interval"}, {"--seed"}),
    ("wvq compare --prior.model.h", {"--prior.model.hidden-size"}, {"--prior.model.size"}),
    ("wvq benchmark prior --num", {"--num-tokens"}, {"--num-vectors"}),
    ("wvq train-prior --model.size ", {"XS", "3B"}, {"--steps"}),
    ("wvq train-prior --mixed-precision=b", {"bf16"}, {"no"}),
    ("wvq train-tokenizer --steps 3 --data.horizontal-flip ", {"true", "false"}, {"--steps"}),
]


@pytest.fixture(scope="module")
def script() -> str:
    printed = subprocess.run(
        [sys.executable, "-c", "from wvq.pipelines.command_line import main; main(['completion', 'bash'])"],
        capture_output=True,
        text=True,
        check=True,
    )
    return printed.stdout


def completed(script: str, line: str) -> set[str]:
    """What bash would offer after a line, whose words it parts at "=" as well."""
    words = shlex.split(line.replace("=", " = ")) + ([""] if line.endswith((" ", "=")) else [])
    program = f"""
        set -eu
        source /dev/stdin
        COMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}
        _wvq; printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", program], input=script, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.split("\n")) - {""}


@pytest.mark.skipif(not shutil.which("bash"), reason="there is no bash")
@pytest.mark.parametrize(("line", "offered", "others"), CASES)
def test_bash_completes(script: str, line: str, offered: set[str], others: set[str]):
    found = completed(script, line)
    assert offered <= found
    assert not others & found


def test_files_are_completed_where_no_words_are_known(script: str, tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "photos").mkdir()
    monkeypatch.chdir(tmp_path)
    assert completed(script, "wvq train-tokenizer --data.source ph") == {"photos"}


def test_every_command_is_there(script: str, capsys: pytest.CaptureFixture[str]):
    for name in COMMANDS:
        assert f'"{name}") words="--config ' in script
    main(["completion", "zsh"])
    zsh = capsys.readouterr().out
    assert "bashcompinit\n_wvq()" in zsh
    assert zsh[zsh.index("_wvq()") :] == script[script.index("_wvq()") :]


@pytest.mark.parametrize("arguments", [["completion"], ["completion", "fish"], ["completion", "bash", "zsh"]])
def test_other_shells_are_refused(capsys: pytest.CaptureFixture[str], arguments: list[str]):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "wvq completion bash or zsh" in capsys.readouterr().err
