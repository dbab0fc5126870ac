"""The 600 Fashion-MNIST images of tests/fashion_mnist_600: one sheet per class, ten tiles wide, in order."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SHEETS = Path(__file__).parent / "fashion_mnist_600"
CLASS_FOLDERS = (
    "T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def read_fashion_images() -> tuple[Tensor, Tensor]:
    """Images (600, 1, 28, 28) uint8 and labels (600,) int64, class after class."""
    images = []
    for label in range(10):
        sheet = np.array(Image.open(SHEETS / f"{label}.png"))
        images.append(sheet.reshape(6, 28, 10, 28).swapaxes(1, 2).reshape(60, 1, 28, 28))
    return torch.from_numpy(np.concatenate(images)), torch.arange(10).repeat_interleave(60)


def write_fashion_folder(folder: Path) -> None:
    """The first 50 images of a class into train/CLASS, the other 10 into evaluation/CLASS, as grey PNG."""
    images, labels = read_fashion_images()
    for index, (image, label) in enumerate(zip(images, labels, strict=True)):
        split = "train" if index % 60 < 50 else "evaluation"
        file = folder / split / CLASS_FOLDERS[int(label)] / f"{index % 60:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(file)


class ImageTensor:
    """Images (N, C, H, W), uint8 or float, as a source of `extract_features`."""

    def __init__(self, images: Tensor):
        self.images = images
        self.description: dict[str, Any] = {"source": "here"}

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        return {"images": self.images[list(indices)]}
