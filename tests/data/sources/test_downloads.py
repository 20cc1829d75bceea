from __future__ import annotations

from pathlib import Path

import pytest

from llave_hf.data.sources.downloads import missing_data
from llave_hf.data.sources.specs import read_specs


def missing(train_data: object, **defaults: object) -> list[str]:
    specs = read_specs(train_data, **defaults)  # type: ignore[arg-type]
    return [str(one) for one in missing_data(specs)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, which may not be asked."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "cache"


def test_what_is_here_is_not_missing(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (cache / "datasets--me--pairs").mkdir(parents=True)
    sources = [{"path": str(tmp_path / "rows.jsonl"), "media_root": str(tmp_path)}, str(tmp_path), "me/pairs"]
    assert missing([*sources, str(tmp_path / "{0..3}.tar")]) == []


def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    (told,) = missing("me/pairs")
    assert told == (
        "me/pairs: its rows are not in the cache, and the Hub may not be asked; bring it by\n"
        "    hf download me/pairs --repo-type dataset"
    )
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    (one,) = missing_data(read_specs("me/pairs"))
    assert not one.needed and "downloaded as the run begins" in one.what


def test_pictures_that_lie_beside_the_rows_come_with_their_commands(tmp_path: Path) -> None:
    root = tmp_path / "MMEB-train"
    entries = [{"path": "TIGER-Lab/MMEB-train", "subsets": [name]} for name in ("CIRR", "NIGHTS")]
    (told,) = missing(entries, media_root=str(root))
    first, *commands = told.split("\n")
    assert first == f"TIGER-Lab/MMEB-train: there is no media_root {root}; bring it by"
    assert commands == [
        f"    hf download TIGER-Lab/MMEB-train --repo-type dataset --local-dir {root}",
        f"    (cd {root} && python unzip_file.py)",
    ]


def test_archives_that_are_not_unpacked(tmp_path: Path, cache: Path) -> None:
    (cache / "datasets--TIGER-Lab--MMEB-train").mkdir(parents=True)
    (tmp_path / "images_zip").mkdir()
    (tmp_path / "images").mkdir()
    (told,) = missing("TIGER-Lab/MMEB-train", media_root=str(tmp_path))
    assert told.startswith(f"TIGER-Lab/MMEB-train: nothing is unpacked in media_root {tmp_path}; bring it by\n")
    (tmp_path / "images" / "CIRR").mkdir()
    assert missing("TIGER-Lab/MMEB-train", media_root=str(tmp_path)) == []


def test_a_local_file_is_known_by_its_name(tmp_path: Path) -> None:
    root = tmp_path / "Hound" / "train_300k"
    (told,) = missing({"path": str(tmp_path / "video_qa_240k.jsonl"), "media_root": str(root)})
    assert told.startswith("ShareGPTVideo/train_video_and_instruction: there is no media_root ")
    assert f"there is no {tmp_path / 'video_qa_240k.jsonl'}" in told
    assert f"--local-dir {tmp_path / 'Hound'} --include 'train_300k/*'" in told and f"(cd {root} && for a in" in told
    assert missing(str(tmp_path / "mine.jsonl")) == [
        f"{tmp_path}/mine.jsonl: there is no {tmp_path}/mine.jsonl; check the path"
    ]
