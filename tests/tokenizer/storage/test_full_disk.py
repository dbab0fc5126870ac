"""A disk that is full while a checkpoint is written: the one before is still there, and nothing half-written."""

import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from toy_run_folders import Process, Training, names


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of Python 3.12; the child does nothing but save
@pytest.mark.parametrize("limit", [0, 100, 300, 1000, 5000])
def test_files_that_cannot_be_written_lose_nothing(limit: int, tmp_path: Path):
    """Files of a process of its own are limited to so many bytes; each limit stops another file."""
    config = Training(output_dir=str(tmp_path / "run"))
    process = Process(config)
    process.save(3)
    if not (child := os.fork()):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            process.save(6)
        except OSError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert names(process.folder) == ["step-00000003"]
    assert Process(config).resume() == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], capture_output=True, check=False)
    if mount.returncode:
        pytest.skip("only root may mount a file system here")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path):
    config = Training(output_dir=str(small_disk / "run"))
    process = Process(config)
    process.save(3)
    filling = small_disk / "filling"
    filling.write_bytes(bytes(shutil.disk_usage(small_disk).free - 4096))
    with pytest.raises(OSError, match=r"No space left|could not be written"):
        process.save(6)
    assert names(process.folder) == ["step-00000003"]
    filling.unlink()
    assert Process(config).resume() == 3
    process.save(6)
    assert Process(config).resume() == 6
