"""Small sets of videos in the layouts of CLIP4Clip and of the Hub, and an encoder that knows nothing but levels."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers import write_video

LEVELS = {"video10": 20, "video3": 80, "video7": 140, "video8": 200}
CAPTIONS = {
    "video10": ["a dark thing", "night", "nothing to see"],
    "video3": ["dusk"],
    "video7": ["a cloudy day", "night"],
    "video8": ["noon", "snow", "a bright thing", "paper"],
}


def write_videos(folder: Path, frames: int = 12) -> None:
    """A video a level; each gets a little brighter, so that no two of its frames are alike."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, level in LEVELS.items():
        write_video(folder / f"{name}.mp4", range(level, level + 2 * frames, 2))


def write_msrvtt(folder: Path, captions: dict[str, list[str]] = CAPTIONS) -> Path:
    """CLIP4Clip's MSR-VTT 1k-A."""
    write_videos(folder / "videos")
    with (folder / "MSRVTT_JSFUSION_test.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["key", "vid_key", "video_id", "sentence"])
        for number, (name, texts) in enumerate(captions.items()):
            writer.writerow([f"ret{number}", f"msr{name[5:]}", name, texts[0]])
    return folder


def write_msvd(folder: Path) -> Path:
    """CLIP4Clip's MSVD with JSON in place of the pickle, captions as lists of words, training's videos among them."""
    write_videos(folder / "YouTubeClips")
    (folder / "msvd_data").mkdir()
    (folder / "msvd_data" / "test_list.txt").write_text("\n".join(LEVELS) + "\n")
    captions = {"of_training": [["not", "here"]]} | {
        name: [text.split(" ") for text in texts] for name, texts in reversed(CAPTIONS.items())
    }
    (folder / "msvd_data" / "raw-captions.json").write_text(json.dumps(captions))
    return folder


def hub_rows(first_only: bool = False) -> list[dict[str, Any]]:
    rows = []
    for name, texts in CAPTIONS.items():
        rows.append({"video_id": name, "video": f"{name}.mp4", "caption": texts[0] if first_only else texts, "id": 1})
    return rows


def write_hub(folder: Path, rows: list[dict[str, Any]], place: str) -> Path:
    """The Hub's rows as parquet shards, and the videos beside them."""
    write_videos(folder)
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate((rows[:2], rows[2:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"{place}-{number:05d}-of-00002.parquet")
    return folder


class LevelEncoder:
    """Vectors from a text, or from the mean level and the number of frames of a video; remembers its inputs."""

    def __init__(self, vector: Callable[[Any], Sequence[float]]) -> None:
        self.vector = vector
        self.seen: list[Any] = []

    def encode(self, inputs: list[Any], **_: Any) -> np.ndarray:
        self.seen += inputs
        keys = [entry if isinstance(entry, str) else level_of(entry["video"]) for entry in inputs]
        return np.array([self.vector(key) for key in keys], dtype=np.float32)


def distinct(dimensions: int = 8) -> LevelEncoder:
    """A random direction for every text and level."""

    def vector(key: Any) -> np.ndarray:
        return np.random.default_rng(list(str(key).encode())).standard_normal(dimensions)

    return LevelEncoder(vector)


def level_of(frames: Sequence[Any]) -> int:
    """The level of the video in `LEVELS` that these frames are nearest to."""
    mean = float(np.mean([np.asarray(frame) for frame in frames])) - 11
    return min(LEVELS.values(), key=lambda level: abs(level - mean))
