"""The notebooks run from their first cell to their last, with a budget for tests, and are committed without outputs."""

from pathlib import Path

import nbformat
import pytest
from executed_notebooks import NOTEBOOKS, execute

MORE_CODES = "assert usage['wasserstein']['utilization'] > usage['vanilla']['utilization'] + {margin}"


@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_are_committed_without_outputs(notebook: Path) -> None:
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    assert cells
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_a_folder_of_ones_own_becomes_samples(fashion_folder: Path, tmp_path: Path) -> None:
    check = "assert (samples.shape, samples.dtype) == ((120, 3, 32, 32), torch.uint8)"
    budget = {"tokenizer_steps": 6, "prior_steps": 4}
    printed = execute("own_images", tmp_path, check, images=str(fashion_folder), **budget)
    assert any("500 images to train on, 100 held out" in text for text in printed)
    assert (tmp_path / "runs/notebook/prior/pipeline/model_index.json").is_file()


def test_a_quantizer_in_another_autoencoder(tmp_path: Path) -> None:
    printed = execute("your_autoencoder", tmp_path, MORE_CODES.format(margin=0.1), steps=30, codebook_size=256)
    assert any("wasserstein  utilization" in text for text in printed)


@pytest.mark.slow
def test_shapes_become_samples(tmp_path: Path) -> None:
    check = "assert evaluation.class_names == ('disc', 'square', 'triangle') and samples.shape[0] == 36"
    execute("own_images", tmp_path, check, tokenizer_steps=200, prior_steps=40)


@pytest.mark.slow
def test_another_autoencoder_with_the_whole_budget(tmp_path: Path) -> None:
    execute("your_autoencoder", tmp_path, MORE_CODES.format(margin=0.3))
