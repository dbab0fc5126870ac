"""Which GPU each of several jobs sees, and what waits for what."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from wvq.eval.comparison.parallel import gpu_names, run_parallel, seeing

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible(environment: Path) -> str | None:
    """The variable in a copy of /proc/self/environ: what a process was started with."""
    lines = environment.read_text().split("\0")
    return next((line.removeprefix(f"{VARIABLE}=") for line in lines if line.startswith(f"{VARIABLE}=")), None)


def set_variable(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)


def test_each_job_is_started_with_a_gpu_of_its_own(monkeypatch, tmp_path):
    set_variable(monkeypatch, "3,GPU-ab")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    files = [tmp_path / str(number) for number in range(3)]
    run_parallel(shutil.copyfile, [[("/proc/self/environ", file)] for file in files], jobs=3)
    assert [visible(file) for file in files] == ["3", "GPU-ab", "3"]
    assert os.environ[VARIABLE] == "3,GPU-ab"


@pytest.mark.parametrize("given", [None, "0,1", ""])
@pytest.mark.parametrize("gpu", [None, "1"])
def test_only_the_processes_started_meanwhile_see_it(monkeypatch, given, gpu):
    set_variable(monkeypatch, given)
    with seeing(gpu):
        printed = subprocess.run(["env"], capture_output=True, text=True, check=True).stdout.splitlines()
    found = [line.removeprefix(f"{VARIABLE}=") for line in printed if line.startswith(f"{VARIABLE}=")]
    expected = given if gpu is None else gpu
    assert found == ([] if expected is None else [expected])
    assert os.environ.get(VARIABLE) == given


@pytest.mark.parametrize(
    ("given", "gpus", "names"),
    [
        (None, 3, ["0", "1", "2"]),
        ("2, 0", 2, ["2", "0"]),
        ("1,-1,0", 1, ["1"]),  # CUDA reads no further than what is no GPU
        ("", 0, []),
        ("-1", 0, []),
    ],
)
def test_gpus_have_the_names_that_the_user_gave(monkeypatch, given, gpus, names):
    set_variable(monkeypatch, given)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert gpu_names() == names


def test_a_single_job_stays_in_this_process_with_all_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    seen: list[tuple[int, str | None]] = []
    run_parallel(lambda: seen.append((os.getpid(), os.environ.get(VARIABLE))), [[()]], jobs=1)
    assert seen == [(os.getpid(), os.environ.get(VARIABLE))]


def test_a_link_waits_for_the_one_before_it_and_behind_those_that_waited_longer():
    called: list[str] = []
    run_parallel(called.append, [[("a1",), ("a2",), ("a3",)], [], [("b1",)], [("c1",), ("c2",)]], jobs=1)
    assert called == ["a1", "b1", "c1", "a2", "c2", "a3"]


def test_links_of_chains_side_by_side_find_what_the_links_before_them_made(tmp_path):
    (tmp_path / "0").write_text("made")
    chains = [[(tmp_path / "0", tmp_path / f"{n}-1"), (tmp_path / f"{n}-1", tmp_path / f"{n}-2")] for n in range(3)]
    run_parallel(shutil.copyfile, chains, jobs=2)
    assert [(tmp_path / f"{n}-2").read_text() for n in range(3)] == ["made"] * 3
