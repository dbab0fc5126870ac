"""What a run resumes from: Accelerate's state in numbered folders, each written whole, beside its configuration."""

import dataclasses
import json
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch
from accelerate import Accelerator

from .errors import InputError
from .saving import read_json, write_json, written_whole


class Run:
    """The folder of one training run: run.json, metrics.jsonl, images/, checkpoints/ and, at the end, model/.

    Args:
        folder: where the run lives; made if need be.
        config: the run's configuration, a dataclass; a folder that holds a run of another configuration is refused.
        accelerator: which process writes.

    Raises:
        InputError: if the folder holds a run of another configuration; the message names the first difference.
    """

    def __init__(self, folder: str | Path, config: Any, accelerator: Accelerator):
        self.folder, self.accelerator = Path(folder), accelerator
        description = json.loads(json.dumps(dataclasses.asdict(config)))
        description.pop("output_dir", None)
        path = self.folder / "run.json"
        if path.exists():
            difference = first_difference(read_json(path), description)
            if difference:
                name, old, new = difference
                raise InputError(
                    f"{self.folder} holds a run with {name} = {old}, this one has {new}; "
                    f"give it another --output-dir or remove that folder"
                )
        elif accelerator.is_main_process:
            write_json(path, description)
        accelerator.wait_for_everyone()

    @property
    def finished(self) -> bool:
        return (self.folder / "model").is_dir()

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted((self.folder / "checkpoints").glob("step-*"))

    def resume(self) -> int:
        """Load the newest checkpoint into the prepared objects; returns the steps done (0 if there is none)."""
        step = 0
        if checkpoints := self.checkpoints():
            self.accelerator.load_state(str(checkpoints[-1]))
            step = int(checkpoints[-1].name.removeprefix("step-"))
        if self.accelerator.is_main_process:
            self._forget_metrics_after(step)
        return step

    def save_checkpoint(self, step: int, keep: int) -> None:
        """Write the checkpoint of `step` whole, then remove all but the newest `keep`."""
        target = self.folder / "checkpoints" / f"step-{step:08d}"
        if self.accelerator.num_processes == 1:
            with written_whole(target) as partial:
                self.accelerator.save_state(str(partial))
        else:
            partial = target.with_name(f".{target.name}")
            self.accelerator.save_state(str(partial))
            self.accelerator.wait_for_everyone()
            if self.accelerator.is_main_process:
                partial.rename(target)
        if self.accelerator.is_main_process:
            for old in self.checkpoints()[:-keep]:
                shutil.rmtree(old)
        self.accelerator.wait_for_everyone()

    def log(self, step: int, split: str, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl and tell the trackers."""
        if self.accelerator.is_main_process:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "split": split, **values}) + "\n")
        self.accelerator.log({f"{split}/{name}": value for name, value in values.items()}, step=step)

    def metrics(self) -> list[dict[str, Any]]:
        """All lines of metrics.jsonl."""
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]  # a last line cut off by a crash is none

    def _forget_metrics_after(self, step: int) -> None:
        kept = [row for row in self.metrics() if row["step"] <= step]
        text = "".join(json.dumps(row) + "\n" for row in kept)
        partial = self.folder / ".metrics.jsonl.partial"
        partial.write_text(text)
        partial.replace(self.folder / "metrics.jsonl")


def first_difference(old: Any, new: Any, name: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name, old and new value of the first difference between two JSON values, or None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            found = first_difference(old.get(key), new.get(key), f"{name}.{key}" if name else key)
            if found:
                return found
        return None
    return None if old == new else (name, old, new)


class StopRequest:
    """Set by the first Ctrl-C or SIGTERM of any process; the loop saves after the step it is in, then calls `leave`."""

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.signal_number = 0

    def asked(self) -> bool:
        """Whether to stop, the same answer on every process: one that stopped alone would leave the others waiting."""
        if self.accelerator.num_processes > 1:
            numbers = torch.tensor([self.signal_number], device=self.accelerator.device)
            self.signal_number = int(self.accelerator.gather(numbers).max())  # pyright: ignore[reportAttributeAccessIssue]
        return self.signal_number > 0

    def leave(self, step: int) -> NoReturn:
        """Leave the program with the signal's exit code (128 + its number)."""
        if self.accelerator.is_main_process:
            print(f"stopped after step {step}; the same command goes on from there", file=sys.stderr)
        raise SystemExit(128 + self.signal_number)


@contextmanager
def stop_request(accelerator: Accelerator) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request to stop after the current step; a second one stops at once."""
    request = StopRequest(accelerator)

    def ask(number: int, frame: Any) -> None:
        request.signal_number = number
        signal.signal(number, previous[number])

    previous: dict[int, Any] = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
