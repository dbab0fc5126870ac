"""What GPUs can compute at most, for model FLOPs utilization.

Floating-point operations a second in dense matrix products, as NVIDIA's data sheets have them: A100 (June 2021), H100
(NVIDIA H100 Tensor Core GPU datasheet, and the PCIe card of the Hopper architecture's white paper), H200 (datasheet),
L4 and L40S (datasheets). Data sheets that give figures "with sparsity" have twice these.
"""

from typing import Literal

import torch

Precision = Literal["bfloat16", "tf32", "float32"]

PEAKS: dict[str, dict[Precision, float]] = {
    "H200 NVL": {"bfloat16": 835.5e12, "tf32": 417.5e12, "float32": 60e12},
    "H200": {"bfloat16": 989.5e12, "tf32": 494.5e12, "float32": 67e12},
    "H100 NVL": {"bfloat16": 835.5e12, "tf32": 417.5e12, "float32": 60e12},
    "H100 PCIe": {"bfloat16": 756e12, "tf32": 378e12, "float32": 51e12},
    "H100 80GB HBM3": {"bfloat16": 989.5e12, "tf32": 494.5e12, "float32": 67e12},
    "A100": {"bfloat16": 312e12, "tf32": 156e12, "float32": 19.5e12},
    "L40S": {"bfloat16": 362e12, "tf32": 183e12, "float32": 91.6e12},
    "L4": {"bfloat16": 121e12, "tf32": 60e12, "float32": 30.3e12},
}
"""By a part of the name that torch gives the device; the first that fits."""


def peak_flops(device_name: str, precision: Precision) -> float | None:
    """Floating-point operations a second of a device at most; None where that is not known."""
    words = device_name.removeprefix("NVIDIA ").replace("-", " ")
    for name, peaks in PEAKS.items():
        if f"{words} ".startswith(f"{name} "):
            return peaks[precision]
    return None


def matrix_precision(mixed_precision: str) -> Precision:
    """What matrix products of a training are rounded to on a GPU, as torch is set."""
    if mixed_precision == "bf16":
        return "bfloat16"
    return "float32" if torch.get_float32_matmul_precision() == "highest" else "tf32"
