"""What a score may be called: one place decides, for lines, JSON, tables and figures alike."""

from collections.abc import Mapping
from typing import Any

INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
"""sha256 of the weights behind every published FID, converted from TensorFlow's inception-2015-12-05."""


def score_label(label: str, extractor: Mapping[str, Any]) -> str:
    """A published name ("FID", "rFID", "KID") as it is only with Inception's standard weights.

    With any other weights, whatever the extractor is called, the extractor's name stands beside it and FID and KID
    become FD and KD: "FD[efficientnet-lite0]", "rFD[inception]".

    Args:
        label: the published name.
        extractor: its protocol; without `weights_sha256` the weights count as others.
    """
    if extractor.get("weights_sha256") == INCEPTION_SHA256:
        return label
    return f"{label.replace('FID', 'FD').replace('KID', 'KD')}[{extractor['name']}]"
