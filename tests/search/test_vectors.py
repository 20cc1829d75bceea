"""`llave index` of a folder that `llave embed` wrote: the same hits as by encoding, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import picture, tiny_model, write_video

from llave_hf import cli
from llave_hf.corpus.run import embed_corpus
from llave_hf.corpus.settings import EmbedSettings
from llave_hf.encoding.engine import EncodingEngine
from llave_hf.search import Collection

pytest.importorskip("lancedb", reason="pip install 'llave-hf[search]'")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    for part in tiny_model():
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(4):
        picture(30 + number, 24, seed=number).save(folder / f"{number}.png")
    write_video(folder / "clip.mp4", [20, 200])
    (folder / "note.txt").write_text("a dog in the snow")
    (folder / "broken.png").write_bytes(b"none")
    return folder


def embed(source: Path, model: Path, output: Path, **options: object) -> None:
    embed_corpus(EmbedSettings(source=str(source), model=str(model), output=str(output), **options))  # type: ignore[arg-type]


def test_vectors_are_found_as_if_they_had_been_indexed(
    photos: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is encoded but the fixed inputs by which a collection knows its model."""
    embed(photos, model, tmp_path / "vectors")
    encoded: list[object] = []
    real = EncodingEngine.encode
    monkeypatch.setattr(
        EncodingEngine, "encode", lambda self, inputs, *rest: encoded.extend(inputs) or real(self, inputs, *rest)
    )
    cli.main(["index", str(tmp_path / "vectors")])
    assert "broken.png: " in capsys.readouterr().out and not [entry for entry in encoded if str(photos) in str(entry)]
    collection = Collection.open(tmp_path / "vectors")
    assert collection.counts() == {"image": 4, "video": 1, "text": 1}
    indexed = Collection.open(tmp_path / "indexed", str(model))
    indexed.add(photos)
    for question in ({"text": "a dog"}, {"image": photos / "2.png"}):
        mine, theirs = ({hit.path: hit for hit in one.search(**question)} for one in (collection, indexed))
        assert set(mine) == set(theirs) and len(mine) == 6
        for path, hit in theirs.items():
            assert mine[path].score == pytest.approx(hit.score, abs=1e-5)
            assert (mine[path].kind, mine[path].text, mine[path].is_there) == (hit.kind, hit.text, True)
    cli.main(["index", str(tmp_path / "vectors")])  # once more: the same rows in place of themselves
    assert collection.counts() == Collection.open(tmp_path / "vectors").counts()


def test_rows_of_texts_and_of_pictures_inside_tables(model: Path, tmp_path: Path) -> None:
    rows = [{"title": f"number {row}", "body": "a dog"} for row in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    embed(tmp_path / "rows.jsonl", model, tmp_path / "vectors", input="{title}: {body}", precision="float16")
    cli.main(["index", str(tmp_path / "vectors")])
    hits = Collection.open(tmp_path / "vectors").search("anything")
    assert {hit.text for hit in hits} == {f"number {row}: a dog" for row in range(3)}
    assert {hit.name for hit in hits} == {f"rows.jsonl#{row}" for row in range(3)} and all(
        hit.is_there for hit in hits
    )


@pytest.mark.parametrize(
    ("options", "change", "message"),
    [
        ({"dimensions": 8}, None, "float32 vectors of 8 dimensions; a collection takes float32 or float16 of all 24"),
        ({"precision": "ubinary"}, None, "ubinary vectors"),
        ({}, "model", "has other weights or settings"),
        ({}, "shard", "is not finished"),
        ({}, "globs", "leave out the globs"),
    ],
)
def test_what_a_collection_cannot_take(
    options: dict[str, object],
    change: str | None,
    message: str,
    photos: Path,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    embed(photos, model, tmp_path / "vectors", **options)
    command = ["index", str(tmp_path / "vectors")]
    if change == "model":
        for part in tiny_model(seed=1):
            part.save_pretrained(tmp_path / "other")
        command += ["--model", str(tmp_path / "other")]
    if change == "shard":
        next((tmp_path / "vectors").glob("*.parquet")).unlink()
    if change == "globs":
        command += ["--include", "*.png"]
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 2 and message in capsys.readouterr().err
