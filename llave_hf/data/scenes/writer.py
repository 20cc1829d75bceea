"""Writes the scenes data set in MMEB's layout, so that it goes through the same loaders as any other."""

from __future__ import annotations

import io
import json
import os
import zlib
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from llave_hf.runtime.version import __version__

from .drawing import LARGE_PICTURE_SIZE, PICTURE_SIZE, draw, draw_crop
from .grammar import Scene
from .tasks import TASKS, Case, Picture, Side, Task

VIDEO_FILES = 3
_DRAWN = ".scenes"
NEAR_TEXTS = 2


def write_scenes(
    output_dir: str | os.PathLike[str], *, seed: int = 0, train_pairs: int = 4000, eval_queries: int = 600
) -> Path:
    """Draws the data set: `train/`, `eval/`, `images/`, `video_files/`, `benchmark.yaml` and `README.md`.

    The same arguments give the same rows and pixels everywhere. No evaluated picture stands in a training row.

    Args:
        output_dir: A new or empty folder, or one that these arguments have filled, which is kept.
        seed: Of everything.
        train_pairs: Training rows in all, shared equally by the tasks that are trained.
        eval_queries: Evaluation queries in all.

    Raises:
        ValueError: The folder holds something else, or a task would get no row.
    """
    root = Path(output_dir)
    drawn = {"version": __version__, "seed": seed, "train_pairs": train_pairs, "eval_queries": eval_queries}
    if root.exists() and any(root.iterdir()):
        if _drawn(root) == drawn:
            return root
        raise ValueError(f"{root} is not empty; choose a new folder, or remove it first.")
    trained = [task for task in TASKS if task.trained]
    if train_pairs < len(trained) or eval_queries < len(TASKS):
        raise ValueError(f"train_pairs and eval_queries must be at least {len(trained)} and {len(TASKS)}: one a task.")
    gallery = _Gallery(root)
    for task in trained:
        cases = _cases(task, train_pairs // len(trained), Random(f"{seed}/train/{task.name}"), gallery, seen=True)
        _write(root / "train" / task.name / "original-00000-of-00001.parquet", [_train_row(c, gallery) for c in cases])
    counts: dict[str, tuple[int, int]] = {}
    for task in TASKS:
        cases = _cases(task, eval_queries // len(TASKS), Random(f"{seed}/eval/{task.name}"), gallery, seen=False)
        _write(root / "eval" / task.name / "test-00000-of-00001.parquet", [_eval_row(c, gallery) for c in cases])
        counts[task.name] = (len(cases), 1 + len(cases[0].wrong))
    _write_texts(root, counts, train_pairs // len(trained))
    gallery.write_video_files()
    # Last, so that a folder with it is whole.
    (root / _DRAWN).write_text(json.dumps(drawn) + "\n", encoding="utf-8")
    return root


def _drawn(root: Path) -> object:
    """What a folder says that it was drawn from; None where it says nothing."""
    file = root / _DRAWN
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError:
        return None


class _Gallery:
    """The pictures of the data set, each drawn once; knows which scenes training has seen."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seen: set[Scene] = set()
        self._paths: dict[Picture, str] = {}

    def path(self, picture: Picture | None) -> str:
        if picture is None:
            return ""
        if picture not in self._paths:
            self._paths[picture] = self._draw(picture, len(self._paths))
        return self._paths[picture]

    def _draw(self, picture: Picture, number: int) -> str:
        if len(picture.frames) > 1:
            folder = f"images/video/v{number:05d}"
            for index, scene in enumerate(picture.frames):
                self._save(draw(scene, PICTURE_SIZE), f"{folder}/{index:02d}.png")
            return folder
        scene = picture.frames[0]
        if picture.crop is not None:
            return self._save(draw_crop(scene, picture.crop), f"images/crop/c{number:05d}.png")
        size = LARGE_PICTURE_SIZE if picture.large else PICTURE_SIZE
        return self._save(draw(scene, size), f"images/{'large' if picture.large else 'scene'}/s{number:05d}.png")

    def _save(self, image: Image.Image, path: str) -> str:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture_file(image))
        return path

    def write_video_files(self) -> None:
        """A few of the clips as .mp4."""
        import av

        clips = [picture for picture in self._paths if len(picture.frames) > 1][:VIDEO_FILES]
        (self.root / "video_files").mkdir()
        for picture in clips:
            name = Path(self._paths[picture]).name
            with av.open(str(self.root / "video_files" / f"{name}.mp4"), "w") as container:
                stream = container.add_stream("mpeg4", rate=8)
                stream.width = stream.height = PICTURE_SIZE
                stream.pix_fmt = "yuv420p"
                for scene in picture.frames:
                    frame = av.VideoFrame.from_ndarray(np.asarray(draw(scene, PICTURE_SIZE)), format="rgb24")
                    container.mux(stream.encode(frame))
                container.mux(stream.encode())


def picture_file(image: Image.Image) -> bytes:
    """The content of a picture's file: the same for the same pixels."""
    content = io.BytesIO()
    image.save(content, "PNG", compress_level=6)
    return content.getvalue()


def _cases(task: Task, number: int, rng: Random, gallery: _Gallery, *, seen: bool) -> list[Case]:
    """`number` different cases; for evaluation, of scenes that training has not seen."""
    cases: list[Case] = []
    known: set[tuple[Side, Side]] = set()
    while len(cases) < number:
        case = task.make_training(rng) if seen else task.make(rng)
        if case is None or (case.query, case.answer) in known:
            continue
        scenes = {scene for side in (case.query, case.answer, *case.wrong) for scene in _scenes(side)}
        if not seen and scenes & gallery.seen:
            continue
        if seen:
            sides = (case.query, case.answer, *_negatives(case))
            gallery.seen |= {scene for side in sides for scene in _scenes(side)}
        known.add((case.query, case.answer))
        cases.append(case)
    return cases


def _scenes(side: Side) -> tuple[Scene, ...]:
    return side.picture.frames if side.picture else ()


def _negatives(case: Case) -> tuple[Side, ...]:
    """Near-misses of a training row: texts cost little, so two of them, but one picture."""
    return case.wrong[: 1 if case.answer.picture else NEAR_TEXTS]


def _train_row(case: Case, gallery: _Gallery) -> dict[str, object]:
    near = _negatives(case)
    return {
        "qry": case.query.text,
        "qry_image_path": gallery.path(case.query.picture),
        "pos_text": case.answer.text,
        "pos_image_path": gallery.path(case.answer.picture),
        "neg_text": [side.text for side in near],
        "neg_image_path": [gallery.path(side.picture) for side in near],
    }


def _eval_row(case: Case, gallery: _Gallery) -> dict[str, object]:
    candidates = (case.answer, *case.wrong)
    return {
        "qry_text": case.query.text,
        "qry_img_path": gallery.path(case.query.picture),
        "tgt_text": [side.text for side in candidates],
        "tgt_img_path": [gallery.path(side.picture) for side in candidates],
    }


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True)
    table = pa.Table.from_pylist(rows)
    # The name holds a digest: the cache of datasets tells two versions of a folder apart by names.
    digest = zlib.crc32(repr(rows).encode())
    pq.write_table(table, path.with_name(f"{path.stem}-{digest:08x}.parquet"))


def _write_texts(root: Path, counts: dict[str, tuple[int, int]], train_rows: int) -> None:
    tasks = {task.name: {"meta_task": task.meta_task, "distribution": task.distribution} for task in TASKS}
    benchmark = {
        "name": "scenes",
        "source": "eval",
        "media": ".",
        "split": "test",
        "metric": "precision_at_1",
        "tasks": tasks,
    }
    (root / "benchmark.yaml").write_text(yaml.safe_dump(benchmark, sort_keys=False), encoding="utf-8")
    lines = [
        "# Scenes",
        "",
        "Drawn shapes with captions from a grammar, in MMEB's layout: `python -m llave_hf.data.scenes DIR`.",
        "",
        "| subset | meta-task | distribution | training rows | queries | candidates | chance |",
        "|---|---|---|---:|---:|---:|---:|",
    ]
    for task in TASKS:
        queries, candidates = counts[task.name]
        rows = train_rows if task.trained else 0
        lines.append(
            f"| {task.name} | {task.meta_task} | {task.distribution} | {rows} | {queries} | {candidates} | "
            f"{100 / candidates:.1f} |"
        )
    (root / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
