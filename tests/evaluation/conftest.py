from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_helpers import make_row, write_benchmark
from PIL import Image


@pytest.fixture
def mixed_benchmark(tmp_path: Path) -> Path:
    """Four subsets with lists of unequal lengths, pictures and a video of three frames."""
    (tmp_path / "images" / "clip").mkdir(parents=True)
    for number in range(12):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    for number in range(3):
        Image.new("RGB", (8, 8), (200, number, 0)).save(tmp_path / "images" / "clip" / f"{number:02d}.png")
    mark = "<|image_1|>\nRepresent the given image.\n"
    pictures = [f"images/{number}.png" for number in range(12)]
    words = [f"word {number}" for number in range(40)]
    subsets = {
        "Classes": [make_row("<|image_1|>\nWhich?\n", words[i : i + 3], image=pictures[i]) for i in range(12)],
        "Questions": [make_row(f"question {i}", words[i : i + 7 + i % 3]) for i in range(30)],
        "Pictures": [make_row(f"find {i}", [mark] * 12, target_images=pictures[i:] + pictures[:i]) for i in range(12)],
        "Clips": [make_row(mark, ["a clip", *words[:4]], image="images/clip")],
    }
    tasks = {
        "Classes": {"meta_task": "classification"},
        "Questions": {"meta_task": "vqa", "distribution": "out"},
        "Clips": {"meta_task": "video", "distribution": "out"},
    }
    return write_benchmark(tmp_path, subsets, tasks)
