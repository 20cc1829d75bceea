"""`llave embed`: every container, bad rows, precision, what a folder refuses, and what is done only once."""

from __future__ import annotations

import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus_helpers import (
    archive,
    assert_vectors,
    caption,
    embed,
    expected,
    hub_pictures,
    lines,
    media_folder,
    read,
    saved_by_datasets,
    vectors,
)
from helpers import picture, spoil, tiny_model

from llave_hf import cli
from llave_hf.corpus.parts import parts_of
from llave_hf.corpus.reading import Reader
from llave_hf.corpus.sources import open_source
from llave_hf.data.streaming.shards import Block, line_blocks
from llave_hf.encoding.model_identity import path_revision
from llave_hf.errors import UserError

SPLITS = {"train": 4, "test": 3}  # rows
PROMPT = "Represent the given image.\n"


def test_pictures_in_parquet_keep_their_rows(model: Path, tmp_path: Path) -> None:
    contents = hub_pictures(tmp_path / "rows.parquet", bad=[2])
    report = embed(tmp_path / "rows.parquet", model, tmp_path / "out")
    assert (report.total_rows, report.total_errors, report.shards) == (6, 1, 1)
    table = pq.read_table(tmp_path / "out" / "rows.parquet")
    assert table.column_names == ["id", "caption", "source_file", "source_row", "embedding", "error"]
    assert table["id"].to_pylist() == table["source_row"].to_pylist() == list(range(6))
    assert "no readable picture" in table["error"][2].as_py() and "rows.parquet" in report.reasons[0]
    wanted = expected(model, [{"image": content, "text": PROMPT} for row, content in enumerate(contents) if row != 2])
    assert_vectors(table, wanted, bad=[2])
    about = json.loads(table.schema.metadata[b"llave_embed"])
    assert about["model_revision"] == path_revision(model) and about["rows"] == 6
    assert about["dimensions"] == table.schema.field("embedding").type.list_size == 24
    assert {"torch", "transformers", "llave_hf"} <= set(about["versions"])


def test_a_row_of_which_the_model_makes_no_numbers_has_no_vector(tmp_path: Path) -> None:
    spoilt, processor = tiny_model()
    spoil(spoilt, processor, "z")
    for part in (spoilt, processor):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in ("a dog", "a zoo", "a cat")))
    report = embed(tmp_path / "rows.jsonl", tmp_path / "model", tmp_path / "out", precision="int8")
    assert (report.total_rows, report.total_errors) == (3, 1)
    errors = read(tmp_path / "out")["error"].to_pylist()
    assert [error is None for error in errors] == [True, False, True] and "are not finite" in errors[1]


def test_columns_are_read_as_they_are_described(model: Path, tmp_path: Path) -> None:
    contents = hub_pictures(tmp_path / "rows.parquet")
    description = {"text": "Which one? {caption}", "image": "image"}
    embed(tmp_path / "rows.parquet", model, tmp_path / "out", input=description, id=["id"])
    table = read(tmp_path / "out")
    assert table.column_names[:2] == ["id", "source_file"]
    inputs = [{"image": content, "text": f"Which one? {caption(row)}"} for row, content in enumerate(contents)]
    assert_vectors(table, expected(model, inputs))


def test_lines_of_json_with_paths(model: Path, tmp_path: Path) -> None:
    picture(seed=3).save(tmp_path / "p.png")
    records = [
        {"id": "a", "text": "a dog in the snow"},
        {"id": "b", "text": "", "image": "p.png"},
        {"id": "c", "text": "what?", "image": "gone.png"},
        {"id": "d", "text": "  "},
        {"id": "e", "text": "two <|image_1|> here"},
        {"id": "f", "image": "/etc/passwd"},
    ]
    embed(lines(tmp_path / "rows.jsonl", records), model, tmp_path / "out")
    table = read(tmp_path / "out")
    inputs = [{"text": "a dog in the snow"}, {"image": str(tmp_path / "p.png"), "text": PROMPT}]
    assert_vectors(table, expected(model, inputs), bad=[2, 3, 4, 5])
    said = table["error"].to_pylist()
    for row, reason in {2: "does not exist", 3: "neither text nor medium", 4: "mark(s)", 5: "absolute path"}.items():
        assert reason in said[row]


def test_tables_of_texts(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("title;body\none;a dog\ntwo;a red square\n")
    embed(tmp_path / "rows.csv", model, tmp_path / "out", input="{title}: {body}", prompt_name="retrieval_query")
    wanted = ["Find an image that matches the given caption: one: a dog"]
    wanted.append("Find an image that matches the given caption: two: a red square")
    assert_vectors(read(tmp_path / "out"), expected(model, wanted))


def test_shards_of_tar(model: Path, tmp_path: Path) -> None:
    for number in range(2):
        contents = archive(tmp_path / "shards" / f"{number:05d}.tar", bad=[1])
    embed(tmp_path / "shards" / "{00000..00001}.tar", model, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").glob("*.parquet")) == ["00000.parquet", "00001.parquet"]
    table = pq.read_table(tmp_path / "out" / "00001.parquet")
    assert table["__key__"].to_pylist() == ["0000", "0001", "0002", "0003"] and table["label"].to_pylist() == [
        0,
        1,
        2,
        3,
    ]
    inputs = [{"image": content, "text": caption(row)} for row, content in enumerate(contents) if row != 1]
    assert_vectors(table, expected(model, inputs), bad=[1])


def test_a_folder_of_media(model: Path, tmp_path: Path) -> None:
    folder = media_folder(tmp_path / "media")
    report = embed(folder, model, tmp_path / "out")
    table = read(tmp_path / "out")
    assert report.left_out == {".xyz files": 1}
    assert table["path"].to_pylist() == ["a.png", "c.txt", "d.mp4", "e.png", "deep/b.jpg"]
    inputs = [
        {"image": str(folder / "a.png"), "text": PROMPT},
        {"text": "a dog in the snow"},
        {"video": str(folder / "d.mp4"), "text": "Represent the given video.\n"},
        {"image": str(folder / "deep" / "b.jpg"), "text": PROMPT},
    ]
    assert_vectors(table, expected(model, inputs), bad=[3])
    assert report.reasons[0].startswith(f"{folder.name}/e.png: ")


def test_a_folder_saved_by_datasets(model: Path, tmp_path: Path) -> None:
    contents = saved_by_datasets(tmp_path / "saved")
    embed(tmp_path / "saved", model, tmp_path / "out")
    assert_vectors(read(tmp_path / "out"), expected(model, [{"image": one, "text": PROMPT} for one in contents]))


def test_large_files_are_cut_and_every_row_comes_once(model: Path, tmp_path: Path) -> None:
    """Row groups of 4 rows in shards of 3 and of 8, lines in shards of 4; a long group is cut inside."""
    contents = hub_pictures(tmp_path / "rows.parquet", rows=11)
    lines(tmp_path / "rows.jsonl", [{"id": row, "text": caption(row)} for row in range(11)])
    wanted = expected(model, [{"image": one, "text": PROMPT} for one in contents])
    for rows, shards in ((3, 5), (8, 2)):
        report = embed(tmp_path / "rows.parquet", model, tmp_path / f"of{rows}", rows_per_shard=rows)
        assert report.shards == shards
        table = read(tmp_path / f"of{rows}")
        assert table["id"].to_pylist() == list(range(11))
        assert_vectors(table, wanted)
    (tmp_path / "of3" / "rows-00003.parquet").unlink()  # its rows begin inside a row group
    embed(tmp_path / "rows.parquet", model, tmp_path / "of3", rows_per_shard=3)
    assert_vectors(read(tmp_path / "of3"), wanted)
    embed(tmp_path / "rows.jsonl", model, tmp_path / "lines", rows_per_shard=4)
    table = read(tmp_path / "lines")
    assert table["source_row"].to_pylist() == table["id"].to_pylist() == list(range(11))
    assert_vectors(table, expected(model, [caption(row) for row in range(11)]))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    return lines(folder / "rows.jsonl", [{"id": row, "text": caption(row)} for row in range(24)])


def test_dimensions_and_precisions(model: Path, texts: Path, tmp_path: Path) -> None:
    whole = expected(model, [caption(row) for row in range(24)])
    short = whole[:, :16] / np.linalg.norm(whole[:, :16], axis=1, keepdims=True)
    found = {}
    for precision in ("float32", "float16", "int8", "ubinary"):
        embed(texts, model, tmp_path / precision, precision=precision, dimensions=16)
        table = read(tmp_path / precision)
        found[precision] = np.stack(vectors(table))
        kind = table.schema.field("embedding").type
        assert (str(kind.value_type), kind.list_size) == {
            "float32": ("float", 16),
            "float16": ("halffloat", 16),
            "int8": ("int8", 16),
            "ubinary": ("uint8", 2),
        }[precision]
    assert np.abs(found["float32"] - short).max() <= 1e-6
    assert np.abs(found["float16"] - short).max() <= 1e-3
    assert (found["ubinary"] == np.packbits(found["float32"] > 0, axis=1)).all()
    low, high = np.asarray(json.loads((tmp_path / "int8" / "_manifest.json").read_text())["ranges"])
    np.testing.assert_allclose([low, high], [short.min(0), short.max(0)], atol=1e-6)
    restored = (found["int8"].astype(float) + 128) * (high - low) / 255 + low
    assert (np.abs(restored - short) <= (high - low) / 255 * 1.01 + 1e-6).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dimensions": 25}, "24 dimensions; keep 1 to 24"),
        ({"dimensions": 12, "precision": "ubinary"}, "multiple of 8"),
        ({"input": "{captoin}"}, "no column 'captoin'"),
        ({"input": "always the same"}, "names no column"),
        ({"id": ["nothing"]}, "no such column"),
        ({"prompt_name": "nothing"}, "no prompt 'nothing'"),
        ({"prompt_name": "query", "prompt": "x"}, "not both"),
        ({"rows_per_shard": 0}, "at least 1"),
        ({"media_root": "/nowhere"}, "/nowhere does not exist"),
    ],
)
def test_mistakes_are_named_before_anything_is_embedded(
    model: Path, texts: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        embed(texts, model, tmp_path / "out", **options)
    assert not list(tmp_path.glob("out/*.parquet"))


def test_a_finished_folder_is_left_alone(
    model: Path, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", str(texts), "--model", str(model), "--output", str(tmp_path / "out"), "--rows_per_shard", "10"]
    cli.main(command)
    assert "24 rows in" in capsys.readouterr().out
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("*.parquet")}
    assert len(before) == 3
    cli.main(command)
    said = capsys.readouterr().out
    assert "nothing to do" in said and "24 rows in 3 files of vectors, 0 of them without" in said
    assert {file: file.stat().st_mtime_ns for file in before} == before
    next(iter(before)).unlink()
    cli.main(command)
    changed = [file for file, time in before.items() if file.stat().st_mtime_ns != time]
    assert changed == [next(iter(before))]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": "Find: "}, "another prompt: None, and this run has 'Find: '"),
        ({"dimensions": 8}, "another number of dimensions: 24, and this run has 8"),
        ({"precision": "int8"}, "another precision"),
        ({"input": "{text}"}, "another input"),
        ({"rows_per_shard": 7}, "another rows a shard"),
        ({"dtype": "float16"}, "another dtype"),
    ],
)
def test_a_folder_holds_one_kind_of_vectors(
    model: Path, texts: Path, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    embed(texts, model, tmp_path / "out")
    (tmp_path / "out" / "rows.parquet").unlink()
    with pytest.raises(UserError, match=message):
        embed(texts, model, tmp_path / "out", **options)


def test_another_model_is_refused(model: Path, texts: Path, tmp_path: Path) -> None:
    from helpers import tiny_model

    embed(texts, model, tmp_path / "out")
    for part in tiny_model(seed=1):
        part.save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"another model: .*tiny \(sha256:.*other \(sha256:"):
        embed(texts, tmp_path / "other", tmp_path / "out")


def test_a_source_that_has_changed(model: Path, tmp_path: Path) -> None:
    """New files are embedded, changed and lost ones refused until --refresh."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    for name in ("train-00000-of-00003", "train-00001-of-00003"):
        lines(data / f"{name}.jsonl", [{"text": f"{name} {row}"} for row in range(3)])
    embed(data, model, out)
    untouched = (out / "train-00000-of-00003.parquet").stat().st_mtime_ns
    lines(data / "train-00002-of-00003.jsonl", [{"text": "new"}])
    assert embed(data, model, out).total_rows == 7
    lines(data / "train-00001-of-00003.jsonl", [{"text": "another one"}])
    (data / "train-00002-of-00003.jsonl").unlink()
    said = r"1 changed \(train-00001-of-00003.jsonl\) and 1 gone \(train-00002-of-00003.jsonl\)"
    with pytest.raises(UserError, match=said):
        embed(data, model, out)
    report = embed(data, model, out, refresh=True)
    assert (report.rows, report.total_rows, report.shards) == (1, 4, 2)
    assert (out / "train-00000-of-00003.parquet").stat().st_mtime_ns == untouched
    assert_vectors(pq.read_table(out / "train-00001-of-00003.parquet"), expected(model, ["another one"]))
    assert not (out / "train-00002-of-00003.parquet").exists()


def test_columns_of_another_type_are_named(model: Path, tmp_path: Path) -> None:
    rows = [{"text": "a", "id": 1}] * 3 + [{"text": "b", "id": "x"}] * 3
    with pytest.raises(UserError, match="the column 'id' holds string here and int64"):
        embed(lines(tmp_path / "rows.jsonl", rows), model, tmp_path / "out", rows_per_shard=3)


def test_rows_that_fail_make_a_strict_run_fail(model: Path, tmp_path: Path) -> None:
    source = lines(tmp_path / "rows.jsonl", [{"text": "a"}, {"text": ""}])
    command = ["embed", str(source), "--model", str(model), "--output", str(tmp_path / "out"), "--strict"]
    with pytest.raises(SystemExit) as ended:
        cli.main(command)
    assert ended.value.code == 1 and os.path.exists(tmp_path / "out" / "rows.parquet")


def test_one_long_row_group_of_pictures_is_read_a_little_at_a_time(tmp_path: Path) -> None:
    """Arrow's memory, and Python's, while 64 MB of bytes in one row group are read."""
    rng = np.random.default_rng(0)
    table = pa.table({"image": pa.array([rng.bytes(1 << 18) for _ in range(256)], pa.binary())})
    pq.write_table(table, tmp_path / "rows.parquet", use_dictionary=False, write_batch_size=8)
    del table
    source = open_source(str(tmp_path / "rows.parquet"))
    before, peak, rows = pa.total_allocated_bytes(), 0, 0
    reader = Reader(source, ["image"])
    tracemalloc.start()
    try:
        for part in parts_of(source, 32):
            for chunk in reader.chunks(part):
                rows += len(chunk)
                peak = max(peak, pa.total_allocated_bytes() - before)
                del chunk
        _, of_python = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert rows == 256 and peak < 32 << 20 and of_python < 16 << 20, (peak, of_python)


def test_the_vectors_do_not_lie_in_the_corpus(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lies in the source"):
        embed(media_folder(tmp_path / "media"), model, tmp_path / "media" / "vectors")
    assert not (tmp_path / "media" / "vectors").exists()


def test_pictures_with_descriptions_beside_them_are_a_folder_of_media(model: Path, tmp_path: Path) -> None:
    folder = media_folder(tmp_path / "media")
    (folder / "a.json").write_text("[]")
    report = embed(folder, model, tmp_path / "out")
    assert report.total_rows == 5 and report.left_out == {".json files": 1, ".xyz files": 1}


def test_all_splits_of_a_data_set_of_the_hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions of datasets that name its files are stood in for, and so is what opens them."""
    contents = {split: hub_pictures(tmp_path / f"{split}.parquet", rows=rows) for split, rows in SPLITS.items()}
    address = "hf://datasets/owner/name@0123abc/data"

    class Builder:
        config = type("Config", (), {"data_files": {split: [f"{address}/{split}.parquet"] for split in SPLITS}})

    class Hub:
        def open(self, file: str, mode: str) -> object:
            return open(file.replace(address, str(tmp_path)), mode)

    asked: list[str] = []
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda *args, **kwargs: asked.append("") or ["default"])
    monkeypatch.setattr(
        datasets, "get_dataset_split_names", lambda path, name, **kwargs: asked.append(name) or list(SPLITS)
    )
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *args, **kwargs: Builder())
    monkeypatch.setattr(huggingface_hub, "HfFileSystem", Hub)
    assert embed("owner/name", model, tmp_path / "out").total_rows == 7
    assert asked == ["", "default"]  # once, however many splits there are
    assert embed("owner/name", model, tmp_path / "of one", split="test").total_rows == 3
    table = pq.read_table(tmp_path / "out" / "data__train.parquet")
    assert set(table["source_file"].to_pylist()) == {"data/train.parquet"}
    assert_vectors(table, expected(model, [{"image": one, "text": PROMPT} for one in contents["train"]]))


def test_texts_that_are_cut_are_counted(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"text": "a dog in the snow"}, {"text": "a dog " * 5000}, {"text": "a circle " * 5000}]
    source = lines(tmp_path / "rows.jsonl", rows)
    cli.main(["embed", str(source), "--model", str(model), "--output", str(tmp_path / "out")])
    said = capsys.readouterr()
    assert "  2 texts are longer than the model takes" in said.out and "max_length" not in said.err


def test_a_broken_file_keeps_no_other_from_being_embedded(model: Path, tmp_path: Path) -> None:
    for number in range(3):
        lines(tmp_path / "data" / f"{number}.jsonl", [{"text": caption(number)}])
    (tmp_path / "data" / "1.jsonl").write_text("{no JSON\n")
    said = r"1 of 3 files of vectors could not be made, all others are there. 1.parquet: .*1.jsonl, line 1 is no JSON"
    with pytest.raises(UserError, match=said):
        embed(tmp_path / "data", model, tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").glob("*.parquet")) == ["0.parquet", "2.parquet"]
    lines(tmp_path / "data" / "1.jsonl", [{"text": "mended"}])
    assert embed(tmp_path / "data", model, tmp_path / "out", refresh=True).total_rows == 3


def test_files_are_gone_through_once_before_they_are_embedded(
    texts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the first rows, whose columns are looked at before a large model is opened."""
    found: list[int] = []

    def counted(file: str, rows: int) -> Iterator[Block]:
        for block in line_blocks(file, rows):
            found.append(block.first_row)
            yield block

    monkeypatch.setattr("llave_hf.corpus.parts.line_blocks", counted)
    embed(texts, model, tmp_path / "out", rows_per_shard=8)
    assert found == [0, 0, 8, 16]


def test_mistakes_in_columns_are_said_before_the_model_is_opened(
    texts: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llave_hf.corpus.run.CorpusModel", lambda *args, **kwargs: pytest.fail("opened"))
    with pytest.raises(UserError, match="no column 'captoin'"):
        embed(texts, model, tmp_path / "out", input="{captoin}")
