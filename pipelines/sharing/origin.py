"""Where a pipeline comes from: images, steps and hours of its two trainings, kept in its training.json."""

from pathlib import Path
from typing import Any

from wvq.pipelines.training.run import ROLLBACKS_FILE, read_metrics
from wvq.pipelines.training.same_run import recorded_inputs
from wvq.tokenizer.data.decoding import RESIZE, crop_in_words
from wvq.tokenizer.storage.untrusted import read_json, user_path


def describe_origin(prior_run: Path, tokenizer: str) -> dict[str, Any]:
    """What training.json says: how "tokenizer" and "prior" came about, each with its run's recipe.

    Args:
        prior_run: folder of the prior's run.
        tokenizer: folder or hub repository of the tokenizer; only what lies in the folder of its own run is described.
    """
    folder = user_path(tokenizer)
    known = folder.name == "model" and (folder.parent / "run.json").exists()
    return {
        "tokenizer": describe_run(folder.parent) if known else {"loaded_from": tokenizer},
        "prior": describe_run(prior_run),
    }


def describe_run(folder: Path) -> dict[str, Any]:
    """Of a finished run; "images" are those of all steps, repeated ones too, "hours" those of a clock on the wall.

    "rollbacks" are there if a discriminator's harm was undone: where PSNR had fallen, and where the run went back to.
    """
    recipe, hashes = read_json(folder / "run.json"), recorded_inputs(folder) or {}
    data = recipe["data"]
    metrics = read_metrics(folder)
    seconds = [row["seconds"] for row in metrics if "seconds" in row]
    bits = [row["bits_per_token"] for row in metrics if "bits_per_token" in row]
    return {
        "data": {
            "source": data["source"],
            "image_size": data["image_size"],
            "channels": data["channels"],
            "crop": crop_in_words(data["image_size"]),
            "resize": RESIZE,
            "horizontal_flip": data["horizontal_flip"],
            **{name.replace(" ", "_"): value for name, value in hashes.items() if name.endswith(" images")},
        },
        "steps": recipe["steps"],
        "batch_size": recipe["batch_size"],
        "images": recipe["steps"] * recipe["batch_size"],
        "hours": max(seconds) / 3600 if seconds else None,
        "bits_per_token": bits[-1] if bits else None,
        **({"rollbacks": read_json(rollbacks)} if (rollbacks := folder / ROLLBACKS_FILE).exists() else {}),
        "recipe": recipe,
    }
