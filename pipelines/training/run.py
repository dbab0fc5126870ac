"""The folder of a training run: one configuration, one writer, whole checkpoints, metrics that fit them."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from accelerate import Accelerator

from wvq.tokenizer.distributed import from_every_process, num_processes, on_first_process, process_index
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.atomic import remove_unfinished, remove_whole, synchronize, write_file, written_whole
from wvq.tokenizer.storage.lock import Lock
from wvq.tokenizer.storage.manifest import describe_file, find_damage, write_manifest
from wvq.tokenizer.storage.untrusted import user_path

from .checkpoints.background import Background
from .checkpoints.shards import ShardWriter, Tensors
from .checkpoints.state import TrainingState, write_state
from .same_run import Difference, changed_input, is_of_inputs, recorded_config, run_difference, write_run

TRACKING_FILE, ROLLBACKS_FILE = "tracking.json", "rollbacks.json"
_FILES = (  # of a run, at its top
    *("run.json", "inputs.json", "accumulation.json", "precision.json", "metrics.jsonl", "bad_images.jsonl"),
    *(TRACKING_FILE, ROLLBACKS_FILE),
)


class Run:
    """run.json, inputs.json, metrics.jsonl, images/, checkpoints/ and, at the end, model/.

    A run that is not finished is locked for this program from here on; leave it as a context manager to release it.

    A run of an older version, whose run.json lacks fields that have defaults since then, resumes with these. run.json
    says what the newest checkpoint was written with: where it said less, or fields that may change have changed, it is
    written anew after the first checkpoint. A run of another configuration that has no checkpoint yet, and had none to
    lose, is begun anew.

    Args:
        folder: where the run lives; made if need be.
        config: the run's configuration, a dataclass; a folder that holds a run of another configuration, except for the
            fields in `MAY_CHANGE`, is refused.
        accelerator: its first process writes.
        inputs: hashes of what the run is made from, by what that is. They are compared instead of the fields that say
            where it lies, so that it may be moved and may not be changed.

    Raises:
        InputError: if the folder holds a run of another configuration; the message names the first difference. If
            run.json cannot be read, or another process works on the run.
    """

    def __init__(
        self, folder: str | Path, config: Any, accelerator: Accelerator, inputs: Mapping[str, str] | None = None
    ):
        self.folder, self.config, self.accelerator = user_path(folder), config, accelerator
        self.inputs = inputs
        self._lock: Lock | None = None
        self._background = Background()
        self._checkpoint_every = config.checkpoint_every  # of those that the metrics in the folder belong to
        on_first_process(self._open)

    def _open(self) -> None:
        difference = None
        if (self.folder / "run.json").exists():
            recorded = recorded_config(self.folder, self.config)
            difference = run_difference(self.folder, recorded, self.config, self.inputs)
            if difference and _would_lose(self.folder, recorded.checkpoint_every):
                raise _another_run(self.folder, difference)
            self._checkpoint_every = recorded.checkpoint_every
        if self.finished:
            return
        self._lock = Lock(self.folder / ".lock")
        for written_to in (self.folder, self.folder / "images", self.folder / "checkpoints"):
            remove_unfinished(written_to)
        if difference:
            print(
                f"{self.folder} has no checkpoint of its run with {difference[0]} = {difference[1]}: it begins anew",
                file=sys.stderr,
            )
            for name in (*_FILES, "images/step-*.png"):
                for file in self.folder.glob(name):
                    file.unlink()
        if not (self.folder / "run.json").exists():
            write_run(self.folder, self.config, self.inputs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        try:
            if kind is not KeyboardInterrupt:  # that of a second Ctrl-C, which stops at once
                self.wait()
        finally:
            if self._lock:
                self._lock.release()

    @property
    def finished(self) -> bool:
        return (self.folder / "model").is_dir()

    def checkpoints(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        return sorted((self.folder / "checkpoints").glob("step-*"))

    def resume(self, state: TrainingState) -> int:
        """Load the newest checkpoint that is undamaged into `state`; returns the steps done (0 if there never was one).

        Raises:
            InputError: if there were checkpoints and none of them can be used.
        """
        damaged: dict[Path, str] = {}
        for path in reversed(on_first_process(self.checkpoints)):
            parts = from_every_process(lambda path=path: find_damage(path, process_index(), num_processes()))
            if not any(parts):
                break
            damaged[path] = next(filter(None, parts))
        else:
            path = None
        step = on_first_process(lambda: self._go_on_from(path, damaged))
        if path:
            state.load(path)
        return step

    def _go_on_from(self, path: Path | None, damaged: Mapping[Path, str]) -> int:
        for other, damage in damaged.items():
            print(f"{other} is damaged: {damage}", file=sys.stderr)
        if not path:
            if damaged:
                listed = "; ".join(f"{path.name}: {damage}" for path, damage in damaged.items())
                raise InputError(
                    f"every checkpoint of {self.folder} is damaged ({listed}); remove the folder to begin anew"
                )
            if rows := [row for row in self.metrics() if row["step"] > self._checkpoint_every]:
                raise InputError(
                    f"{self.folder} was at step {rows[-1]['step']}, and its checkpoints are gone; "
                    "remove the folder to begin anew"
                )
            self._forget_metrics_after(0)
            return 0
        if damaged:
            print(f"going on from {path.name} instead; set aside: {path.parent}/damaged-*", file=sys.stderr)
        for other in damaged:
            aside = other.with_name(f"damaged-{other.name}")
            shutil.rmtree(aside, ignore_errors=True)
            other.rename(aside)
        self._remove_old_checkpoints()  # a killed process may have been about to
        step = int(path.name.removeprefix("step-"))
        self._forget_metrics_after(step)
        return step

    def save_checkpoint(self, step: int, state: TrainingState) -> None:
        """Write the checkpoint of `step` whole, then remove all but the newest `keep_checkpoints` and that of the
        `turning_point`.

        One in shards is written in the background: this returns when they are copied, `wait` when they are written.

        Raises:
            OSError: on all processes, if it cannot be written, or the one before, in the background, could not; the
                older ones are still there.
        """
        self.wait()
        if state.shards:
            copies, tensors, counts = state.copy_shards(state.shards)
            self._background.start(partial(self._write_shards, step, state.shards, copies, tensors, counts))
            return
        tensors, counts = state.gather()

        def write() -> None:
            with self._written(step) as folder:
                write_state(folder, tensors, counts)
                write_manifest(folder)

        on_first_process(write)

    def wait(self) -> None:
        """Return when the checkpoint that is being written in the background, if there is one, is on the disk.

        Raises:
            OSError: on all processes, if it could not be written.
        """
        self._background.wait()

    def _write_shards(
        self, step: int, shards: ShardWriter, copies: Tensors, tensors: dict[str, Tensors], counts: dict[str, int]
    ) -> None:
        with ExitStack() as stack:  # of the first process, where it is put in its place or removed
            folder = on_first_process(lambda: stack.enter_context(self._written(step)), shards.group)
            listed = from_every_process(
                lambda: {path.name: describe_file(path) for path in shards.write(folder, copies)}, shards.group
            )

            def finish() -> None:
                write_state(folder, tensors, counts)
                write_manifest(folder, {name: file for files in listed for name, file in files.items()})
                stack.close()

            on_first_process(finish, shards.group)

    @contextmanager
    def _written(self, step: int) -> Iterator[Path]:
        """A folder whose content becomes the checkpoint of `step`, by the first process."""
        # What the checkpoint is the continuation of must be on the disk before it.
        synchronize(*self.folder.glob("metrics.jsonl"), *(self.folder / "images").glob("*"))
        with written_whole(self._checkpoint(step)) as folder:
            yield folder
        write_run(self.folder, self.config, self.inputs)
        self._remove_old_checkpoints()

    def _remove_old_checkpoints(self) -> None:
        for old in self.checkpoints()[: -self.config.keep_checkpoints]:
            if old != self._checkpoint(self.config.turning_point):
                remove_whole(old)

    def _checkpoint(self, step: int) -> Path:
        return self.folder / "checkpoints" / f"step-{step:08d}"

    def save_model(self, model: Any) -> Path:
        """Write `model`, which has `save_pretrained` and which the first process alone need have, into the folder
        model/, which makes the run a finished one."""
        self.wait()

        def write() -> None:
            with written_whole(self.folder / "model") as partial:
                model.save_pretrained(partial)

        on_first_process(write)
        return self.folder / "model"

    def log(self, step: int, split: str, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl."""
        if self.accelerator.is_main_process:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps({"step": step, "split": split, **values}) + "\n")

    def metrics(self) -> list[dict[str, Any]]:
        """See `read_metrics`."""
        return read_metrics(self.folder)

    def _forget_metrics_after(self, step: int) -> None:
        kept = [row for row in self.metrics() if row["step"] <= step]
        write_file(self.folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in kept).encode())


def finished_model(config: Any, inputs: Callable[[], Mapping[str, str]] = dict) -> Path | None:
    """The model of the run in `config.output_dir`, if it is finished and of this configuration to the letter.

    So a finished run needs neither its data nor time. A collective call; `inputs` gives the hashes of what it is made
    from, where that is at hand.

    Raises:
        InputError: if the folder holds a run of another configuration or of other inputs. Where that may be only
            another place of its data or tokenizer, which `Run` can tell, there is no error, and no model.
    """
    folder = user_path(config.output_dir)

    def find() -> Path | None:
        if not (folder / "run.json").exists():
            return None
        recorded = recorded_config(folder, config)
        difference, done = run_difference(folder, recorded, config), (folder / "model").is_dir()
        if difference and not is_of_inputs(difference) and _would_lose(folder, recorded.checkpoint_every):
            raise _another_run(folder, difference)
        if done and not difference and (changed := changed_input(folder, inputs())):
            raise _another_run(folder, changed)
        return folder / "model" if done and not difference else None

    return on_first_process(find)


def _would_lose(folder: Path, checkpoint_every: int) -> bool:
    """Whether a run that begins anew in a folder would lose a model, checkpoints, or what is left where these were."""
    gone = any(row["step"] > checkpoint_every for row in read_metrics(folder))
    return gone or (folder / "model").exists() or any((folder / "checkpoints").glob("*step-*"))


def _another_run(folder: Path, difference: Difference) -> InputError:
    name, old, new = difference
    return InputError(
        f"{folder} holds a run with {name} = {old}, this one has {new}; "
        "give it another --output-dir or remove that folder"
    )


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """All lines of a run's metrics.jsonl.

    Raises:
        InputError: for a line that is no JSON.
    """
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    try:
        return [json.loads(line) for line in lines if line.endswith("\n")]  # a last line cut off by a crash is none
    except json.JSONDecodeError as error:
        raise InputError(f"{path} holds a line that is not valid JSON: {error}") from error
