"""Experiment trackers: one run of theirs for a training, however often it is stopped, and nothing told twice."""

import importlib
import json
import secrets
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from wvq.tokenizer.distributed import on_first_process
from wvq.tokenizer.errors import InputError
from wvq.tokenizer.storage.atomic import write_json
from wvq.tokenizer.storage.untrusted import first_line, read_json

from .run import TRACKING_FILE, Run
from .saved_config import as_json


class Trackers:
    """What a training tells the trackers of its `log_with`: scalars to all; pictures and histograms to tensorboard,
    wandb and trackio.

    They are told to go on with the run of the name in tracking.json. A training that resumes makes the steps since its
    checkpoint once more, bit for bit: what a tracker was told of them before is not told again.

    Args:
        run: the training's, before it forgets the metrics that follow its checkpoint.
        project: name of the project that trackers are told.

    Raises:
        InputError: if a tracker does not start, as where nobody has logged in; the reason is the tracker's own.
    """

    def __init__(self, run: Run, project: str):
        self._accelerator = run.accelerator
        self._told: dict[str, set[tuple[str, int]]] = {}
        on_first_process(partial(self._start, run, project))

    def scalars(self, split: str, step: int, values: dict[str, float]) -> None:
        """Tell numbers, under split/name."""
        for tracker in self._untold(split, step):
            tracker.log({f"{split}/{name}": value for name, value in values.items()}, step=step)

    def picture(self, name: str, step: int, path: Path) -> None:
        """Show the picture in a file, named step-STEP.png."""
        for tracker in self._untold("picture", step):
            with Image.open(path) as picture:
                log_image(tracker, name, step, picture)

    def histogram(self, name: str, split: str, step: int, values: Tensor) -> None:
        """Show how values (N,) are distributed; it goes with the split's scalars."""
        for tracker in self._untold(split, step):
            log_histogram(tracker, name, step, values.cpu().numpy())

    def finish(self) -> None:
        """Have them write what they have kept back."""
        for tracker in self._accelerator.trackers:  # not end_training: it would leave the next run without processes
            tracker.finish()

    def _untold(self, what: str, step: int) -> list[Any]:
        return [each for each in self._accelerator.trackers if (what, step) not in self._told[each.name]]

    def _start(self, run: Run, project: str) -> None:
        file, config = run.folder / TRACKING_FILE, as_json(run.config)
        known = read_json(file) if file.exists() else {"name": _name(run.folder), "trackers": []}
        own = {"name": known["name"], "config": config, "resume": "allow"}
        settings = {
            "wandb": {**own, "id": known["name"], "dir": str(run.folder)},
            "trackio": {**own, "embed": False},
            "tensorboard": {} if "tensorboard" in known["trackers"] else {"purge_step": 0},  # of an abandoned run
        }
        try:
            self._accelerator.init_trackers(project, init_kwargs=settings)
            for tracker in self._accelerator.trackers:
                if tracker.name not in known["trackers"]:
                    _store_configuration(tracker, _flat(config))
        except Exception as error:  # each tracker has exceptions of its own
            raise InputError(f"a tracker of log_with does not start: {first_line(error)}") from error
        names = [tracker.name for tracker in self._accelerator.trackers]
        told = {(row["split"], row["step"]) for row in run.metrics()}
        told |= {("picture", int(path.stem.removeprefix("step-"))) for path in run.folder.glob("images/step-*.png")}
        self._told = {name: told if name in known["trackers"] else set() for name in names}
        write_json(file, {**known, "trackers": names})


def log_image(tracker: Any, name: str, step: int, image: Image.Image) -> None:
    """Show a tracker an image, if it is one of tensorboard, wandb and trackio."""
    if tracker.name == "tensorboard":
        tracker.tracker.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
    elif tracker.name in ("wandb", "trackio"):
        tracker.log({name: importlib.import_module(tracker.name).Image(image)}, step=step)


def log_histogram(tracker: Any, name: str, step: int, values: np.ndarray) -> None:
    """Show a tracker how values (N,) are distributed, if it is one of tensorboard, wandb and trackio."""
    if tracker.name == "tensorboard":
        tracker.tracker.add_histogram(name, values, step)
    elif tracker.name in ("wandb", "trackio"):
        tracker.log({name: importlib.import_module(tracker.name).Histogram(values)}, step=step)


def _name(folder: Path) -> str:
    folder = folder.absolute()
    return f"{folder.parent.name}-{folder.name}-{secrets.token_hex(4)}"


def _store_configuration(tracker: Any, values: dict[str, Any]) -> None:
    """Tell a tracker that did not get the configuration when it started."""
    if tracker.name == "tensorboard":
        tracker.tracker.add_hparams(values, {}, run_name=".")  # beside the scalars, not in a run of its own
    elif tracker.name not in ("wandb", "trackio"):
        tracker.store_init_configuration(values)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Plain values by dotted names; lists as text."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif value is not None:
            flat[f"{prefix}{name}"] = json.dumps(value) if isinstance(value, list) else value
    return flat
