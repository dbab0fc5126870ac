"""How torchmetrics, torch-fidelity and pytorch-fid take features and distances, as their users would run them.

All find the same file of weights where they look for a download of their own: in torch hub's cache.
"""

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import scipy.linalg
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch_fidelity.defaults import DEFAULTS
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor, extract_featuresdict_from_input_id
from torchmetrics.image import fid as torchmetrics_fid
from torchvision.datasets.folder import pil_loader
from torchvision.transforms.functional import pil_to_tensor

from ..features.efficientnet import EfficientNetLite0
from ..features.extractor import Extractor
from ..features.registry import build_extractor

try:
    from pytorch_fid import fid_score
    from pytorch_fid import inception as pytorch_fid_inception
except ImportError:  # for development only
    fid_score = pytorch_fid_inception = None

_FILES = (Path(URL_INCEPTION_V3).name, "pt_inception-2015-12-05-6726825d.pth")  # torch-fidelity's and pytorch-fid's
_WORKERS = 2  # of torchmetrics' loader; torch-fidelity has 4 of its own, pytorch-fid's command one for every core

Statistics = tuple[Tensor, Tensor]


def write_random_inception(path: Path, seed: int = 0) -> None:
    """A file of random weights of Inception-v3 as torch-fidelity names them, in whose features images differ."""
    network = torchvision.models.inception_v3(weights=None, aux_logits=False, num_classes=1008, init_weights=False)
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, generator=generator)
    nn.init.normal_(network.fc.weight, std=0.2, generator=generator)
    torch.save(network.state_dict(), path)


@contextmanager
def hub_with(weights: Path, folder: Path) -> Iterator[None]:
    """Inside, `folder` is torch hub's cache, and holds these weights under the names that the peers look for."""
    (folder / "checkpoints").mkdir(parents=True)
    for name in _FILES:
        shutil.copyfile(weights, folder / "checkpoints" / name)
    before = torch.hub.get_dir()
    torch.hub.set_dir(folder)
    try:
        yield
    finally:
        torch.hub.set_dir(before)


# --- features: from a folder of PNG files to the mean feature vector (d,), network loaded anew ---


def torch_fidelity_features(folder: Path, network: str) -> Tensor:
    options = DEFAULTS | {"input1": str(folder), "cuda": False, "verbose": False, "cache": False}
    name, layer = ("inception-v3-compat", "2048") if network == "inception" else (_Ours.name_there, "features")
    if network != "inception" and name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(name, _Ours)
    extractor = create_feature_extractor(name, [layer], **options)
    return extract_featuresdict_from_input_id(1, extractor, **options)[layer].mean(dim=0)


def torchmetrics_features(folder: Path, network: str) -> Tensor:
    metric = torchmetrics_fid.FrechetInceptionDistance(2048 if network == "inception" else build_extractor(network))
    for images in DataLoader(_Pictures(folder), batch_size=64, num_workers=_WORKERS):
        metric.update(images, real=True)
    return metric.real_features_sum / metric.real_features_num_samples


def pytorch_fid_features(folder: Path, network: str) -> Tensor:
    assert fid_score is not None
    assert pytorch_fid_inception is not None
    model = pytorch_fid_inception.InceptionV3([pytorch_fid_inception.InceptionV3.BLOCK_INDEX_BY_DIM[2048]])
    files = sorted(folder.glob("*.png"))
    workers = torch.get_num_threads()
    return torch.from_numpy(fid_score.get_activations(files, model, 50, 2048, "cpu", workers)).mean(dim=0)


def feature_peers(network: str) -> dict[str, Callable[[Path, str], Tensor]]:
    """By name with batch size; pytorch-fid only for its own network, and where it is installed."""
    peers: dict[str, Callable[[Path, str], Tensor]] = {
        "torch-fidelity, batch 64": torch_fidelity_features,
        "torchmetrics, batch 64": torchmetrics_features,
    }
    if network == "inception" and fid_score is not None:
        peers["pytorch-fid, batch 50"] = pytorch_fid_features
    return {name: _quietly(peer) for name, peer in peers.items()}


class _Pictures(torch.utils.data.Dataset):
    """A loader's data set as a user of torchmetrics writes it."""

    def __init__(self, folder: Path):
        self.files = sorted(folder.glob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        return pil_to_tensor(pil_loader(str(self.files[index])))


class _Ours(FeatureExtractorBase):
    """EfficientNet-Lite0, the same module as ours, as torch-fidelity takes a network."""

    name_there = "wvq-efficientnet-lite0"

    def __init__(self, name: str, features_list: list[str], **options: Any):
        super().__init__(name, features_list)
        self.network: Extractor = EfficientNetLite0()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("features",)

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (self.network(images),)


# --- scores: from features (N, d), or their mean and covariance, to a number ---


def score_peers(
    real: Tensor, generated: Tensor, statistics: tuple[Statistics, Statistics]
) -> dict[tuple[str, str], Callable[[], object]]:
    """By (score, peer): what computes it. "distance" is the Fréchet distance of given means and covariances."""
    subset = min(1000, len(real), len(generated))
    (_, covariance), (_, other) = statistics
    arrays: list[dict[str, Any]] = [{"mu": m.numpy(), "sigma": c.numpy()} for m, c in statistics]
    options = DEFAULTS | {"kid_subset_size": subset, "verbose": False}

    def fid() -> object:
        return fid_statistics_to_metric(fid_features_to_statistics(generated), fid_features_to_statistics(real), False)

    peers: dict[tuple[str, str], Callable[[], object]] = {
        ("distance", "scipy.linalg.sqrtm"): lambda: scipy.linalg.sqrtm(covariance.numpy() @ other.numpy()),
        ("distance", "torch-fidelity"): lambda: fid_statistics_to_metric(arrays[0], arrays[1], False),
        ("distance", "torchmetrics"): lambda: torchmetrics_fid._compute_fid(*statistics[0], *statistics[1]),
        ("fid", "torch-fidelity"): fid,
        ("kid", "torch-fidelity"): lambda: kid_features_to_metric(generated, real, **options),
        ("is", "torch-fidelity"): lambda: isc_features_to_metric(generated[:, :1008]),
        ("precision", "torch-fidelity"): lambda: prc_features_to_metric(generated, real, **options),
    }
    if fid_score is not None:
        frechet = fid_score.calculate_frechet_distance
        peers["distance", "pytorch-fid"] = lambda: frechet(
            arrays[0]["mu"], arrays[0]["sigma"], arrays[1]["mu"], arrays[1]["sigma"]
        )
    return {name: _quietly(peer) for name, peer in peers.items()}


def _quietly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Without the peers' warnings: deprecated arguments of scipy, forks of processes with threads."""

    def quiet(*arguments: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return function(*arguments)

    return quiet
