"""The distinct inputs of a benchmark: each text, picture or video is listed, checked and encoded once.

Queries and candidates of all subsets share one list, by content (:meth:`Sample.key`): MMEB's 36,000 queries name some
thirty million candidates, most of them again and again.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llave_hf.data.media import MediaError, load_sample, locate
from llave_hf.data.samples import Sample, sample_from
from llave_hf.data.vectors.content_digests import ContentDigests
from llave_hf.data.vectors.store import Keys
from llave_hf.evaluation.scoring.metrics import IntArray
from llave_hf.model.media_llave import MAX_FRAMES, frame_files
from llave_hf.model.media_pictures_llave import is_data_uri

from .fields import BenchmarkError
from .pictures import picture_folder
from .raw import RawInput

ROWS_NAMED = 5  # how many culprits a message lists


class DistinctInputs:
    """Numbers inputs by content, and remembers where each was seen first (subset and row) for messages.

    Args:
        media_root: what paths are relative to, but for stored pictures.
        num_frames: how many frames of a video are looked at, uniformly over its length; None: `load_sample`'s choice.
    """

    def __init__(self, media_root: Path | None, num_frames: int | None = None) -> None:
        self.media_root = media_root
        self.num_frames = num_frames
        self.samples: list[Sample] = []
        self.keys: list[int] = []  # by text and paths, wherever the media folder is
        self._places: list[str] = []
        self._by_raw: dict[RawInput, int] = {}
        self._by_key: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.samples)

    def add(self, raw: RawInput, place: str) -> int:
        """The number of this input; the same content always has the same."""
        number = self._by_raw.get(raw)
        if number is None:
            sample = self._sample(raw, place)
            key = replace(sample, media_root=None).key()
            number = self._by_key.setdefault(key, len(self.samples))
            if number == len(self.samples):
                self.samples.append(sample)
                self.keys.append(key)
                self._places.append(place)
            self._by_raw[raw] = number
        return number

    def check_media(self) -> None:
        """Look for every picture and video file, before any is opened.

        Raises:
            BenchmarkError: files are missing or may not be read; it counts them and names the first ones with subset
                and row.
        """
        problems: dict[str, str] = {}
        for sample, place in zip(self.samples, self._places, strict=True):
            for path in map(str, (*sample.images, *([sample.video] if sample.video else []))):
                if path not in problems and (problem := _problem(path, sample.media_root)):
                    problems[path] = f"{place}: {problem}"
        if problems:
            named = "\n  ".join(list(problems.values())[:ROWS_NAMED])
            raise BenchmarkError(
                f"{len(problems)} picture or video file(s) cannot be used (the first are named):\n  {named}\n"
                f"Paths are relative to {self.media_root}: correct `media`, give --data, or complete the data."
            )

    def load(self, number: int) -> str | dict[str, Any]:
        """The input in the form that `encode` takes: text, or a dict of text, image(s) and video with pictures opened.

        Raises:
            BenchmarkError: a file is broken; the message names subset, row and file.
        """
        sample = self.samples[number]
        if not sample.images and not sample.video:
            return sample.text
        try:
            loaded = load_sample(sample, self.num_frames)
        except (MediaError, OSError) as error:
            raise BenchmarkError(f"{self._places[number]}: {error}") from error
        encodable: dict[str, Any] = {"text": sample.text} if sample.text else {}
        if images := loaded.get("images"):
            encodable["image"] = images[0] if len(images) == 1 else images
        if (video := loaded.get("video")) is not None:
            encodable["video"] = video
        return encodable

    @property
    def reading(self) -> str:
        """How videos are read, where the benchmark says so."""
        return "" if self.num_frames is None else f"{self.num_frames} frames"

    def place(self, number: int) -> str:
        """Subset and row where the input was seen first."""
        return self._places[number]

    def content_keys(self, numbers: IntArray) -> Keys:
        """(n, 2) keys by the bytes of texts, pictures and videos, and by how videos are read.

        Raises:
            BenchmarkError: a file cannot be read.
        """
        digests = ContentDigests(self.reading or f"at most {MAX_FRAMES} frames")
        try:
            return digests.keys(self.samples[number] for number in numbers)
        except (MediaError, OSError) as error:
            raise BenchmarkError(f"A picture or video cannot be read: {error}") from error

    def encoding_order(self) -> IntArray:
        """(M,) texts, pictures and videos apart, alike lengths together: little padding in a batch."""
        size = [(bool(sample.video), len(sample.images), len(sample.text)) for sample in self.samples]
        return np.array(sorted(range(len(size)), key=size.__getitem__), dtype=np.int64)

    def _sample(self, raw: RawInput, place: str) -> Sample:
        try:
            raw.text.encode()
        except UnicodeEncodeError as error:
            raise BenchmarkError(
                f"{place}: the text {raw.text!r:.80} has half a character (a lone surrogate), which no tokenizer "
                "takes: correct it."
            ) from error
        root = picture_folder() if raw.stored else self.media_root
        files = [path for path in (raw.video, *raw.images) if path and not is_data_uri(path)]
        if files and root is None:
            raise BenchmarkError(f"{place} needs {files[-1]}: say with --data DIR where the pictures lie.")
        try:
            sample = sample_from(raw.text, raw.images, raw.video or None, media_root=root)
        except ValueError as error:
            raise BenchmarkError(f"{place}: {error}") from error
        if sample.text != raw.text and not (sample.images or sample.video):
            raise BenchmarkError(
                f"{place}: the text {raw.text!r:.80} marks a picture, but no path is given: fill it in."
            )
        return sample


def _problem(path: str, root: str | None) -> str | None:
    """Why a picture, video or folder of frames cannot be used, as far as can be seen without opening it."""
    try:
        resolved = locate(path, root)
        if isinstance(resolved, Path) and resolved.is_dir() and not frame_files(resolved):
            return f"{resolved} holds no frame; fill or remove the folder."
    except (MediaError, OSError) as error:
        return str(error)
    return None
