"""What is in a .wandb file, which wandb writes where it is offline: protobuf records in blocks, as in LevelDB's log."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_HEADER, _BLOCK, _RECORD_HEADER = 7, 32768, 7
_FULL, _LAST = 1, 4


def run_ids(file: Path) -> set[str]:
    """Ids of the runs in the file."""
    return {record.run.run_id for record in _records(file) if record.WhichOneof("record_type") == "run"}


def histories(file: Path) -> list[dict[str, Any]]:
    """What was logged, a dictionary a step; what is nested is under names like evaluation/code_usage/values."""
    rows = [record.history for record in _records(file) if record.WhichOneof("record_type") == "history"]
    return [{"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item} for row in rows]


def _records(file: Path) -> Iterator[Any]:
    from wandb.proto import wandb_internal_pb2

    record: Any = vars(wandb_internal_pb2)["Record"]  # made when it is imported
    content, position, parts = file.read_bytes(), _HEADER, b""
    while position + _RECORD_HEADER <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD_HEADER:  # filled with zeros
            position += left
            continue
        size, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        position += _RECORD_HEADER + size
        parts += content[position - size : position]
        if kind in (_FULL, _LAST):
            yield record.FromString(parts)
            parts = b""
