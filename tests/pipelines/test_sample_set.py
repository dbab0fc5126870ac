"""`wvq sample --num-images`: parts, processes, resuming, formats, and batches that memory does not hold."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import processes
import pytest
import torch
from PIL import Image
from tiny_pipelines import tiny_pipeline
from torch import Tensor

from wvq.pipelines import ClassConditionalPipeline
from wvq.pipelines.generation import Sampling, SamplingOptions, sample_images
from wvq.pipelines.sample import sample
from wvq.prior import sampling
from wvq.tokenizer import InputError
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits

COUNT, PART = 23, 5


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("set") / "pipeline"
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


def options(saved: str, folder: Path, **changes: Any) -> Sampling:
    about = {"pipeline": saved, "output_dir": str(folder), "num_images": COUNT, "part_size": PART, "batch_size": 4}
    return Sampling(guidance_scale=2.0, **about | changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def expected_images(saved: str) -> tuple[Tensor, Tensor]:
    labels = torch.arange(COUNT) % 3
    pipeline = ClassConditionalPipeline.from_pretrained(saved)
    return torch.cat(list(sample_images(pipeline, labels, SamplingOptions(guidance_scale=2.0)))), labels


def test_each_format_holds_the_same_images(saved, tmp_path):
    images, labels = expected_images(saved)
    folders = {form: sample(options(saved, tmp_path / form, format=form)) for form in ("folder", "npz", "webdataset")}
    pictures = [np.asarray(Image.open(path)) for path in sorted((folders["folder"] / "images").glob("*.png"))]
    assert np.array_equal(np.stack(pictures), images.permute(0, 2, 3, 1).numpy())
    assert set(contents(folders["npz"])) == {"samples.json", "samples.npz"}
    with np.load(folders["npz"] / "samples.npz", allow_pickle=False) as whole:
        assert np.array_equal(whole["arr_0"], np.stack(pictures))
        assert whole["labels"].tolist() == labels.tolist()
    members: dict[str, bytes] = {}
    shards = sorted(folders["webdataset"].glob("*.tar"))
    assert len(shards) == 5
    for shard in shards:
        with tarfile.open(shard) as archive:
            members |= {member.name: archive.extractfile(member).read() for member in archive}  # pyright: ignore[reportOptionalMemberAccess]
    files = contents(folders["folder"])
    for number, label in enumerate(labels.tolist()):
        assert members[f"{number:08d}.png"] == files[f"images/{number:06d}.png"]
        assert members[f"{number:08d}.cls"] == str(label).encode()


@pytest.mark.parametrize("streaming", [False, True])
def test_webdataset_shards_can_be_trained_on(saved, tmp_path, streaming):
    images, labels = expected_images(saved)
    folder = sample(options(saved, tmp_path / "set", format="webdataset"))
    data = DataConfig(str(folder), image_size=images.shape[-1], channels=images.shape[1], evaluation_fraction=0.4)
    splits = load_splits(dataclasses.replace(data, streaming=streaming))
    assert splits[0].class_names == ClassConditionalPipeline.from_pretrained(saved).class_names
    batches = [split.__getitems__(range(len(split))) for split in splits]
    found = sorted((image.tolist(), int(k)) for b in batches for image, k in zip(b["images"], b["labels"], strict=True))
    assert found == sorted((image.tolist(), int(label)) for image, label in zip(images, labels, strict=True))


@pytest.mark.parametrize("form", ["folder", "npz", "webdataset"])
def test_what_is_missing_is_made_again_byte_by_byte(saved, tmp_path, form):
    config = options(saved, tmp_path / "set", format=form)
    whole = contents(sample(config))
    lost = [name for name in sorted(whole) if name != "samples.json"][::3]
    for name in lost:
        (tmp_path / "set" / name).unlink()
    kept = [path for path in (tmp_path / "set").rglob("*") if path.is_file()]
    times = {path: path.stat().st_mtime_ns for path in kept}
    assert contents(sample(dataclasses.replace(config, batch_size=11))) == whole
    assert {path: path.stat().st_mtime_ns for path in kept} == times


def make_and_count(config: Sampling, counts: Path) -> None:
    """Sample in this process's world, as on a machine where nobody has told Accelerate to use the CPU."""
    del os.environ["ACCELERATE_USE_CPU"]
    made = []

    def counted(pipeline: Any, labels: Tensor, *rest: Any) -> Any:
        made.append(len(labels))
        return sample_images(pipeline, labels, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wvq.pipelines.sample_set.sample_images", counted)
        sample(config)
    (counts / os.environ["RANK"]).write_text(str(sum(made)))


@pytest.mark.parametrize("form", ["folder", "npz", "webdataset"])
def test_two_real_processes_make_each_image_once(saved, tmp_path, form):
    whole = contents(sample(options(saved, tmp_path / "one", format=form)))
    processes.run(2, make_and_count, options(saved, tmp_path / "two", format=form), tmp_path)
    assert sum(int((tmp_path / rank).read_text()) for rank in "01") == COUNT
    assert contents(tmp_path / "two") == whole


@pytest.mark.parametrize("form", ["npz", "webdataset"])
def test_commands_started_by_hand_share_the_parts(saved, tmp_path, form):
    """One of them is killed, and another comes."""
    whole = contents(sample(options(saved, tmp_path / "one", format=form)))
    config = options(saved, tmp_path / "two", format=form)
    workers = [processes.start(1, sample, config)[0] for _ in range(2)]
    while not list((tmp_path / "two").glob("**/samples-*.[nt]*")):
        time.sleep(0.001)
    workers[0].kill()
    workers[0] = processes.start(1, sample, config)[0]
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert contents(tmp_path / "two") == whole
    assert not [path.name for path in (tmp_path / "two").iterdir() if path.name.startswith(".")]


def test_a_folder_of_other_samples_is_refused(saved, tmp_path):
    sample(options(saved, tmp_path / "set", num_images=3))
    with pytest.raises(InputError, match="holds samples of another seed; give another output_dir"):
        sample(options(saved, tmp_path / "set", num_images=3, seed=1))
    with pytest.raises(InputError, match="holds samples of another block_size"):
        sample(options(saved, tmp_path / "set", num_images=3, block_size=3))
    note = tmp_path / "set" / "samples.json"
    about = json.loads(note.read_text())
    del about["block_size"]  # as a folder of before
    note.write_text(json.dumps(about))
    sample(options(saved, tmp_path / "set", num_images=3))
    with pytest.raises(InputError, match="holds a set of 3 images, by num_images; give another output_dir"):
        sample(options(saved, tmp_path / "set", num_images=0, part_size=1000))
    assert len(list((tmp_path / "set" / "images").iterdir())) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match=r"holds 'thesis.txt'; give a new or empty output_dir"):
        sample(options(saved, tmp_path / "mine"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_passes": 2}, "num_passes is 2; a prior of raster order draws a token in each pass"),
        (
            {"guidance_interval": (0, 10_000)},
            r"guidance_interval is \(0, 10000\); valid are 0 <= first < end <= num_tok",
        ),
    ],
)
def test_what_the_prior_cannot_do_is_said_before_the_folder_is_claimed(saved, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        sample(options(saved, tmp_path / "set", num_images=3, **changes))
    assert not (tmp_path / "set").exists()
    sample(options(saved, tmp_path / "set", num_images=3))


class Small(ClassConditionalPipeline):
    """A pipeline that has memory for three images only."""

    def __call__(self, class_labels: Any, **rest: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        if len(class_labels) > 3:
            raise RuntimeError(
                "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte"
            )
        return super().__call__(class_labels, **rest)


def test_matrices_are_rounded_if_asked(saved, monkeypatch):
    asked = []
    build = sampling.kept_decoder
    monkeypatch.setattr(sampling, "kept_decoder", lambda *a: (asked.append(a[3]), build(*a))[1])
    pipeline = ClassConditionalPipeline.from_pretrained(saved)
    for dtype in ("auto", "bfloat16"):
        next(sample_images(pipeline, expected_images(saved)[1], SamplingOptions(dtype=dtype)))
    assert asked[-1] == torch.bfloat16
    assert set(asked[:-1]) == {None}


def test_a_batch_without_enough_memory_is_halved_and_said(saved, capsys):
    small = Small.__new__(Small)
    vars(small).update(ClassConditionalPipeline.from_pretrained(saved).__dict__)
    images, labels = expected_images(saved)
    batches = list(sample_images(small, labels, SamplingOptions(guidance_scale=2.0, batch_size=10)))
    assert max(map(len, batches)) == 3
    assert torch.equal(torch.cat(batches), images)
    said = capsys.readouterr()
    assert "too little memory for 10 images at once; from here on 5" in said.out + said.err
    automatic = SamplingOptions(guidance_scale=2.0, batch_size="auto")
    assert torch.equal(torch.cat(list(sample_images(small, labels, automatic))), images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_images": -1}, "num_images is -1; it must be at least 0"),
        ({"part_size": 0}, "part_size is 0; it must be at least 1"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"num_images_per_class": 0}, "num_images_per_class is 0; it must be at least 1"),
        ({"num_images": 4, "num_images_per_class": 7}, "num_images_per_class is 7, and num_images is 4; give one of"),
        ({"format": "npz"}, "format is npz, which large sets alone have; give num_images as well"),
        ({"part_size": 10}, "part_size is 10, which large sets alone have; give num_images as well"),
    ],
)
def test_bad_options_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        Sampling(**changes)


@pytest.mark.slow
def test_a_set_that_was_killed_twice_is_that_of_an_undisturbed_run(saved, tmp_path):
    about = ["--num-images", "2000", "--part-size", "100", "--format", "webdataset", "--pipeline", saved]
    program = "from wvq.pipelines.command_line import main; main()"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", program, "sample", *about, "--output-dir", str(folder)],
            env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    for shards in (3, 9):
        running = start(tmp_path / "killed")
        while len(list((tmp_path / "killed").glob("*.tar"))) < shards:
            assert running.poll() is None
            time.sleep(0.05)
        running.send_signal(signal.SIGKILL)
        running.wait()
    for folder in ("killed", "whole"):
        assert start(tmp_path / folder).wait() == 0
    killed, whole = (
        {n: c for n, c in contents(tmp_path / f).items() if "partial" not in n} for f in ("killed", "whole")
    )
    assert killed == whole
    assert len(whole) == 22  # shards, class names, what was asked for
