"""Kills a run of both stages at random moments until it ends, and compares it with the run that nobody disturbed.

`python tests/kill_and_compare.py --kills 20` does so in one process and in two, with `--adversarial` against a
discriminator that is used too early, so that runs go back; `test_killing.py` has a short form of it. The moments are
drawn by the seed, so that they fall anywhere: between the stages, into a checkpoint, the tokenization, the last model.
"""

import argparse
import json
import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fixtures import write_fashion_folder
from processes import run, start
from shard_folders import write_fashion_shards
from toy_runs import TIMINGS

from wvq.pipelines.command_line import main

EVERY = 3  # steps between checkpoints
MODEL = {"patch_size": 2, "base_channels": 8, "channel_multipliers": [1, 1], "num_blocks": 1, "latent_channels": 8}
SCHEDULE = {
    "batch_size": 20, "gradient_accumulation_steps": 2, "warmup_steps": 2, "ema_decay": 0.8,
    "log_every": 5, "evaluate_every": 8, "checkpoint_every": EVERY, "learning_rate": 0.003,
}  # fmt: skip
ADVERSARIAL = {  # whose weight is halved when PSNR falls
    "adversarial_weight": 20.0, "discriminator_start": 3, "rollback_psnr": 0.01, "learning_rate": 0.01,
    "discriminator": {
        "base_channels": 8, "num_layers": 1, "learning_rate": 0.1, "lead": 2, "ramp": 1, "lecam_weight": 0.1,
        "r1_weight": 0.01, "adaptive": False, "augmentation": True, "max_rollbacks": 2,
    },
}  # fmt: skip


def recipes(images: Path, folder: Path, steps: int, streaming: bool, adversarial: bool) -> dict[str, dict[str, Any]]:
    """Small recipes of both commands, with all that keeps a state: drop-out, averages, accumulation, flips."""
    common = {"steps": steps, **SCHEDULE}
    data = {"source": str(images), "channels": 1, "image_size": 28, "horizontal_flip": True, "streaming": streaming}
    quantizer = {"codebook_size": 32, "codebook_dim": 4, "quantizer": "wasserstein"}
    size = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "attention_dropout": 0.2}
    tokenizer = {"data": data, "model": MODEL | quantizer, **common} | (ADVERSARIAL if adversarial else {})
    prior = {
        "tokenizer": f"{folder}/tokenizer/model", "data": data, "model": size, "sample_every": 12, **common,
    }  # fmt: skip
    return {"train-tokenizer": tokenizer, "train-prior": prior}


def both_stages(folder: Path, log: Path) -> None:
    """The two commands, as a user would give them, with their output in a file."""
    with log.open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    for stage, tokens in (("tokenizer", []), ("prior", ["--tokens-dir", f"{folder}/tokens"])):
        command = f"train-{stage}"
        main([command, "--config", f"{folder}/{command}.json", "--output-dir", f"{folder}/{stage}", *tokens])


class Program:
    """Both stages on their way, in one process or more."""

    def __init__(self, folder: Path, world: int):
        self.folder, self.log = folder, folder / "log.txt"
        self.left_over = self.unfinished()
        self.processes = start(world, both_stages, folder, self.log)

    def ended(self) -> bool:
        """Whether all processes have ended.

        Raises:
            RuntimeError: if one of them failed.
        """
        codes = {each.exitcode for each in self.processes}
        if codes - {None, 0}:
            raise RuntimeError(f"exit codes {codes}: {self.log.read_text()[-3000:]}")
        return codes == {0}

    def wait(self) -> None:
        while not self.ended():
            time.sleep(0.05)

    def kill(self) -> bool:
        """SIGKILL to all processes, one after the other; whether one of them was still alive."""
        for each in random.sample(self.processes, len(self.processes)):
            each.kill()
            time.sleep(random.choice([0, 0.05]))
        for each in self.processes:
            each.join()
        return any(each.exitcode == -signal.SIGKILL for each in self.processes)

    def checkpoints(self) -> int:
        """How many checkpoints have been written, over both stages."""
        stages = (sorted((self.folder / name / "checkpoints").glob("step-*")) for name in ("tokenizer", "prior"))
        return sum(int(found[-1].name.removeprefix("step-")) // EVERY for found in stages if found)

    def unfinished(self) -> set[str]:
        """What is being written, or was when a process was killed."""
        names = (name for _, folders, files in os.walk(self.folder) for name in (*folders, *files))
        return {name for name in names if name.startswith(".") and name.endswith(".partial")}

    def writing(self) -> set[str]:
        """What is being written."""
        return self.unfinished() - self.left_over


def content(folder: Path) -> dict[str, Any]:
    """Every file below a folder by its name: bytes, or the rows of metrics.jsonl and training.json without timings."""
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name == "metrics.jsonl":
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            found[name] = [{key: value for key, value in row.items() if key not in TIMINGS} for row in rows]
        elif path.name == "training.json":
            text = path.read_text().replace(str(folder), "")
            found[name] = [{**stage, "hours": None} for stage in json.loads(text).values()]
        elif path.name not in ("log.txt", ".lock"):
            found[name] = path.read_bytes().replace(str(folder).encode(), b"")
    return found


def compare(
    kills: int, world: int, seed: int, steps: int, work: Path, streaming: bool = False, adversarial: bool = False
) -> Iterator[str]:
    """Run undisturbed, then with so many kills; yields a line on each kill and on the outcome.

    Raises:
        AssertionError: if the two end with different files.
    """
    random.seed(seed)
    (write_fashion_shards if streaming else write_fashion_folder)(work / "images")
    for name in ("straight", "killed"):
        for command, recipe in recipes(work / "images", work / name, steps, streaming, adversarial).items():
            (work / name).mkdir(exist_ok=True)
            (work / name / f"{command}.json").write_text(json.dumps(recipe))
    run(1, int)  # the server's imports are not to be counted below
    begun = time.monotonic()
    Program(work / "straight", world).wait()
    both = 2 * steps // EVERY
    between = (time.monotonic() - begun) / both
    done = 0
    for reached in sorted(random.sample(range(both - 1), kills)):
        program = Program(work / "killed", world)
        while program.checkpoints() < reached and not program.ended():
            time.sleep(0.002)
        # Half of the kills come at any time, the others while something is being written.
        moment, into_writing = time.monotonic() + random.uniform(0, between), random.random() < 0.5
        while not program.ended() and (time.monotonic() < moment or (into_writing and not program.writing())):
            time.sleep(0.002)
        if not program.kill():
            break
        done += 1
        yield f"kill {done}: {program.checkpoints()} of {both} checkpoints, writing {sorted(program.writing())}"
    Program(work / "killed", world).wait()
    expected, found = content(work / "straight"), content(work / "killed")
    differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    assert not differing, f"after {done} kills these differ: {differing}"
    yield f"{world} process(es), {done} kills: {len(found)} files equal"


def from_command_line() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=48, help="of each stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--streaming", action="store_true", help="from webdataset shards")
    parser.add_argument("--adversarial", action="store_true", help="the tokenizer against a discriminator")
    options = vars(parser.parse_args())
    for world in options.pop("processes"):
        with tempfile.TemporaryDirectory() as folder:
            for line in compare(world=world, work=Path(folder), **options):
                print(line, flush=True)


if __name__ == "__main__":
    from_command_line()
