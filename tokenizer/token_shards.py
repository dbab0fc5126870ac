"""Shards of tokens: Parquet files, as any reader of tables takes them, whose numbers can be memory-mapped as well.

A shard is one row group without compression or dictionary, and each column one page of plain values, so that the tokens
(N, T), int32, and the labels (N,), int64, lie in the file as in memory. Where they start stands in the index.
"""

import hashlib
import io
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import InputError
from .storage.untrusted import file_inside

MOST_ROWS = 20_000  # that Arrow writes to a page by itself
MOST_BYTES = 2**30  # of the tokens of a shard; a page has less than 2 GiB

Arrays = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]


def shard_content(tokens: npt.NDArray[np.int32], labels: npt.NDArray[np.int64]) -> bytes:
    """The file of tokens (N, T) and labels (N,), both in C order: the same bytes for the same numbers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    item = pa.field("element", pa.int32(), nullable=False)
    schema = pa.schema(
        [
            pa.field("tokens", pa.list_(item, tokens.shape[1]), nullable=False),
            pa.field("label", pa.int64(), nullable=False),
        ]
    )
    rows = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), type=schema.field("tokens").type)
    file = io.BytesIO()
    pq.write_table(
        pa.table([rows, pa.array(labels)], schema=schema),
        file,
        row_group_size=len(tokens),
        compression="none",
        use_dictionary=False,
        data_page_size=2 * MOST_BYTES - 1,
    )
    return file.getvalue()


def describe_shard(path: Path) -> dict[str, Any]:
    """What the index says of a shard: "file", "rows", "sha256", and where in it "tokens" and "labels" start, in bytes.

    The file is read as a table, so it is known to be one.
    """
    import pyarrow.parquet as pq

    content = path.read_bytes()
    table = pq.read_table(io.BytesIO(content))
    tokens, labels = table["tokens"].combine_chunks().flatten(), table["label"]
    starts = {
        name: content.index(values.to_numpy().tobytes()) for name, values in (("tokens", tokens), ("labels", labels))
    }
    return {"file": path.name, "rows": len(table), "sha256": hashlib.sha256(content).hexdigest()} | starts


def map_shard(folder: Path, about: dict[str, Any], num_tokens: int) -> Arrays:
    """Tokens (N, T) and labels (N,) of a shard, memory-mapped and read-only.

    Args:
        folder: of the shard.
        about: what the index says of it.
        num_tokens: T.

    Raises:
        InputError: for a file that is missing, lies elsewhere, or is not what the index says.
    """
    try:
        path, rows = file_inside(folder, about["file"]), int(about["rows"])
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        tokens = np.frombuffer(mapped, "<i4", rows * num_tokens, about["tokens"])
        return tokens.reshape(rows, num_tokens), np.frombuffer(mapped, "<i8", rows, about["labels"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder} has no shard {about}: {error}") from error
