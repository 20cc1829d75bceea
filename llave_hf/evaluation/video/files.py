"""Finds a data set's caption file and its videos in folders, and says what is missing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from llave_hf.data.folders import FolderWalk
from llave_hf.data.media import resolve_media_path
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.inputs import ROWS_NAMED
from llave_hf.model.media_llave import VIDEO_SUFFIXES, MediaError

from .frames import check_video

# What CLIP4Clip and the Hub's VLM2Vec/MSR-VTT (test_1k) and VLM2Vec/MSVD call their captions; paths below the folder.
CAPTION_FILES = {
    "msrvtt-1ka": r"(.*/)?MSRVTT_JSFUSION_test\.csv|(.*/)?[^/]*test_1k(/[^/]*|[^/]*)\.(parquet|jsonl?)",
    "msvd": r"(.*/)?raw-captions\.(json|pkl)|(.*/)?[^/]*test[^/]*\.(parquet|jsonl?)",
}
EXPECTED = {
    "msrvtt-1ka": "MSRVTT_JSFUSION_test.csv (CLIP4Clip), or test_1k of the Hub's VLM2Vec/MSR-VTT",
    "msvd": "test_list.txt and raw-captions.json (CLIP4Clip), or the test split of the Hub's VLM2Vec/MSVD",
}
SHARD = re.compile(r"-\d+-of-\d+(-[0-9a-f]+)?")


def find_caption_files(dataset: str, folder: Path) -> list[Path]:
    """The caption file of a data set, or its shards.

    Raises:
        BenchmarkError: there is none, or more than one.
    """
    pattern = re.compile(CAPTION_FILES[dataset])
    found: dict[str, list[Path]] = {}
    for path in FolderWalk(folder, Counter()):
        if path.name.startswith("."):
            continue
        place = path.relative_to(folder).as_posix()
        if pattern.fullmatch(place):
            found.setdefault(SHARD.sub("", place), []).append(path)
    readable = {name: files for name, files in found.items() if not name.endswith(".pkl")} or found
    if not readable:
        raise BenchmarkError(
            f"{folder} holds no captions of {dataset}: expected {EXPECTED[dataset]}; or name a file with --captions."
        )
    if len(readable) > 1:
        raise BenchmarkError(
            f"{folder} holds several caption files ({', '.join(sorted(readable))}): say which with --captions FILE."
        )
    return sorted(*readable.values())


def find_videos(places: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """The video of each name, a file or a folder of frames, anywhere below a folder; each can be opened.

    Args:
        places: names without suffix, and where each is asked for.

    Raises:
        BenchmarkError: videos are missing, broken or there twice; it counts them and names the first ones.
    """
    left_out: Counter[str] = Counter()
    found = _index(places.keys(), folder, left_out)
    problems = []
    for name, place in places.items():
        paths = found.get(name, [])
        if problem := _problem(name, paths, folder):
            problems.append(f"{place}: {problem}")
    if problems:
        named = "\n  ".join(problems[:ROWS_NAMED])
        raise BenchmarkError(
            f"{len(problems)} of {len(places)} video(s) cannot be used (the first are named):\n  {named}\n"
            f"Videos are looked for below {folder}: complete it, or say with --videos where they lie."
            + "".join(f" Not looked into: {count} {reason}." for reason, count in left_out.items())
        )
    return {name: path for name, (path,) in found.items()}


def _problem(name: str, paths: list[Path], folder: Path) -> str | None:
    if not paths:
        return f"there is no video {name}.mp4 (or another kind of video, or a folder {name} of frames)"
    if len(paths) > 1:
        return f"the video {name} is there {len(paths)} times ({paths[0]}, {paths[1]}): leave one"
    try:
        check_video(resolve_media_path(paths[0].relative_to(folder).as_posix(), folder))
    except (MediaError, OSError) as error:
        return str(error)
    return None


def _index(names: Collection[str], folder: Path, left_out: Counter[str]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in FolderWalk(folder, left_out, whole=names):
        name = path.name if path.is_dir() else path.stem
        if name in names and (path.is_dir() or path.suffix.lower() in VIDEO_SUFFIXES):
            known = found.setdefault(name, [])
            if path.resolve() not in {other.resolve() for other in known}:  # by a link and without it
                known.append(path)
    return found
