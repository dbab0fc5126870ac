"""VGG16 and AlexNet with the weights of LPIPS (arXiv 1801.03924) and of ST-LPIPS (arXiv 2207.13686)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..storage.atomic import write_once
from ..storage.cache import writable_cache
from .backbone import Backbone
from .pickles import read_pickle

# The package and its file, or the file in torch hub's cache; then how its sha256 starts.
CLASSIFIERS = {
    "st-lpips-vgg16": ("stlpips_pytorch", "weights/vST0.0/vgg_shift_tolerant.pth", "44597da68f49c1837c100ff52299050f"),
    "st-lpips-alex": ("stlpips_pytorch", "weights/vST0.0/alex_shift_tolerant.pth", "b356b382f96010f77d085ee8343ecd9f"),
    "lpips-vgg16": ("", "vgg16-397923af.pth", "397923af"),
    "lpips-alex": ("", "alexnet-owt-7be5be79.pth", "7be5be79"),
}
_LINEAR = {  # LPIPS 0.1: the very files of the package lpips
    "lpips-vgg16": ("torchmetrics", "functional/image/lpips_models/vgg.pth", "a78928a0af1e5f0fcb1f3b9e8f8c3a2a"),
    "lpips-alex": ("torchmetrics", "functional/image/lpips_models/alex.pth", "df73285e35b22355a2df87cdb6b70b34"),
}
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # from [-1, 1] to what both networks were trained on


class Classifier(Backbone):
    """The five feature maps that LPIPS compares, each after its ReLU; tensors are in the order of their files.

    ST-LPIPS halves by a blur after pooling at stride 1, so that a shift by a pixel changes little.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, name: str):
        super().__init__()
        tolerant = name.startswith("st-")
        self.name = name
        self.register_buffer("shift", torch.empty(1, 3, 1, 1))
        self.register_buffer("scale", torch.empty(1, 3, 1, 1))

        def halved(width: int, window: int) -> list[nn.Module]:
            return [nn.MaxPool2d(window, 1), _Blur(width)] if tolerant else [nn.MaxPool2d(window, 2)]

        def convolved(before: int, width: int, kernel: int = 3) -> list[nn.Module]:
            return [nn.Conv2d(before, width, kernel, padding=kernel // 2), nn.ReLU()]

        if name.endswith("vgg16"):
            self.widths, self.least_side = (64, 128, 256, 512, 512), 18 if tolerant else 16
            stages, before = [], 3
            for width, count in zip(self.widths, (2, 2, 3, 3, 3), strict=True):
                stages.append(halved(before, 2) if stages else [])
                for _ in range(count):
                    stages[-1] += convolved(before, width)
                    before = width
        else:
            self.widths, self.least_side = (64, 192, 384, 256, 256), 21 if tolerant else 31
            first = [nn.Conv2d(3, 64, 11, 1, 2), _Blur(64)] if tolerant else [nn.Conv2d(3, 64, 11, 4, 2)]
            stages = [[*first, nn.ReLU()], halved(64, 3) + convolved(64, 192, 5), halved(192, 3) + convolved(192, 384)]
            stages += [convolved(384, 256), convolved(256, 256)]
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in self.widths)

    @property
    def linear(self) -> Sequence[Tensor]:
        return [head.get_parameter("weight") for head in self.heads]

    def forward(self, images: Tensor) -> list[Tensor]:
        if min(images.shape[-2:]) < self.least_side:
            raise InputError(
                f"images are {tuple(images.shape[-2:])}; {self.name} takes {self.least_side} pixels a side"
            )
        maps = [(images.expand(-1, 3, -1, -1) - self.shift) / self.scale]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class _Blur(nn.Module):
    """Every second pixel after the filter (1 2 1) / 4 in both directions; two mirrored pixels around the image."""

    kernel: Tensor

    def __init__(self, channels: int):
        super().__init__()
        self.register_buffer("kernel", torch.empty(channels, 1, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), self.kernel, stride=2, groups=x.shape[1])


def read_classifier(name: str, weights: str | Path | None = None) -> Classifier:
    """A network of `CLASSIFIERS`, frozen. Pickles are read once; safetensors of them are kept in torch hub's cache.

    Raises:
        InputError: for files that are missing, or others than those that the hashes are of.
    """
    with torch.device("meta"):
        network = Classifier(name)
    folder = writable_cache(Path(torch.hub.get_dir(), "wvq"))
    kept = [path.read_bytes() for path in folder.glob(f"{name}-*.safetensors") if weights is None]
    kept = [content for content in kept if (folder / _kept_as(name, content)).exists()]  # none that is damaged
    if not kept:
        tensors = read_pickle(name, *CLASSIFIERS[name], weights)
        if name in _LINEAR:
            normalisation = [torch.tensor(values, device="cpu").view(1, 3, 1, 1) for values in (_SHIFT, _SCALE)]
            features = [tensor for key, tensor in tensors.items() if key.startswith("features.")]
            tensors = [*normalisation, *features, *read_pickle(name, *_LINEAR[name]).values()]
        else:
            tensors = list(tensors.values())
        kept = [safetensors.torch.save(dict(zip(network.state_dict(), tensors, strict=True)))]
        write_once(folder / _kept_as(name, kept[0]), kept[0], folder)
    network.load_state_dict(safetensors.torch.load(kept[0]), assign=True)
    network.fingerprint = hashlib.sha256(kept[0]).hexdigest()
    # On a CPU convolutions in this layout take three quarters of the time.
    return network.requires_grad_(False).eval().to(memory_format=torch.channels_last)


def _kept_as(name: str, content: bytes) -> str:
    return f"{name}-{hashlib.sha256(content).hexdigest()}.safetensors"
