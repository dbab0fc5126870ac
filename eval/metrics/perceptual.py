"""LPIPS: how far apart two images are in the features of a classifier (arXiv 1801.03924).

torchmetrics' own class downloads the backbone; its private network, `_LPIPS`, takes weights that are there.
"""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torchmetrics.functional.image import lpips

from wvq.tokenizer.errors import InputError

from .image_quality import check_pairs

_BACKBONES = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth"}


class PerceptualSimilarity(nn.Module):
    """LPIPS (arXiv 1801.03924): (originals, reconstructions), uint8 (N, 1 or 3, H, W) each -> distances (N,).

    The linear weights come with torchmetrics; the backbone's are torchvision's ImageNet weights, never downloaded.

    Args:
        network: backbone, "alex" as evaluations use or "vgg".
        weights: torchvision's file of the backbone (alexnet-owt-7be5be79.pth or vgg16-397923af.pth); torch hub's cache
            is searched without it.

    Raises:
        InputError: for another network, and weights that are missing or do not fit.
    """

    def __init__(self, network: Literal["alex", "vgg"] = "alex", weights: str | Path | None = None):
        super().__init__()
        if network not in _BACKBONES:
            raise InputError(f"network is '{network}'; valid are {', '.join(_BACKBONES)}")
        path = Path(weights or Path(torch.hub.get_dir(), "checkpoints", _BACKBONES[network]))
        if not path.is_file():
            raise InputError(
                f"LPIPS found no weights of {network} at {path}; pass weights=FILE, which is "
                f"https://download.pytorch.org/models/{_BACKBONES[network]}"
            )
        content = path.read_bytes()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torchvision\.")
            self.model: Any = lpips._LPIPS(net=network, pnet_rand=True)
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            names = {name: "features." + name.split(".", 1)[1] for name in self.model.net.state_dict()}
            self.model.net.load_state_dict({name: state[theirs] for name, theirs in names.items()})
        except Exception as error:  # the unpickler raises a dozen unrelated types on damaged bytes
            raise InputError(f"{path} does not hold torchvision's weights of {network}") from error
        self.protocol = {
            "name": f"lpips-{network}",
            "version": "0.1",
            "weights_sha256": hashlib.sha256(content).hexdigest(),
        }
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever is asked for."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, originals: Tensor, reconstructions: Tensor) -> Tensor:
        check_pairs(originals, reconstructions)
        a, b = (x.expand(-1, 3, -1, -1).float() / 127.5 - 1 for x in (originals, reconstructions))
        return self.model(a, b).flatten()
