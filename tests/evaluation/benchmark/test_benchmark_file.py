"""What a benchmark file says beyond names: kinds, formats, sources of a subset's own, frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from evaluation_helpers import RecordingEncoder, make_row, one_hot, write_jsonl
from PIL import Image

from llave_hf.evaluation import evaluate_benchmark, load_benchmark
from llave_hf.evaluation.benchmark.collection import collect_inputs
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.rows import RowReader

TASK = {"meta_task": "retrieval", "distribution": "in"}
PAIRS = {"format": "pairs", "query": "{question}", "target": "{answer}"}


def write(folder: Path, tasks: dict[str, Any], **keys: Any) -> Path:
    (folder / "eval").mkdir(parents=True, exist_ok=True)
    path = folder / "benchmark.yaml"
    content = {"name": "own", "source": "eval", "media": ".", "tasks": tasks} | keys
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_kind_gives_what_the_task_does_not_say(tmp_path: Path) -> None:
    kinds = {"k": TASK | PAIRS | {"metric": "recall_at_5", "modality": "text"}}
    path = write(tmp_path, {"A": {"kind": "k"}, "B": {"kind": "k", "metric": "recall_at_1"}}, kinds=kinds)
    first, second = load_benchmark(path).tasks
    assert (first.metric, second.metric, first.modality, first.pool) == (
        "recall_at_5",
        "recall_at_1",
        "text",
        "global",
    )
    assert first.format == second.format != load_benchmark(write(tmp_path, {"A": TASK})).tasks[0].format


def test_subsets_have_rows_pictures_and_splits_of_their_own(tmp_path: Path) -> None:
    """Every place where rows and pictures may lie, in one file."""
    for folder in ("p", "q/inner"):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "x.png")
    picture = make_row("<|image_1|>", ["a", "b"], image="x.png")
    write_jsonl(tmp_path / "eval" / "Shared" / "test.jsonl", [picture])
    write_jsonl(tmp_path / "elsewhere" / "data" / "dev-0.jsonl", [picture, picture])
    write_jsonl(tmp_path / "two" / "one.jsonl", [{"question": "one", "answer": "x"}])
    write_jsonl(tmp_path / "two" / "other" / "test.jsonl", [{"question": "other", "answer": "y"}] * 2)
    tasks = {
        "Shared": TASK | {"media": "p"},
        "Own": TASK | {"source": "elsewhere", "split": "dev", "media": "/q/inner/"},
        "Two": TASK | PAIRS | {"source": "two", "subset": ["one", "other"], "query": "{question} of {subset}"},
        "Few": TASK | PAIRS | {"source": "two", "subset": "other", "limit": 1},
    }
    benchmark = load_benchmark(write(tmp_path, tasks))
    inputs, found = collect_inputs(benchmark, RowReader(benchmark))
    assert [len(task.queries) for task in found] == [1, 2, 3, 1]
    assert [inputs.samples[task.queries[0]].images for task in found[:2]] == [("p/x.png",), ("q/inner/x.png",)]
    assert [inputs.samples[query].text for query in found[2].queries] == [
        "one of one",
        "other of other",
        "other of other",
    ]
    assert inputs.samples[found[3].queries[0]].text == "other"


def test_answers_are_ranked_among_the_targets_of_all_rows(tmp_path: Path) -> None:
    words = ["a", "b", "c"]
    rows = [{"question": word, "answer": word} for word in words]
    write_jsonl(tmp_path / "eval" / "Words.jsonl", rows)
    path = write(tmp_path, {"Words": TASK | PAIRS})
    encoder = RecordingEncoder(lambda text: one_hot(text, words))
    task = evaluate_benchmark(encoder, path, show_progress=False).to_dict()["tasks"]["Words"]
    assert (task["precision_at_1"], task["candidates"]) == (1.0, 3)


def test_number_of_frames_is_part_of_the_question(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    for number in range(4):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "clip" / f"{number}.png")
    write_jsonl(tmp_path / "eval" / "Clips.jsonl", [make_row("<|video_1|>", ["a", "b"]) | {"qry_video_path": "clip"}])
    digests, keys = set(), set()
    for frames in (None, 2, 3):
        benchmark = load_benchmark(write(tmp_path, {"Clips": TASK}, num_frames=frames))
        inputs, (task,) = collect_inputs(benchmark, RowReader(benchmark))
        query = inputs.load(int(task.queries[0]))
        assert isinstance(query, dict) and len(query["video"]) == (frames or 4)
        digests.add(task.digest)
        keys.add(inputs.content_keys(task.queries).tobytes())
    assert len(digests) == len(keys) == 3


@pytest.mark.parametrize(
    ("task", "keys", "message"),
    [
        ({"format": "beer"}, {}, "tasks: A: format must be mmeb or instruct or beir .* not 'beer'"),
        ({"query": "x"}, {}, "tasks: A: there is no key 'query'"),
        ({"format": "pairs", "query": "x"}, {}, "tasks: A lacks 'target'"),
        (PAIRS | {"pool": "local"}, {}, "tasks: A: pool must be global, not 'local'"),
        (PAIRS | {"query": "{a:x}"}, {}, "tasks: A: query: there is no {a:x}"),
        ({"kind": "k"}, {"kinds": {"l": TASK}}, "tasks: A: kind must be l, not 'k'"),
        ({"kind": "k"}, {"kinds": {"k": {"metrics": "x"}}}, "kinds: k: there is no key 'metrics'"),
        ({"source": "nowhere"}, {}, "tasks: A: source 'nowhere' is neither an existing folder"),
        ({"subset": [1]}, {}, "tasks: A: subset must be text or a list of texts, not 1"),
        ({"limit": 0}, {}, "tasks: A: limit must be a whole number of at least 1, not 0"),
        ({"modality": "retrieval"}, {}, "tasks: A: modality 'retrieval' is the name of a mean already"),
        ({"modality": "out"}, {}, "tasks: A: modality 'out' is the name of a mean already"),
        ({}, {"num_frames": 64}, "num_frames must be a whole number from 1 to 32, not 64"),
        ({}, {"leaderboard": "yes"}, "leaderboard must be true or false, not 'yes'"),
        ({"format": "instruct", "prompt": "x"}, {}, "tasks: A: prompt must be image_to_text or question or"),
        ({"format": "options", "query": "x", "answer": "y"}, {}, "tasks: A needs either 'options' .* or 'labels'"),
        (
            {"format": "options", "query": "x", "answer": "y", "labels": "l.yaml"},
            {},
            "tasks: A: labels: there is no file l.yaml beside the benchmark file",
        ),
        ({"format": "beir", "query": "x", "target": "y", "where": ["z"]}, {}, "tasks: A: where must be a mapping"),
    ],
)
def test_faults_are_named(tmp_path: Path, task: dict, keys: dict, message: str) -> None:
    with pytest.raises(BenchmarkError, match=message) as raised:
        load_benchmark(write(tmp_path, {"A": TASK | task}, **keys))
    assert "benchmark.yaml" in str(raised.value)


def test_labels_may_stand_in_a_file_beside_the_benchmark(tmp_path: Path) -> None:
    (tmp_path / "labels.yaml").write_text("[cat, dog, 'yes']")
    write_jsonl(tmp_path / "eval" / "A.jsonl", [{"text": "it barks", "label": "dog"}])
    task = TASK | {"format": "options", "labels": "labels.yaml", "query": "{text}", "answer": "label"}
    for pool in ("local", "global"):
        benchmark = load_benchmark(write(tmp_path, {"A": task | {"pool": pool}}))
        inputs, (found,) = collect_inputs(benchmark, RowReader(benchmark))
        assert {inputs.load(number) for number in found.pools[0]} == {"cat", "dog", "yes"}
        assert inputs.load(int(found.answers[0])) == "dog"
    (tmp_path / "labels.yaml").write_text("cat: dog")
    with pytest.raises(BenchmarkError, match=r"labels\.yaml must be text or a list of texts"):
        load_benchmark(write(tmp_path, {"A": task}))
