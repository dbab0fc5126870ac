"""Data sets that are known by name: read where they lie or from the hub, and checked to be what was published."""

from . import cifar10, fashion_mnist

READERS = {"fashion-mnist": fashion_mnist.read_fashion_mnist, "cifar-10": cifar10.read_cifar10}
HUB_NAMES = {"fashion-mnist": fashion_mnist.HUB_NAME, "cifar-10": cifar10.HUB_NAME}

__all__ = ["HUB_NAMES", "READERS"]
