"""The built-in data: the same everywhere, readable by the ordinary loaders, one right answer a query."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pyarrow.parquet as pq
import pytest

from llave_hf.data.media import open_video
from llave_hf.data.pairs import load_pairs
from llave_hf.data.scenes import Scene, draw, random_description, random_scene, write_scenes
from llave_hf.data.scenes.drawing import _mask
from llave_hf.data.scenes.grammar import SHAPES, Thing, place
from llave_hf.data.scenes.near_misses import slots
from llave_hf.data.scenes.tasks import TASKS, _sound_cube, caption_to_clip, clip_to_caption, grounding, question
from llave_hf.evaluation import check_benchmark, load_benchmark


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), train_pairs=80, eval_queries=36)


def digest(root: Path) -> str:
    made = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and p.suffix != ".mp4"):
        made.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return made.hexdigest()


def rows(root: Path, split: str) -> list[tuple[str, dict[str, object]]]:
    files = sorted((root / split).glob("*/*.parquet"))
    return [(file.parent.name, row) for file in files for row in pq.read_table(file).to_pylist()]


def test_the_seed_decides_every_byte(scenes: Path, tmp_path: Path) -> None:
    """In another process, whose hash seed differs."""
    command = [sys.executable, "-m", "llave_hf.data.scenes", str(tmp_path / "again")]
    subprocess.run([*command, "--train_pairs", "80", "--eval_queries", "36"], check=True, timeout=120)
    assert digest(tmp_path / "again") == digest(scenes)
    other = write_scenes(tmp_path / "other", seed=1, train_pairs=80, eval_queries=36)
    assert digest(other) != digest(scenes)


def test_the_ordinary_loaders_read_it(scenes: Path) -> None:
    pairs = load_pairs(str(scenes / "train"), media_root=str(scenes))
    assert {source.name for source in pairs.sources} == {task.name for task in TASKS if task.trained}
    assert len(pairs) == 80
    assert {len(pairs[index].negatives) for index in range(80)} == {1, 2}
    benchmark = load_benchmark(scenes / "benchmark.yaml")
    check_benchmark(benchmark)
    assert {task.meta_task for task in benchmark.tasks} == {"classification", "vqa", "retrieval", "grounding", "video"}
    assert {task.distribution for task in benchmark.tasks} == {"in", "out"}


def test_clips_are_frames_and_files(scenes: Path) -> None:
    numbers = {"SceneVideo_t2v": {8}, "SceneVideo_v2t": {8}, "SceneVideoWhat_t2v": {2, 3, 4}}
    for name, row in rows(scenes, "eval"):
        for path in filter(None, [row["qry_img_path"], *row["tgt_img_path"]] if name in numbers else []):  # type: ignore[misc]
            assert len(open_video(str(path), scenes)) in numbers[name]
    files = sorted((scenes / "video_files").iterdir())
    assert len(files) == 3
    assert len(open_video(str(files[0].relative_to(scenes)), scenes, num_frames=8)) == 8


def test_candidates_differ_in_content(scenes: Path) -> None:
    for name, row in rows(scenes, "eval"):
        paths = row["tgt_img_path"]
        pictures = [
            [(scenes / path).read_bytes() for path in [path]] if path.endswith(".png") else path
            for path in paths  # type: ignore[union-attr]
        ]
        candidates = Counter(json.dumps([text, str(p)]) for text, p in zip(row["tgt_text"], pictures, strict=True))  # type: ignore[call-overload]
        assert max(candidates.values()) == 1, (name, row["qry_text"])


def test_no_evaluated_picture_is_trained_on(scenes: Path) -> None:
    trained = {str(row[key]) for _, row in rows(scenes, "train") for key in ("qry_image_path", "pos_image_path")}
    evaluated = {str(path) for _, row in rows(scenes, "eval") for path in [row["qry_img_path"], *row["tgt_img_path"]]}  # type: ignore[misc]
    pixels = {(scenes / path).read_bytes() for path in trained - {""}}
    overlap = [path for path in evaluated - {""} if path.endswith(".png") and (scenes / path).read_bytes() in pixels]
    assert not [path for path in overlap if "crop" not in path]


def test_each_scene_of_a_cube_fits_one_description_and_neighbours_differ_in_one_attribute() -> None:
    made = next(filter(None, (_sound_cube(Random(seed), False) for seed in range(20))))
    cube, drawn = made
    for index, corner in enumerate(cube.corners):
        assert [corner.judge(scene) for scene in drawn].count(True) == 1
        for other in cube.neighbours(index):
            changed = [slot for slot in slots(corner) if slot.get(corner) != slot.get(cube.corners[other])]
            assert len(changed) == 1


def test_a_question_has_one_answer_and_a_phrase_one_thing() -> None:
    for seed in range(50):
        case = question(Random(seed))
        scene = case.query.picture.frames[0]  # type: ignore[union-attr]
        values = {value for thing in scene.things for value in (thing.shape, thing.color, thing.size)}
        assert case.answer.text in values
        assert case.answer.text not in {side.text for side in case.wrong}
        things = grounding(Random(seed)).query.picture.frames[0].things  # type: ignore[union-attr]
        assert len(set(things)) == 6


def test_training_also_asks_easier_questions_and_every_answer_is_true() -> None:
    """About a thing that stands alone, by color and by side; answered from the geometry, not from how it was made."""
    kinds: Counter[str] = Counter()
    for seed in range(600):
        case = question(Random(seed), plain=0.3)
        objects = case.query.picture.frames[0].objects  # type: ignore[union-attr]
        asked = case.query.text.split("question: ")[1].strip().rstrip("?")
        sides = {
            "on the left": min(objects, key=lambda placed: placed.x),
            "on the right": max(objects, key=lambda placed: placed.x),
            "at the top": min(objects, key=lambda placed: placed.y),
            "at the bottom": max(objects, key=lambda placed: placed.y),
        }
        meant = [placed for side, placed in sides.items() if asked.endswith(f" {side}")]
        meant += [placed for placed in objects if asked == f"Which shape is {placed.thing.color}"]
        by_shape = [placed for placed in objects if asked.endswith(f" is the {placed.thing.shape}")]
        kinds["alone" if len(objects) == 1 else "easier" if meant else "as evaluated"] += 1
        if not meant + by_shape:
            assert asked.startswith("Which shape is") and case.answer.text in {o.thing.shape for o in objects}
            continue
        (thing,) = (placed.thing for placed in meant + by_shape)
        attribute = "color" if asked.startswith("What color") else "size" if "size" in asked else "shape"
        assert case.answer.text == getattr(thing, attribute), asked
        values = {getattr(placed.thing, attribute) for placed in objects}
        assert len(values) == 1 or {case.answer.text, case.wrong[0].text} == values
    assert 200 < kinds["alone"] < 280 and 90 < kinds["easier"] < 150 and 200 < kinds["as evaluated"] < 280, kinds
    for seed in range(200):
        case = question(Random(seed))
        assert len(case.query.picture.frames[0].objects) == 2  # type: ignore[union-attr]
        assert not case.query.text.endswith(("left?\n", "right?\n", "top?\n", "bottom?\n"))


def test_clips_of_what_is_shown_differ_in_that_alone() -> None:
    """Eight things that change alike: two shapes, two colors, two backgrounds in all combinations; three near-misses
    stand first.
    """
    changes = set()
    for seed in range(60):
        case = caption_to_clip(Random(seed))
        clips = [side.picture.frames for side in (case.answer, *case.wrong)]  # type: ignore[union-attr]
        assert 2 <= len(clips[0]) <= 4
        assert len({tuple(replace(f.objects[0], thing=None) for f in frames) for frames in clips}) == 1  # type: ignore[arg-type]
        shown = [(frames[0].things[0].shape, frames[0].things[0].color, frames[0].background) for frames in clips]
        assert all(frame.things[0] == frames[0].things[0] for frames in clips for frame in frames)
        assert len(set(shown)) == 8
        assert [len(set(values)) for values in zip(*shown, strict=True)] == [2, 2, 2]
        assert [sum(a != b for a, b in zip(shown[0], other, strict=True)) for other in shown[1:4]] == [1, 1, 1]
        shape, color, background = shown[0]
        assert case.query.text.endswith(f"{color} {shape} on a {background} background\n")
        first, last = clips[0][0].objects[0], clips[0][-1].objects[0]
        assert (first.x, first.y, first.radius, first.angle) != (last.x, last.y, last.radius, last.angle)
        changes.add((first.radius != last.radius, first.angle != last.angle))
        assert abs(first.angle - last.angle) <= 30
    assert changes == {(False, False), (True, False), (False, True)}  # moving, growing, turning


def test_a_caption_of_a_clip_names_what_it_shows() -> None:
    case = clip_to_caption(Random(3))
    thing = case.query.picture.frames[0].things[0]  # type: ignore[union-attr]
    assert f"{thing.color} {thing.shape} on a" in case.answer.text
    assert len({side.text for side in (case.answer, *case.wrong)}) == 8


@pytest.mark.parametrize("shape", SHAPES)
def test_a_turned_thing_is_whole(shape: str) -> None:
    """Nothing of it is cut off, and it is as large as before but for the pixels of its edge."""
    straight = np.asarray(_mask(shape, 60, 0), dtype=float)
    for angle in range(1, 360, 13):
        turned = np.asarray(_mask(shape, 60, angle), dtype=float)
        assert not np.concatenate((turned[[0, -1]].ravel(), turned[:, [0, -1]].ravel())).any()
        assert turned.sum() == pytest.approx(straight.sum(), rel=0.04)
    thing = place(Thing(shape, "red", "large"), 128, 128)
    pictures = {draw(Scene((replace(thing, angle=angle),), "white")).tobytes() for angle in (0, 20)}
    assert len(pictures) == 2 or shape in ("circle", "ring")


def test_held_out_pairs_are_never_trained_on() -> None:
    assert not any(thing.held_out for seed in range(200) for thing in random_scene(Random(seed)).things)
    assert all(random_description(Random(seed), held_out=True).first.held_out for seed in range(50))


def test_a_caption_read_off_a_scene_is_true_of_it() -> None:
    for seed in range(100):
        description = random_description(Random(seed))
        scene = description.place(Random(seed))
        assert description.judge(scene) is True
        assert scene.caption() == description.text()


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ValueError, match="is not empty"):
        write_scenes(tmp_path)
    with pytest.raises(ValueError, match="one a task"):
        write_scenes(tmp_path / "new", train_pairs=3)


def test_scenes_that_lie_there_already_are_kept(tmp_path: Path) -> None:
    root = write_scenes(tmp_path / "scenes", train_pairs=8, eval_queries=14)
    stamps = {file: file.stat().st_mtime_ns for file in root.rglob("*")}
    assert write_scenes(root, train_pairs=8, eval_queries=14) == root
    assert {file: file.stat().st_mtime_ns for file in root.rglob("*")} == stamps
    with pytest.raises(ValueError, match="is not empty"):
        write_scenes(root, train_pairs=8, eval_queries=14, seed=1)
    (root / ".scenes").write_text("{")  # a disk that was full
    with pytest.raises(ValueError, match="is not empty"):
        write_scenes(root, train_pairs=8, eval_queries=14)
