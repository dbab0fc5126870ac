"""Notebooks, executed as a reader would, with other values for the cell that is tagged `parameters`."""

from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = Path(__file__).parents[1] / "docs" / "notebooks"


def execute(name: str, folder: Path, check: str = "", **parameters: Any) -> list[str]:
    """What each code cell printed, of a notebook that runs in folder; check is code that runs after its last cell."""
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    (given,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    known = {line.partition(" = ")[0] for line in given.source.splitlines()}
    assert parameters.keys() <= known, f"{name} has no parameters {parameters.keys() - known}"
    given.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
    notebook.cells.append(nbformat.v4.new_code_cell(check))
    resources = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=600, resources=resources).execute()
    return [
        "".join(output.get("text", "") for output in cell.outputs if output.output_type == "stream")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
