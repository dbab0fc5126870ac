"""References of images and statistics in one file, as ADM publishes them, and sFID."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_evaluations import Tiny
from torch import Tensor

from wvq.eval import ImageArchive, ReferenceStatistics, extract_features, open_images, score_features
from wvq.eval import evaluate as command
from wvq.eval.evaluate import Evaluation, evaluate
from wvq.eval.metrics.frechet import covariance_factor, frechet_distance, mean_and_factor
from wvq.tokenizer import InputError


class Places(Tiny):
    """Also has features of places: four pixels of the first channel."""

    seen = 0

    def features(self, images: Tensor) -> Tensor:
        Places.seen += len(images)
        return super().features(images)

    def features_and_spatial(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.features(images), images[:, 0, 8:20:8, 8:20:8].flatten(1).float()


@pytest.fixture
def files(fashion_images: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Samples, and a reference batch whose statistics are of more images than it holds."""
    monkeypatch.setattr(command, "build_extractor", lambda *_: Places())
    monkeypatch.chdir(tmp_path)
    images = fashion_images[0].permute(0, 2, 3, 1).repeat(1, 1, 1, 3).numpy()
    np.savez("samples.npz", images[:200], fashion_images[1][:200].numpy())
    np.savez("whole.npz", images)
    whole = extract_features(open_images("whole.npz"), Places(), progress=False, with_spatial=True)
    assert whole.spatial is not None
    pairs = {"mu": whole.vectors, "mu_s": whole.spatial}
    arrays = {name: vectors.double().mean(dim=0).numpy() for name, vectors in pairs.items()}
    arrays |= {name.replace("mu", "sigma"): vectors.double().mT.cov().numpy() for name, vectors in pairs.items()}
    save: Any = np.savez
    save("reference.npz", images[::2], fashion_images[1][::2].numpy(), **arrays)
    save("statistics.npz", **{name: arrays[name] for name in ("mu", "sigma")})
    np.savez("images.npz", images[::2], fashion_images[1][::2].numpy())
    Places.seen = 0
    return {"whole": whole, **arrays}


def scores(reference: str, names: list[str], **options: Any) -> dict[str, Any]:
    config = Evaluation(images="samples.npz", reference=reference, scores=names, output="s.json", **options)
    assert evaluate(config)
    return json.loads(Path("s.json").read_text())["images"]


def test_frechet_distances_are_to_the_statistics_and_the_rest_is_of_the_images(files: dict[str, Any]) -> None:
    names = ["fid", "sfid", "kid", "precision", "recall", "class-accuracy", "mifid"]
    both = scores("reference.npz", names)
    whole = scores("whole.npz", ["fid", "sfid"])["scores"]
    images = scores("images.npz", ["fid", *names[2:-1]])["scores"]
    for name in ("fid", "sfid"):
        assert both["scores"][name]["value"] == pytest.approx(whole[name]["value"], rel=1e-6)
    assert both["scores"]["fid"]["value"] != pytest.approx(images["fid"]["value"], rel=1e-2)
    assert {name: both["scores"][name] for name in names[2:-1]} == {name: images[name] for name in names[2:-1]}
    assert both["protocol"]["reference"]["frechet_distances"] == "to the statistics in the same file"


def test_images_beside_statistics_are_only_read_where_they_are_needed(files: dict[str, Any]) -> None:
    alone = scores("statistics.npz", ["fid"])["scores"]
    assert Places.seen == 200
    assert scores("reference.npz", ["fid"])["scores"] == alone
    assert Places.seen == 400
    with pytest.raises(InputError, match=r"save_reference is a, but reference\.npz is statistics already"):
        scores("reference.npz", ["fid"], save_reference="a")


def test_sfid_is_the_distance_of_the_features_of_places(files: dict[str, Any], tmp_path: Path) -> None:
    spatial = extract_features(open_images("samples.npz"), Places(), progress=False, with_spatial=True).spatial
    assert spatial is not None
    there = torch.from_numpy(files["mu_s"]), covariance_factor(torch.from_numpy(files["sigma_s"]))
    expected = float(frechet_distance(*there, *mean_and_factor(spatial)))
    assert scores("reference.npz", ["sfid"])["scores"]["sfid"]["value"] == pytest.approx(expected, rel=1e-9)
    assert scores("reference.npz", ["sfid"])["scores"]["sfid"]["score"] == "sFD[tiny]"
    line = scores("whole.npz", ["sfid"], save_reference=str(tmp_path / "saved"))["scores"]["sfid"]
    assert scores("saved", ["sfid"])["scores"]["sfid"] == line
    with pytest.raises(InputError, match=r"sfid needs spatial statistics, which the reference, statistics\.npz, does"):
        scores("statistics.npz", ["sfid"])
    with pytest.raises(InputError, match="extractor 'tiny' has no spatial features, which sfid needs; valid is incep"):
        extract_features(open_images("samples.npz"), Tiny(), progress=False, with_spatial=True)
    plain = extract_features(open_images("samples.npz"), Places(), progress=False)
    with pytest.raises(InputError, match="score sfid needs the spatial features of the images"):
        score_features(plain, plain, ["sfid"])


def test_classes_that_the_reference_lacks_are_refused_before_a_pass(files: dict[str, Any]) -> None:
    Path("named").mkdir()
    np.savez("named/a.npz", np.zeros((4, 28, 28, 3), np.uint8), np.array([0, 1, 0, 1]), class_names=["cat", "dog"])
    with pytest.raises(InputError, match="the reference has none of 0, 1"):
        scores("named/a.npz", ["class-accuracy"])
    assert Places.seen == 0


def test_statistics_that_are_not_finite_are_refused(files: dict[str, Any]) -> None:
    for name in ("mu", "sigma", "mu_s"):
        broken = {key: files[key].copy() for key in ("mu", "sigma", "mu_s", "sigma_s")}
        broken[name].flat[0] = np.nan
        np.savez("broken.npz", np.zeros((2, 4, 4, 3), np.uint8), **broken)
        for read in (ReferenceStatistics.load, ImageArchive):
            with pytest.raises(InputError, match=r"broken\.npz has values in .* that are not finite"):
                read("broken.npz")
