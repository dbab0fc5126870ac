"""The same weights and images through torch-fidelity's own command, and pytorch-fid, must give the same scores."""

import warnings
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch_fidelity
from fixtures import ImageTensor
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from wvq.eval import Extractor, FeatureSet, build_extractor, extract_features, score_features
from wvq.eval.benchmarks.peers import write_random_inception
from wvq.eval.metrics.frechet import frechet_distance, mean_and_factor
from wvq.tokenizer.data.config import DataConfig
from wvq.tokenizer.data.dataset import load_splits
from wvq.tokenizer.errors import InputError


class Images(Dataset):
    """Images as torch-fidelity takes them, one by one and in RGB."""

    def __init__(self, images: Tensor):
        self.images = images.expand(-1, 3, -1, -1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def projected(images: Tensor, size: int = 24) -> Tensor:
    """Features that are nearly free: random projections of the pixels, after a bend."""
    weight = torch.randn(3 * 28 * 28, size, generator=torch.Generator().manual_seed(0)) / 28
    return (images.flatten(1).float() / 64 @ weight).relu()


class Theirs(FeatureExtractorBase):
    """The projection as torch-fidelity wants an extractor."""

    def __init__(self, name: str, features_list: list[str], **kwargs: Any):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return ("projected",)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "projected"

    @staticmethod
    def can_be_compiled() -> bool:
        return False

    def forward(self, images: Tensor) -> tuple[Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return (projected(images),)


class Ours(Extractor):
    """The same as ours."""

    name = "projection"
    dimension: ClassVar[int] = 24
    input_size = 28
    resize = "none"
    weights_sha256 = "0" * 64

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def features(self, images: Tensor) -> Tensor:
        return projected(images)

    def logits(self, features: Tensor) -> Tensor:
        return features


def their_scores(generated: Images, real: Images, **options: Any) -> dict[str, float]:
    metrics = torch_fidelity.calculate_metrics(
        input1=generated, input2=real, fid=True, kid=True, isc=True, prc=True, cuda=False, verbose=False, cache=False,
        save_cpu_ram=True, **options,
    )  # fmt: skip
    names = {"fid": "frechet_inception_distance", "kid": "kernel_inception_distance_mean", "is": "inception_score_mean"}
    return {ours: metrics[theirs] for ours, theirs in (names | {"precision": "precision", "recall": "recall"}).items()}


def our_scores(generated: FeatureSet, real: FeatureSet) -> dict[str, float]:
    results = score_features(real, generated, ["fid", "kid", "is", "precision", "recall"], allow_few_images=True)
    return {name: result["value"] for name, result in results.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of Inception in torch-fidelity's format, spread so that classes and features differ."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    write_random_inception(path)
    return path


def test_scores_of_600_real_images_equal_its_command(fashion_images: tuple[Tensor, Tensor]) -> None:
    torch_fidelity.register_feature_extractor("projection-of-the-tests", Theirs)
    images = fashion_images[0][torch.randperm(600, generator=torch.Generator().manual_seed(0))]
    real, generated = Images(images[:320]), Images(255 - (0.9 * (255 - images[280:].float())).byte())
    theirs = their_scores(generated, real, feature_extractor="projection-of-the-tests", kid_subset_size=320)
    sides = [
        extract_features(ImageTensor(x.images), Ours(), with_logits=True, progress=False) for x in (generated, real)
    ]
    assert our_scores(*sides) == pytest.approx(theirs, rel=1e-3)
    assert 0 < theirs["recall"] < 1, "the comparison would say nothing"
    assert theirs["is"] > 1.01


def test_inception_features_and_classes_equal_its_own(weights: Path, fashion_images: tuple[Tensor, Tensor]) -> None:
    network = FeatureExtractorInceptionV3(
        "theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights)
    )
    images = fashion_images[0][::75].expand(-1, 3, -1, -1)
    with torch.no_grad():
        features, logits = network(images)
    ours = extract_features(
        ImageTensor(images), build_extractor("inception", weights), with_logits=True, progress=False
    )
    assert ours.logits is not None
    for mine, theirs in ((ours.vectors, features), (ours.logits, logits)):
        assert (mine - theirs).norm() < 1e-4 * theirs.norm()
        assert theirs.std(dim=0).mean() > 1e-3 * theirs.abs().mean(), "the comparison would say nothing"


def test_only_networks_with_classes_have_an_inception_score(fashion_images: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(InputError, match="'efficientnet-lite0' has no classes"):
        extract_features(ImageTensor(fashion_images[0][:2]), build_extractor("efficientnet-lite0"), with_logits=True)


@pytest.mark.slow
def test_scores_of_2000_real_images_equal_its_command(weights: Path) -> None:
    _, evaluation = load_splits(DataConfig(channels=3))
    images = evaluation.__getitems__(range(2000))["images"]
    dimmed = (0.9 * images[1000:].float()).round().byte()
    real, generated = Images(images[:1000]), Images(dimmed)
    # Its precision and recall would otherwise be of VGG-16.
    options = {"feature_extractor": "inception-v3-compat", "feature_layer_prc": "2048"}
    theirs = their_scores(generated, real, feature_extractor_weights_path=str(weights), **options)
    extractor = build_extractor("inception", weights)
    sides = [
        extract_features(ImageTensor(x.images), extractor, with_logits=True, progress=False) for x in (generated, real)
    ]
    assert our_scores(*sides) == pytest.approx(theirs, rel=1e-3)
    assert 0 < theirs["recall"] < 1, "the comparison would say nothing"


@pytest.mark.slow
def test_the_distance_equals_that_of_pytorch_fid(
    weights: Path, fashion_images: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    # At 299 pixels neither resizes. pytorch-fid maps 0..255 to -1..1, torch-fidelity and TensorFlow's FID to
    # -1..127/128, so pytorch-fid is given pixels that come out the same.
    inception = pytest.importorskip("pytorch_fid.inception")
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: torch.load(weights, weights_only=True))
    network = inception.InceptionV3(normalize_input=False).eval()
    images = nn.functional.interpolate(fashion_images[0][::6].float(), (299, 299), mode="bicubic").clamp(0, 255)
    sides = [Images(x.round().byte()) for x in (images[:50], images[50:])]
    ours = [
        extract_features(ImageTensor(x.images), build_extractor("inception", weights), progress=False).vectors
        for x in sides
    ]
    with torch.no_grad():
        theirs = [
            torch.cat([network((x.float() - 128) / 128)[0].flatten(1) for x in side.images.split(8)]) for side in sides
        ]
    for mine, other in zip(ours, theirs, strict=True):
        assert (mine - other).norm() < 1e-4 * other.norm()
    statistics = [(x.double().mean(dim=0).numpy(), np.cov(x.double().numpy(), rowvar=False)) for x in theirs]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of how it calls sqrtm and of fewer images than dimensions
        expected = fid_score.calculate_frechet_distance(*statistics[0], *statistics[1])
    assert float(frechet_distance(*mean_and_factor(ours[0]), *mean_and_factor(ours[1]))) == pytest.approx(
        expected, rel=1e-3
    )
