"""Images that vanish or change while a run trains: the run stops, or replaces and names them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from image_files import OTHER, assert_labels_are_right, config_of

from wvq.tokenizer.data import dataset as data
from wvq.tokenizer.data.bad_images import read_bad_images
from wvq.tokenizer.data.batches import ShuffledBatches, training_loader
from wvq.tokenizer.data.dataset import load_splits, report_bad_images
from wvq.tokenizer.errors import InputError, plain_message


@pytest.fixture
def too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "IN_MEMORY_BYTES", 0)


@pytest.mark.usefixtures("too_large")
@pytest.mark.parametrize("damage", [Path.unlink, lambda path: OTHER.save(path)], ids=["vanished", "changed"])
def test_an_image_that_vanishes_or_changes_stops_training_or_is_replaced_and_named(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
):
    strict = load_splits(config_of(photos))
    splits = load_splits(config_of(photos, skip_bad_images=True))
    report_bad_images(tmp_path / "run", *splits)
    assert read_bad_images(tmp_path / "run") == []
    assert splits[0]._records is not None
    gone = Path(splits[0]._records.name(5))
    damage(gone)
    with pytest.raises(InputError, match=r"\.png is a bad image: (cannot be read: No such file|changed since it was)"):
        strict[0].__getitems__([4, 5, 6])
    for _ in range(3):
        batch = splits[0].__getitems__([4, 5, 6])
        assert (batch["images"][1] == batch["images"][2]).all()
        assert_labels_are_right(batch)
    (row,) = read_bad_images(tmp_path / "run")
    assert (row["name"], row["split"]) == (str(gone), "train")
    assert capsys.readouterr().err.count(str(gone)) == 1
    report_bad_images(tmp_path / "run", *load_splits(config_of(photos, skip_bad_images=True)))  # when the run goes on
    assert read_bad_images(tmp_path / "run") == [row]


@pytest.mark.usefixtures("too_large")
def test_an_evaluation_image_that_vanishes_stops_the_run(photos: Path, tmp_path: Path):
    splits = load_splits(config_of(photos, skip_bad_images=True))
    report_bad_images(tmp_path / "run", *splits)
    assert splits[1]._records is not None
    Path(splits[1]._records.name(0)).unlink()
    with pytest.raises(InputError, match="cannot be read: No such file"):
        list(splits[1].batches(8))


@pytest.mark.usefixtures("too_large")
def test_a_folder_that_vanishes_stops_the_run(photos: Path, tmp_path: Path):
    train, evaluation = load_splits(config_of(photos, skip_bad_images=True))
    report_bad_images(tmp_path / "run", train, evaluation)
    shutil.rmtree(photos)
    with pytest.raises(InputError, match=r"\.png and the 19 images after it cannot be used: cannot be read: No such"):
        train.__getitems__([0, 1])


@pytest.mark.usefixtures("too_large")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_name_what_vanishes(photos: Path, tmp_path: Path):
    train, evaluation = load_splits(config_of(photos, skip_bad_images=True))
    report_bad_images(tmp_path / "run", train, evaluation)
    assert train._records is not None
    gone = {train._records.name(index) for index in (3, 9, 20)}
    for name in gone:
        Path(name).unlink()
    loader = training_loader(train, ShuffledBatches(len(train), 7, 0, 12, seed=0), num_workers=2)
    for batch in loader:
        assert_labels_are_right(batch)
    rows = read_bad_images(tmp_path / "run")
    assert {row["name"] for row in rows} == gone
    assert len(rows) <= 2 * len(gone)


@pytest.mark.usefixtures("too_large")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_message_of_a_worker_process_is_one_line(photos: Path):
    train, _ = load_splits(config_of(photos))
    assert train._records is not None
    gone = train._records.name(0)
    Path(gone).unlink()
    loader = training_loader(train, ShuffledBatches(len(train), len(train), 0, 1, seed=0), num_workers=1)
    with pytest.raises(InputError, match="Traceback") as stopped:
        list(loader)
    assert plain_message(stopped.value).startswith(f"{gone} is a bad image: cannot be read: No such file")
    assert plain_message(InputError("steps is 0")) == "steps is 0"
