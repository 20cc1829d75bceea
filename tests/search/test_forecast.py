"""What `llave index` says before it starts, and how little it encodes to know a model again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import picture, tiny_model
from search_helpers import ColourEncoder, flat, write_folder

from llave_hf.data.media_files import list_files
from llave_hf.errors import UserError

pytest.importorskip("lancedb", reason="pip install 'llave-hf[search]'")

from llave_hf.search import Collection
from llave_hf.search.collection import FOLDER_NAME
from llave_hf.search.forecast import Forecast, spoken


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "root")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 second"),
        (40.4, "40 seconds"),
        (700, "12 minutes"),
        (3.5 * 3600, "3.5 hours"),
        (50 * 3600, "2.1 days"),
    ],
)
def test_times_are_said_as_roughly_as_they_are_known(seconds: float, words: str) -> None:
    assert spoken(seconds) == words


def test_each_kind_counts_by_its_own_measure(tmp_path: Path) -> None:
    """Pictures by the tokens of their size, texts by bytes, videos each alike."""
    for number in range(6):
        picture(20, 20, seed=number).save(tmp_path / f"small{number}.png")
    picture(2000, 2000, mode="L").save(tmp_path / "large.png")
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text("x" * 100 * (number + 1))
    _, processor = tiny_model()
    forecast = Forecast(tmp_path, list_files(tmp_path).files, processor)
    assert forecast.contents() == "7 pictures, 5 texts"
    text = forecast.candidates["text"][0]
    assert text.size == 300
    seconds = forecast.seconds({"text": (text, 3.01)})
    assert seconds == pytest.approx(4 * 3.01)
    small = next(file for file in list_files(tmp_path).files if file.path == "small0.png")
    large = next(file for file in list_files(tmp_path).files if file.path == "large.png")
    assert forecast.seconds({"image": (small, 1.0)}) > 6.5  # the others hold one that takes longer
    assert forecast.seconds({"image": (large, 1.0)}) < 5.5
    alike = Forecast(tmp_path, list_files(tmp_path).files)
    assert alike.seconds({"image": (large, 1.0)}) == 6


def test_the_estimate_comes_before_the_work(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]

    class Slow(ColourEncoder):
        """Each picture takes 30 s, anything else none."""

        def encode(self, inputs: list[Any], show_progress_bar: bool = False) -> np.ndarray:
            clock[0] += 30 * sum("image" in entry for entry in inputs if isinstance(entry, dict))
            return super().encode(inputs, show_progress_bar)

    for number in range(6):
        flat(root / f"more{number}.png", "red", size=21 + number)
    monkeypatch.setattr("llave_hf.search.indexing.time.monotonic", lambda: clock[0])
    encoder = Slow()
    report = Collection.open(root / FOLDER_NAME, encoder).add(root, progress=True)
    error = capsys.readouterr().err
    assert "To index: 10 pictures, 1 video, 1 text. A few of each kind are timed first." in error
    assert error.index("To index") < error.index("will take about") < error.index("Indexing:")
    found = re.search(r"The other (\d+) will take about (\d+) minutes on this machine", error)
    # one of the nine is broken, and equal ones are not encoded again, which nobody can know before
    assert found is not None and (int(found[1]), int(found[2])) == (9, 4)
    assert report.added == 11 and len(encoder.files) == len(set(encoder.files))
    assert set(report.broken) == {"broken.png"}


def test_many_quick_files_are_timed_in_a_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each call takes a second, whatever it holds, and each picture a hundredth: the first alone would mislead."""
    clock = [0.0]

    class Quick(ColourEncoder):
        def encode(self, inputs: list[Any], show_progress_bar: bool = False) -> np.ndarray:
            clock[0] += 1 + 0.01 * len(inputs)
            return super().encode(inputs, show_progress_bar)

    for number in range(400):
        flat(tmp_path / f"{number}.png", "red", size=20 + number)
    monkeypatch.setattr("llave_hf.search.indexing.time.monotonic", lambda: clock[0])
    report = Collection.open(tmp_path / FOLDER_NAME, Quick()).add(tmp_path, progress=True)
    found = re.search(r"The other (\d+) will take about (\d+) seconds", capsys.readouterr().err)
    assert found is not None and int(found[1]) == 400 - 1 - 16
    assert int(found[2]) < 60
    assert report.added == 400


def test_a_broken_file_is_not_what_is_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "b.png").write_bytes(b"x" * 300)
    flat(tmp_path / "a.png", "red", size=3)
    flat(tmp_path / "c.png", "green", size=400)
    report = Collection.open(tmp_path / FOLDER_NAME, ColourEncoder()).add(tmp_path, progress=True)
    assert report.added == 2 and set(report.broken) == {"b.png"}
    assert "The other 1 will take about" in capsys.readouterr().err


def test_a_text_query_encodes_no_picture(root: Path) -> None:
    Collection.open(root / FOLDER_NAME, ColourEncoder()).add(root)
    encoder = ColourEncoder()
    collection = Collection.open(root, encoder)
    assert collection.search("red", kind="image", k=1)[0].name == "red.png"
    assert all(isinstance(entry, str) for entry in encoder.calls)
    collection.search(image=root / "red.png", k=1)
    collection.search(image=root / "it's/green.png", k=1)
    assert sum(isinstance(entry, dict) for entry in encoder.calls) == 3  # one of them is the probe's


class OtherTower(ColourEncoder):
    """The texts of the first model, and other pictures."""

    def _vector(self, entry: Any) -> np.ndarray:
        vector = super()._vector(entry)
        return vector if isinstance(entry, str) else vector[::-1]


@pytest.mark.parametrize("progress", [False, True])
def test_another_vision_tower_is_refused_and_no_file_blamed(progress: bool, root: Path) -> None:
    Collection.open(root / FOLDER_NAME, ColourEncoder()).add(root)
    flat(root / "new.png", "red", size=33)
    flat(root / "newer.png", "blue", size=34)
    other = Collection.open(root, OtherTower())
    with pytest.raises(UserError, match=r"is another: the cosine"):
        other.add(root, progress=progress)
    with pytest.raises(UserError, match=r"is another: the cosine"):  # and again, not only once
        other.add(root, progress=progress)
    report = Collection.open(root, ColourEncoder()).add(root)
    assert report.added == 2 and set(report.broken) == {"broken.png"}
