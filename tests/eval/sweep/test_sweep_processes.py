"""`wvq sweep` in two processes writes, byte for byte, what it writes in one."""

from dataclasses import replace
from pathlib import Path

import processes
import pytest
from tiny_evaluations import Tiny, tiny_pipeline_folder

from wvq.eval.features import chunks
from wvq.eval.sweep import command
from wvq.eval.sweep.command import Sweep, sweep_pipeline
from wvq.eval.sweep.grid import Grid
from wvq.pipelines.generation import SamplingOptions
from wvq.tokenizer.data.config import DataConfig


def swept(config: Sweep) -> None:
    """Sweep in chunks of 15 images, which two processes can share."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_SIZE", 15)
        patch.setattr(command, "build_extractor", lambda *_: Tiny())
        sweep_pipeline(config)


def test_two_processes_write_what_one_does(fashion_folder: Path, tmp_path: Path) -> None:
    config = Sweep(
        pipeline=str(tiny_pipeline_folder(tmp_path)),
        output_dir=str(tmp_path / "one"),
        data=DataConfig(source=str(fashion_folder)),
        grid=Grid(guidance_scale=(1.0, 3.0)),
        sampling=SamplingOptions(batch_size=7),
        num_generated=40,
        num_reference=70,
        scores=["precision"],
    )
    processes.run(1, swept, config)
    processes.run(2, swept, replace(config, output_dir=str(tmp_path / "two")))
    for name in ("sweep.json", "sweep.png"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    assert {path.name for path in (tmp_path / "two").iterdir()} == {"sweep.json", "sweep.png", ".lock"}
