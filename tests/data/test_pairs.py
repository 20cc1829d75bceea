from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.constants
import pyarrow as pa
import pytest
from mmeb_rows import Row, rows

from llave_hf.data import MediaError, Sample, load_pairs
from llave_hf.data.pairs import PairDataset
from llave_hf.data.sources.indexed import SourceSpec, _open_hub

Write = Callable[..., str]


def _all(dataset: PairDataset) -> list[Any]:
    return [dataset[i] for i in range(len(dataset))]


def test_a_row_becomes_a_pair(root: Path, write: Write) -> None:
    row = {**rows()[0], "neg_text": "<|image_1|>\nRepresent the given image.\n", "neg_image_path": "images/blue.png"}
    pair = load_pairs(write([row]))[0]
    assert pair.query == Sample("Find the picture: red, number 0\n", media_root=str(root))
    assert pair.positive == Sample("\nRepresent the given image.\n", ("images/red.png",), None, str(root))
    assert pair.negatives == (Sample("\nRepresent the given image.\n", ("images/blue.png",), None, str(root)),)
    assert (pair.source, pair.row) == ("task", 0)
    assert load_pairs(write([row]), use_negatives=False)[0].negatives == ()


def test_every_kind_of_source_gives_the_same_pairs(root: Path, write: Write) -> None:
    table = rows(5)
    expected = _all(load_pairs(write(table)))
    (root / "task.jsonl").write_text("".join(json.dumps(row) + "\n\n" for row in table), encoding="utf-8")
    (root / "task.json").write_text(json.dumps(table), encoding="utf-8")
    write(table[:2], "mmeb/task/original-00000-of-00002.parquet")
    write(table[2:], "mmeb/task/original-00001-of-00002.parquet")
    write(rows(1), "mmeb/task/diverse_instruction-00000-of-00001-ab12.parquet")
    write(table, "flat/task/train.parquet")
    (root / "flat" / "task" / "train.json").write_text("{}", encoding="utf-8")
    datasets.Dataset.from_list(table).save_to_disk(root / "saved" / "task")
    datasets.DatasetDict(train=datasets.Dataset.from_list(table)).save_to_disk(root / "dict" / "task")
    for path in ("task.jsonl", "task.json", "mmeb", "flat/task", "saved/task", "dict/task"):
        assert _all(load_pairs(str(root / path), media_root=str(root))) == expected, path


def test_hub_source_reads_configs_and_splits(root: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    # A local folder goes through the same functions of datasets as a Hub id does.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
    write(rows(4), "hub/one.parquet")
    write(rows(2), "hub/two.parquet")
    header = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: original\n    path: {name}.parquet\n"
        for name in ("one", "two")
    )
    (root / "hub" / "README.md").write_text(header + "---\n", encoding="utf-8")
    opened = _open_hub(SourceSpec(str(root / "hub")))
    assert [(subset.name, len(subset.table)) for subset in opened] == [("one", 4), ("two", 2)]
    assert opened[0].table.column_names == list(rows()[0])
    assert opened[0].spec.media_root is None
    with pytest.raises(ValueError, match="has no subset 'tow'; did you mean 'two'"):
        _open_hub(SourceSpec(str(root / "hub"), subsets=["tow"]))


def test_hub_id_while_offline_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="'nobody/nothing' is no folder or file here, and could not be read from the"):
        load_pairs("nobody/nothing")


def test_paths_and_negatives_may_be_lists(root: Path, write: Write) -> None:
    mark = "<|image_1|>"
    table = [
        {
            "qry": f"{mark}\n<|image_2|>\nWhich?",
            "qry_image_path": ["images/red.png", "images/blue.png"],
            "pos_text": "the first",
            "pos_image_path": [""],
            "neg_text": ["the second", f"{mark} this"],
            "neg_image_path": ["", "images/black.png"],
        },
        {
            "qry": "no picture",
            "qry_image_path": [],
            "pos_text": "right",
            "pos_image_path": None,
            "neg_text": ["", "wrong", "worse"],
            "neg_image_path": [],
        },
        {"qry": "no negatives", "qry_image_path": None, "pos_text": "x", "pos_image_path": [], "neg_text": None},
    ]
    path = root / "lists.jsonl"
    path.write_text("\n".join(map(json.dumps, table)), encoding="utf-8")
    pairs = _all(load_pairs(str(path)))
    assert pairs[0].query == Sample("\nWhich?", ("images/red.png", "images/blue.png"), None, str(root))
    assert [(s.text, s.images) for s in pairs[0].negatives] == [("the second", ()), (" this", ("images/black.png",))]
    assert [s.text for s in pairs[1].negatives] == ["wrong", "worse"]
    assert pairs[2].negatives == ()


def test_a_column_may_begin_at_a_later_row(root: Path) -> None:
    path = root / "late.jsonl"
    path.write_text(
        '{"qry": "a", "pos_text": "b"}\n{"qry": "c", "pos_text": "d", "neg_text": "e"}\n', encoding="utf-8"
    )
    assert [[s.text for s in pair.negatives] for pair in _all(load_pairs(str(path)))] == [[], ["e"]]


def test_a_negative_may_have_several_images(root: Path) -> None:
    row = {"qry": "a", "pos_text": "b", "neg_text": ["<|image_1|><|image_2|>", "c"]}
    path = root / "nested.json"
    path.write_text(json.dumps([{**row, "neg_image_path": [["images/red.png", "images/blue.png"], []]}]))
    assert [s.images for s in load_pairs(str(path))[0].negatives] == [("images/red.png", "images/blue.png"), ()]


def test_empty_negatives_are_none(write: Write) -> None:
    table = [
        {**row, "neg_text": text, "neg_image_path": ""} for row, text in zip(rows(3), ("", "no", None), strict=True)
    ]
    assert [len(pair.negatives) for pair in _all(load_pairs(write(table)))] == [0, 1, 0]


def test_videos_stand_in_their_own_column_or_among_the_images(root: Path, write: Write) -> None:
    (root / "clip.mp4").touch()
    table = [
        {"qry": "<|image_1|>\na", "qry_image_path": "video/clip", "qry_video_path": "", "pos_text": "x"},
        {"qry": "<|image_1|>\na", "qry_image_path": "clip.mp4", "qry_video_path": "", "pos_text": "x"},
        {"qry": "\na", "qry_image_path": "", "qry_video_path": "clip.mp4", "pos_text": "x"},
        {"qry": "<|video_1|>\na", "qry_image_path": "", "qry_video_path": "video/clip", "pos_text": "x"},
        {"qry": "", "qry_image_path": "", "qry_video_path": "clip.mp4", "pos_text": "x"},
    ]
    queries = [pair.query for pair in _all(load_pairs(write(table)))]
    assert [query.video for query in queries] == ["video/clip", "clip.mp4", "clip.mp4", "video/clip", "clip.mp4"]
    assert [(query.text, query.images) for query in queries] == [("\na", ())] * 4 + [("", ())]


def test_caps_are_drawn_from_the_seed_and_the_name_alone(root: Path, write: Write) -> None:
    write(rows(40), "data/a/train.parquet")
    write(rows(40), "data/b/train.parquet")
    data = str(root / "data")

    def chosen(train_data: Any, **kwargs: Any) -> dict[str, list[int]]:
        pairs = _all(load_pairs(train_data, media_root=str(root), **kwargs))
        return {name: [pair.row for pair in pairs if pair.source == name] for name in ("a", "b")}

    both = chosen(data, max_samples_per_source=10)
    assert [len(found) for found in both.values()] == [10, 10]
    assert both["a"] == sorted(set(both["a"])) != list(range(10))
    assert both["a"] != both["b"]
    assert chosen(data, max_samples_per_source=10) == both
    assert chosen(data, max_samples_per_source=10, seed=1) != both
    assert chosen(data, max_samples_per_source=10, subsets=["b"])["b"] == both["b"]
    assert set(both["a"]) < set(chosen(data, max_samples_per_source=20)["a"])
    pair = load_pairs(data, media_root=str(root), max_samples_per_source=1)[0]
    assert pair.query.text.endswith(f"number {pair.row}\n")


def test_sources_mix_with_weights_and_caps(root: Path, write: Write) -> None:
    write(rows(4), "one/a/train.parquet")
    write(rows(4), "one/b/train.parquet")
    write(rows(4), "two/a/train.parquet")
    one, two = str(root / "one"), str(root / "two")
    dataset = load_pairs([{"path": one, "max_samples": 2, "weight": 0.5}, two], media_root=str(root))
    assert [(s.name, s.start, s.stop, s.weight) for s in dataset.sources] == [
        (f"{one}/a", 0, 2, 0.5),
        ("b", 2, 4, 0.5),
        (f"{two}/a", 4, 8, 1.0),
    ]
    assert dataset[3].source == "b"
    assert dataset[4].source == f"{two}/a"
    for index in (-1, 8):
        with pytest.raises(IndexError):
            dataset[index]
    assert _all(pickle.loads(pickle.dumps(dataset))) == _all(dataset)


def test_rows_stay_in_arrow(write: Write) -> None:
    (task,) = load_pairs(write(rows()))._tasks
    for side in (task.query, task.positive):
        assert all(isinstance(column, pa.Array) for column in (side.text, side.images, side.video))


FAULTS: list[tuple[list[Row], str]] = [
    (
        [{k.replace("qry", "query"): v for k, v in row.items()} for row in rows()],
        r"'task' \(.*task.parquet\) has no column 'qry'; did you mean 'query'",
    ),
    ([{**rows()[0], "qry": " \n"}], r"row 0 of 'task' \(.*task.parquet\): the query is empty"),
    ([*rows(2), {**rows()[0], "qry": None}], r"row 2 of 'task'.*the query is empty"),
    ([{**row, "pos_text": "", "pos_image_path": ""} for row in rows()], r"the positive is empty.*\(3 rows have"),
    ([{**rows()[0], "pos_text": "no mark"}], r"row 0 .*: the positive has 0 mark\(s\).*and 1 path\(s\)"),
    ([{**rows()[0], "pos_image_path": ""}], r"row 0 .*: the positive has 1 mark\(s\).*and 0 path\(s\)"),
    (
        [{**rows()[0], "qry": "<|image_1|> <|image_2|>", "qry_image_path": "images/red.png"}],
        r"has 2 mark\(s\).* and 1 path",
    ),
    (
        [{**row, "neg_text": text} for row, text in zip(rows(2), ("fine", "<|image_1|>"), strict=True)],
        r"row 1 .*: the negative has 1 mark",
    ),
    ([{**rows()[0], "neg_text": "no mark", "neg_image_path": "images/red.png"}], "the negative has 0 mark"),
    ([{**rows()[0], "neg_text": ["a", "b"], "neg_image_path": ["images/red.png"]}], r"row 0 .*has 1 entries where"),
    ([{**rows()[0], "neg_text": ["a", "b"], "neg_image_path": "images/red.png"}], "single paths where"),
    ([{**rows()[0], "qry": 3}], "column 'qry' holds int64; it must hold strings"),
    ([{**rows()[0], "pos_image_path": [3]}], "column 'pos_image_path' holds list"),
    ([{**rows()[0], "pos_image_path": {"bytes": b""}}], "column 'pos_image_path' holds struct"),
]


@pytest.mark.parametrize(("table", "message"), FAULTS)
def test_faulty_rows_are_one_clear_error(write: Write, table: list[Row], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_pairs(write(table))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("images/white.png", r"row 1 of 'task' \(.*task.parquet\): .*images/white.png does not exist"),
        ("../red.png", r"row 1 of 'task'.*leaves media_root by"),
        ("/etc/passwd", r"row 1 of 'task'.*is an absolute path"),
        ("https://example.org/a.png", r"row 1 of 'task'.*is an address"),
        ("link.png", r"row 1 of 'task'.*is a link that leads out"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_unusable_files_are_named_before_training(
    root: Path, write: Write, path: str, message: str, many: bool
) -> None:
    (root / "link.png").symlink_to("/etc/hostname")
    table = rows(2)
    table[1] = {**table[1], "pos_image_path": path}
    for number in range(30 if many else 0):  # then the folders are listed, not asked file by file
        for folder in (root, root / "images"):
            (folder / f"{number}.png").write_bytes(b"")
            table.append({**rows()[0], "pos_image_path": f"{(folder / f'{number}.png').relative_to(root)}"})
    with pytest.raises(MediaError, match=rf"1 of {62 if many else 2} pictures or videos cannot be used") as caught:
        load_pairs(write(table))
    assert caught.match(message)
    if "image" in path:
        assert len(load_pairs(write(table), check_files=False)) == len(table)


def test_many_missing_files_are_counted(root: Path, write: Write) -> None:
    table = [{**rows()[0], "pos_image_path": f"images/{i}.png"} for i in range(9)]
    with pytest.raises(MediaError, match=r"^9 of 9 pictures.*(\n.*){3}\n\.\.\. and 6 more files$"):
        load_pairs(write(table))


def test_missing_files_in_the_folder_above_are_a_hint(root: Path, write: Write) -> None:
    with pytest.raises(MediaError, match=rf"set media_root to '{root}'"):
        load_pairs(write(rows(), "train/task.parquet"))


def test_a_media_root_that_is_not_known_is_an_error(root: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write(rows(), "hub/train.parquet")
    monkeypatch.setattr("llave_hf.data.pairs.open_source", lambda spec: _open_hub(SourceSpec(str(root / "hub"))))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
    with pytest.raises(MediaError, match="relative to which folder"):
        load_pairs("org/name", check_files=False)


@pytest.mark.parametrize(
    ("train_data", "message"),
    [
        ([], "train_data is empty"),
        ({"path": "x", "wieght": 1}, "no key 'wieght'; did you mean 'weight'"),
        ({"weight": 1}, "has no `path`"),
        ({"path": "x", "weight": 0}, "weight of 'x' is 0"),
        ({"path": "x", "max_samples": 0}, "max_samples of 'x' is 0"),
        ("./nowhere/at/all", "'./nowhere/at/all' does not exist"),
        ("nowhere.jsonl", "'nowhere.jsonl' does not exist"),
        ("{root}/images", "has no .parquet, .jsonl, .tar, .csv, .json file"),
        ("{root}/images/red.png", "is no .parquet, .jsonl, .tar, .csv, .json file"),
        ({"path": "{root}/data", "subsets": ["taks"]}, "no subset 'taks'; did you mean 'task'"),
        ({"path": "{root}/data", "split": "test"}, "no split 'test' in .*there are 'original'"),
        ("{root}/both", r"has files of rows \(rows.jsonl\) and folders with such files \(task\)"),
        ("{root}/splits", "no split given in .*there are 'a', 'b'"),
        (["{root}/data", "{root}/data"], "twice"),
        ("{root}/broken.parquet", "broken.parquet cannot be read as parquet"),
        ("{root}/broken.jsonl", "broken.jsonl, line 2 is no JSON"),
        ("{root}/broken.json", "broken.json is no JSON"),
        ("{root}/number.json", "number.json holds a int"),
        ("{root}/list.jsonl", "list.jsonl, row 0 is a list"),
        ("{root}/mixed.jsonl", "column 'qry' mixes types"),
        ("{root}/none.parquet", "has no row"),
    ],
)
def test_faulty_sources_are_one_clear_error(root: Path, write: Write, train_data: Any, message: str) -> None:
    write(rows(), "data/task/original-00000-of-00001.parquet")
    write(rows(), "both/task/train.parquet")
    (root / "both" / "rows.jsonl").touch()
    write(rows(), "splits/a.parquet")
    write(rows(), "splits/b.parquet")
    write(pa.table({name: pa.array([], pa.string()) for name in rows()[0]}), "none.parquet")
    (root / "broken.parquet").write_bytes(b"PAR1")
    (root / "broken.jsonl").write_text('{"qry": "a"}\n{"qry": \n')
    (root / "broken.json").write_text("[")
    (root / "number.json").write_text("3")
    (root / "list.jsonl").write_text("[3]\n")
    (root / "mixed.jsonl").write_text('{"qry": "a", "pos_text": "b"}\n{"qry": 3, "pos_text": "b"}\n')

    def here(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("{root}", str(root))
        if isinstance(value, dict):
            return {key: here(entry) for key, entry in value.items()}
        return [here(entry) for entry in value] if isinstance(value, list) else value

    with pytest.raises(ValueError, match=message):
        load_pairs(here(train_data))


def test_messages_name_the_file_and_its_row(root: Path, write: Write) -> None:
    write(rows(2), "d/t/train-00000-of-00002.parquet")
    write([rows()[0], {**rows()[0], "qry": ""}], "d/t/train-00001-of-00002.parquet")
    with pytest.raises(ValueError, match=r"row 3 of 't' \(.*train-00001-of-00002.parquet, its row 1\)"):
        load_pairs(str(root / "d"), media_root=str(root))


def test_messages_name_the_row_of_the_file_under_a_cap(write: Write) -> None:
    kept = [pair.row for pair in _all(load_pairs(write(rows(40)), max_samples_per_source=20))]
    first = next(row for row in kept if row >= 20)
    assert kept.index(first) != first
    path = write([{**row, "qry": ""} if i >= 20 else row for i, row in enumerate(rows(40))])
    with pytest.raises(ValueError, match=f"row {first} of 'task'"):
        load_pairs(path, max_samples_per_source=20)
