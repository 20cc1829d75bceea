from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import tiny_model
from PIL import Image
from search_helpers import COLOURS, ColourEncoder, flat, write_folder

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.errors import UserError
from llave_hf.model.media_llave import MediaError
from llave_hf.search import Collection
from llave_hf.search.collection import FOLDER_NAME
from llave_hf.search.store import Store

pytest.importorskip("lancedb", reason="pip install 'llave-hf[search]'")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "root")


@pytest.fixture
def opened(root: Path) -> Callable[[], Collection]:
    """Opens the collection inside the folder with a new encoder, as another process would."""
    return lambda: Collection.open(root / FOLDER_NAME, ColourEncoder())


def names(collection: Collection, *query: object, **filters: object) -> list[str]:
    return [hit.name for hit in collection.search(*query, **filters)]  # type: ignore[arg-type]


def encoded(collection: Collection) -> list[str]:
    return sorted(collection.embedder.encoder.files)


def test_a_folder_is_found_by_its_content(root: Path, opened: Callable[[], Collection]) -> None:
    collection = opened()
    report = collection.add(root)
    assert (report.added, report.rows, report.approximate) == (5, 6, False)
    assert list(report.broken) == ["broken.png"] and "no readable picture" in report.broken["broken.png"]
    assert collection.counts() == {"image": 3, "video": 1, "text": 2}
    assert collection.folders() == ["it's"]
    hits = collection.search("something green", k=6)
    assert [hit.kind for hit in hits] == [hit.kind for hit in sorted(hits, key=lambda hit: -hit.score)]
    assert {hits[0].name, hits[1].name} == {"it's/green.png", "notes.md"}
    passage = next(hit for hit in hits if hit.kind == "text")
    assert (passage.text or "").startswith("The green wood.")
    assert (root / "notes.md").read_text()[passage.start : passage.end] == passage.text
    assert all(hit.is_there and hit.path == root / hit.name for hit in hits)


def test_scores_are_cosines(root: Path, opened: Callable[[], Collection]) -> None:
    collection = opened()
    collection.add(root)
    query = collection.embedder.vectors(["something red"])[0]
    for hit in collection.search("something red", kind=["image", "video"]):
        document = collection.embedder.vectors([{hit.kind: str(hit.path)}])[0]
        assert hit.score == pytest.approx(float(query @ document), abs=1e-5)


def test_pictures_find_themselves_and_words_change_them(root: Path, opened: Callable[[], Collection]) -> None:
    collection = opened()
    collection.add(root)
    for query in (root / "red.png", Image.new("RGB", (20, 20), COLOURS["red"])):
        best = collection.search(image=query, k=1)[0]
        assert best.name == "red.png" and best.score == pytest.approx(1, abs=1e-5)
    with pytest.raises(MediaError, match=r"broken\.png is no readable picture"):
        collection.search(image=root / "broken.png")
    with pytest.raises(UserError, match="nothing is asked"):
        collection.search("  ")


def test_filters_keep_what_they_say(root: Path, opened: Callable[[], Collection]) -> None:
    collection = opened()
    collection.add(root)
    assert names(collection, "blue", kind="video") == ["grey.mp4"]
    assert set(names(collection, "red", folder="it's")) == {"it's/green.png", "it's/deep/blue.jpg"}
    assert names(collection, "red", folder="deep") == ["it's/deep/blue.jpg"]
    assert names(collection, "red", folder="s/deep") == []  # no part of a name
    assert names(collection, "red", folder="x' OR '1'='1") == []
    old = datetime(2020, 5, 5, 12).timestamp()
    os.utime(root / "red.png", (old, old))
    collection.add(root)
    assert names(collection, "red", until="2020-05-05") == ["red.png"]
    assert "red.png" not in names(collection, "red", since="2020-05-06")
    hit = collection.search("red", until="2020-05-05")[0]
    assert abs(hit.modified.replace(tzinfo=None) - datetime(2020, 5, 5, 12)) < timedelta(seconds=1)


def test_what_is_unchanged_is_not_read_again(root: Path, opened: Callable[[], Collection]) -> None:
    opened().add(root)
    again = opened()
    report = again.add(root)
    assert (report.unchanged, report.added, report.removed) == (5, 0, 0)
    assert list(report.broken) == ["broken.png"]  # it is still said
    assert "embedder" in vars(again) and not encoded(again)
    os.utime(root / "red.png")
    assert opened().add(root).unchanged == 5


def test_no_model_is_loaded_for_nothing(root: Path, opened: Callable[[], Collection]) -> None:
    opened().add(root)
    plain = Collection.open(root)  # the recorded model, "an encoder", could not be loaded
    assert plain.add(root).unchanged == 5


def test_moved_copied_changed_and_deleted_files_are_noticed(root: Path, opened: Callable[[], Collection]) -> None:
    opened().add(root)
    (root / "it's/green.png").rename(root / "moved.png")
    for name in ("copy.mp4", "second.mp4"):
        shutil.copyfile(root / "grey.mp4", root / name)
    flat(root / "red.png", "blue", size=21)
    (root / "it's/deep/blue.jpg").unlink()
    collection = opened()
    report = collection.add(root)
    assert (report.moved, report.copied, report.changed, report.removed, report.unchanged) == (1, 2, 1, 1, 2)
    assert encoded(collection) == ["red.png"]
    pictures = [(hit.name, round(hit.score, 2)) for hit in collection.search("blue", kind="image")]
    assert [name for name, _ in pictures] == ["red.png", "moved.png"]
    assert set(names(collection, "red", kind="video")) == {"grey.mp4", "copy.mp4", "second.mp4"}


def test_a_text_that_shrinks_loses_its_passages(root: Path, opened: Callable[[], Collection]) -> None:
    opened().add(root)
    (root / "notes.md").write_text("One red line.")
    collection = opened()
    collection.add(root)
    assert [hit.text for hit in collection.search("red", kind="text")] == ["One red line."]


def test_broken_files_are_named_and_tried_when_they_change(root: Path, opened: Callable[[], Collection]) -> None:
    (root / "cut.mp4").write_bytes((root / "grey.mp4").read_bytes()[:200])
    (root / "late.txt").write_bytes(b"\xff")
    report = opened().add(root)
    assert set(report.broken) == {"broken.png", "cut.mp4", "late.txt"}
    assert report.added == 5
    flat(root / "broken.png", "green", size=21)
    (root / "cut.mp4").unlink()
    (root / "red.png").write_bytes(b"no more")
    collection = opened()
    report = collection.add(root)
    assert set(report.broken) == {"red.png", "late.txt"}
    assert "red.png" not in names(collection, "red", k=50)
    assert report.added == 1 and encoded(collection) == ["broken.png"]


def test_what_is_left_out_is_removed(root: Path, opened: Callable[[], Collection]) -> None:
    opened().add(root)
    report = opened().add(root, exclude=["it's"])
    assert (report.removed, report.unchanged) == (2, 3)


def test_a_killed_run_loses_one_chunk(
    root: Path, opened: Callable[[], Collection], monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(20):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(root / f"{number:02}.png")
    monkeypatch.setattr("llave_hf.search.indexing.FIRST_CHUNK", 4)
    monkeypatch.setattr("llave_hf.search.indexing.LARGEST_CHUNK", 4)
    killed = opened()
    encode, calls = killed.embedder.encoder.encode, []

    def dying(inputs: list, **options: object) -> np.ndarray:
        calls.append(inputs)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return encode(inputs, **options)

    monkeypatch.setattr(killed.embedder.encoder, "encode", dying)
    with pytest.raises(KeyboardInterrupt):
        killed.add(root)
    assert Store(killed.uri).counts("kind") == {"image": 12}
    collection = opened()
    assert collection.add(root).added == 25 - 12
    assert not {f"{number:02}.png" for number in range(12)} & set(encoded(collection))


def test_another_model_is_refused_and_rebuilds(root: Path, opened: Callable[[], Collection]) -> None:
    opened().add(root)
    with pytest.raises(UserError, match=r"made with the model an encoder.*cosine.*--rebuild"):
        Collection.open(root, ColourEncoder(seed=1))
    with pytest.raises(UserError, match="24 numbers instead of 16"):
        Collection.open(root, LlaveEncoder(*tiny_model()))
    with pytest.raises(UserError, match=r"made with the prompt query='\{text\}', not 'Find: \{text\}'"):
        Collection.open(root, ColourEncoder(), prompts={"query": "Find: "})
    other = Collection.open(root, ColourEncoder(seed=1), prompts={"query": "Find: "}, rebuild=True)
    assert other.counts() == {}
    other.add(root)
    assert Collection.open(root, ColourEncoder(seed=1)).prompts["query"] == "Find: {text}"


def test_where_there_is_nothing_a_model_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no collection at .*llave index FOLDER --model MODEL"):
        Collection.open(tmp_path)


def test_one_writer_at_a_time(root: Path, opened: Callable[[], Collection]) -> None:
    collection = opened()
    with Store(collection.uri).writing(), pytest.raises(UserError, match="another llave index is writing"):
        collection.add(root)
    assert collection.add(root).added == 5


def test_folder_and_collection_move_together(root: Path, opened: Callable[[], Collection], tmp_path: Path) -> None:
    opened().add(root)
    elsewhere = root.rename(tmp_path / "elsewhere")
    collection = Collection.open(elsewhere, ColourEncoder())
    assert all(hit.is_there for hit in collection.search("red"))
    assert collection.add(elsewhere).unchanged == 5


def test_a_collection_of_several_folders_knows_a_file_that_changes_folder(tmp_path: Path) -> None:
    flat(tmp_path / "a/red.png", "red")
    flat(tmp_path / "b/green.png", "green")
    collection = Collection.open(tmp_path / "db", ColourEncoder())
    for folder in "ab":
        collection.add(tmp_path / folder)
    (tmp_path / "a/red.png").rename(tmp_path / "b/red.png")
    report = collection.add(tmp_path / "b")
    assert (report.added, report.copied) == (0, 1)
    assert collection.add(tmp_path / "a").removed == 1
    assert [hit.path for hit in collection.search("red", k=5)] == [tmp_path / "b/red.png", tmp_path / "b/green.png"]


def test_an_object_store_is_used_alike(root: Path) -> None:
    """LanceDB's store in memory goes the way of `s3://`: no folder, no lock, no relative paths."""
    collection = Collection.open("memory://", ColourEncoder())
    assert collection.add(root).added == 5
    assert collection.search(image=root / "red.png")[0].path == root / "red.png"
    assert collection.add(root).unchanged == 5


def test_a_model_that_tells_bad_inputs_apart_is_asked_once(
    root: Path, tiny: tuple[LlaveModel, LlaveProcessor], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "it's/b.png", "z.jpg"):
        (root / name).write_bytes(b"no picture")
    encoder, calls = LlaveEncoder(*tiny), []

    @functools.wraps(LlaveEncoder.encode)
    def counted(inputs: list[Any], **options: Any) -> Any:
        calls.append(len(inputs))
        return LlaveEncoder.encode(encoder, inputs, **options)

    monkeypatch.setattr(encoder, "encode", counted)
    collection = Collection.open(root, encoder)
    probes = len(calls)
    report = collection.add(root, progress=False)
    assert set(report.broken) == {"broken.png", "a.png", "it's/b.png", "z.jpg"}
    assert report.broken["z.jpg"].startswith(f"{root / 'z.jpg'} is no readable picture")
    assert (report.added, report.rows, len(calls) - probes) == (5, 6, 1)
    # What an encoder that does not tell gives by halves is the same.
    vectors, reasons = collection.embedder._halved(["a text", {"image": str(root / "z.jpg")}, "more"], 0, False)
    made, told = collection.embedder.usable(["a text", {"image": str(root / "z.jpg")}, "more"])
    assert reasons == told and list(told) == [1] and made[1] is vectors[1] is None
    assert all(np.allclose(made[place], vectors[place], atol=1e-6) for place in (0, 2))


def test_a_llave_model_searches_pictures_videos_and_texts(root: Path) -> None:
    collection = Collection.open(root / FOLDER_NAME, LlaveEncoder(*tiny_model()))
    report = collection.add(root)
    assert (report.added, list(report.broken)) == (5, ["broken.png"])
    assert report.broken["broken.png"].startswith(str(root / "broken.png"))  # no place in a list
    best = collection.search(image=root / "it's/green.png", k=1)[0]
    assert best.name == "it's/green.png" and best.score == pytest.approx(1, abs=1e-4)
