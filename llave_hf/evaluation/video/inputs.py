"""The distinct inputs of text-video retrieval: each caption once, each video once for every number of frames.

Shapes: C captions, V videos, K numbers of frames.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from llave_hf import distributed
from llave_hf.data.samples import Sample
from llave_hf.data.vectors.store import Keys, VectorStore
from llave_hf.evaluation.benchmark.fields import BenchmarkError
from llave_hf.evaluation.benchmark.inputs import DistinctInputs
from llave_hf.evaluation.benchmark.raw import RawInput
from llave_hf.evaluation.scoring.metrics import FloatArray, IntArray
from llave_hf.model.media_llave import Clip, MediaError, Timeline
from llave_hf.model.processing_llave import LlaveProcessor

from .data import VideoSet
from .frames import read_samples
from .protocols import Protocol

VIDEO_TOKENS = 8192  # the paper's longest sequence where there is a video


class VideoInputs(DistinctInputs):
    """Numbers captions and clips; a video is opened once for all its clips.

    Args:
        protocol: Says which captions are queries, which frames are taken, and what stands around them.
        frames: (K,) numbers of frames.
        processor: The model's own, to count visual tokens; None: they are not known.

    Attributes:
        captions: (C,) numbers of the captions, video by video.
        caption_videos: (C,) the video of each, from 0, ascending.
        clips: (K, V) numbers of the videos' clips.
    """

    def __init__(
        self, videos: VideoSet, protocol: Protocol, frames: Sequence[int], processor: LlaveProcessor | None
    ) -> None:
        super().__init__(None)
        self.videos, self.protocol, self.frames = videos.videos, protocol, list(frames)
        prompt = protocol.query_prompts[videos.dataset]
        chosen = [(at, text, v.place) for at, v in enumerate(self.videos) for text in protocol.captions(v.captions)]
        self.captions = np.array([self.add(RawInput(prompt + text, (), ""), place) for _, text, place in chosen])
        self.caption_videos = np.array([at for at, _, _ in chosen])
        self._first_clip = len(self)
        shape = len(self.frames), len(self.videos)
        self.clips = self._first_clip + np.arange(shape[1] * shape[0]).reshape(shape[::-1]).T
        for video in self.videos:
            sample = Sample(protocol.video_prompt, (), str(video.path))
            key = Sample(protocol.video_prompt, (), video.name).key()
            self.samples += [sample] * len(self.frames)
            self.keys += [key] * len(self.frames)
            self._places += [video.place] * len(self.frames)
        self._tokens = _VisualTokens(processor)
        self._open: tuple[int, list[Clip]] = -1, []
        self._measured: dict[int, tuple[int, float]] = {}

    def load(self, number: int) -> str | dict[str, Any]:
        """A caption with its prompt, or the frames of a clip with theirs.

        Raises:
            BenchmarkError: a video is broken; the message names row and file.
        """
        if number < self._first_clip:
            return super().load(number)
        at, place = divmod(number - self._first_clip, len(self.frames))
        if self._open[0] != at:
            try:
                self._open = at, read_samples(self.videos[at].path, self._choose)
            except (MediaError, OSError) as error:
                raise BenchmarkError(f"{self.place(number)}: {error}") from error
            for clip, frames in zip(self.clips[:, at].tolist(), self._open[1], strict=True):
                self._measured[clip] = len(frames), self._tokens.count(frames)
        return {"text": self.protocol.video_prompt, "video": self._open[1][place]}

    def content_keys(self, numbers: IntArray) -> Keys:
        """(n, 2) keys by texts, the bytes of videos, and which frames are taken of these."""
        keys = super().content_keys(numbers)
        # also of captions: `takes_all_frames` cuts them later than the model's own settings, by which others encode
        sequence, decoder = f"{VIDEO_TOKENS} tokens", f"av {version('av')}, as players show it"
        for key, number in zip(keys, numbers.tolist(), strict=True):
            reading = sequence
            if number >= self._first_clip:
                frames = self.frames[(number - self._first_clip) % len(self.frames)]
                reading += f", {self.protocol.name}, {frames} frames, {decoder}"
            digest = hashlib.blake2b(key.tobytes() + reading.encode(), digest_size=key.nbytes)
            key[:] = np.frombuffer(digest.digest(), dtype=key.dtype)
        return keys

    def encoding_order(self) -> IntArray:
        """(M,) videos before captions, so that what is broken is found early; on several ranks a video's clips are
        one rank's, as long as there are captions enough to make the shares equal."""
        world_size = distributed.world_size()
        room = [len(range(rank, len(self), world_size)) for rank in range(world_size)]
        shares: list[list[int]] = [[] for _ in room]
        rest: list[int] = []
        for clips in self.clips.T.tolist():
            rank = min(range(world_size), key=lambda rank: len(shares[rank]))
            (shares[rank] if len(shares[rank]) + len(clips) <= room[rank] else rest).extend(clips)
        rest += sorted(range(self._first_clip), key=lambda number: len(self.samples[number].text))
        left = iter(rest)
        for share, size in zip(shares, room, strict=True):
            share.extend(next(left) for _ in range(size - len(share)))
        order = np.empty(len(self), dtype=np.int64)
        for rank, share in enumerate(shares):
            order[rank::world_size] = share
        return order

    def measured(self, store: VectorStore | None) -> tuple[IntArray, FloatArray]:
        """(K, V) twice, after encoding: frames that each clip had, and its visual tokens (NaN: not known).

        Args:
            store: has both for clips whose vectors came from a cache, and is told of the others; None: no cache.
        """
        if store is not None:
            self._recall(store)
        known: dict[int, tuple[int, float]] = {}
        for part in distributed.all_gather_object(self._measured):
            known |= part
        frames = np.array([known[number][0] for number in self.clips.flat])
        tokens = np.array([known[number][1] for number in self.clips.flat], dtype=np.float64)
        return frames.reshape(self.clips.shape), tokens.reshape(self.clips.shape)

    def _recall(self, store: VectorStore) -> None:
        """What this rank did not open; a clip of a run that was stopped may be in no store, and is opened."""
        share = self.encoding_order()[distributed.rank() :: distributed.world_size()]
        clips = share[share >= self._first_clip]
        keys = self.content_keys(clips)
        places = store.find(keys)
        known, new = np.flatnonzero(places >= 0), np.flatnonzero(places < 0)
        for positions, rows in store.read(places[known]):
            for number, (frames, tokens) in zip(clips[known[positions]].tolist(), rows.tolist(), strict=True):
                self._measured[number] = int(frames), tokens
        for number in clips[new].tolist():
            if number not in self._measured:
                self.load(number)
        if len(new):
            store.add(keys[new], np.array([self._measured[n] for n in clips[new].tolist()], dtype=np.float32))

    def _choose(self, timeline: Timeline) -> list[list[int]]:
        return [self.protocol.indices(timeline, count) for count in self.frames]


class _VisualTokens:
    """Counts what the processor makes of a clip; clips of one length and size have the same count."""

    def __init__(self, processor: LlaveProcessor | None) -> None:
        self._processor = processor
        self._known: dict[tuple[int, tuple[int, int]], int] = {}

    def count(self, frames: list[Image.Image]) -> float:
        if self._processor is None:
            return math.nan
        shape = len(frames), frames[0].size
        if shape not in self._known:
            tokens = self._processor(text=[""], videos=[frames])["input_ids"]
            self._known[shape] = int((tokens == self._processor.video_token_id).sum())
        return self._known[shape]


def processor_of(encoder: Any) -> LlaveProcessor | None:
    """The processor of a LLaVE model's encoder; None: it is something else."""
    processor = getattr(encoder, "processor", None)
    return processor if isinstance(processor, LlaveProcessor) else None


@contextlib.contextmanager
def takes_all_frames(processor: LlaveProcessor | None, frames: int) -> Iterator[None]:
    """The protocol says which frames a video gives: within, the processor leaves none out."""
    if processor is None:
        yield
        return
    before = processor.num_frames, processor.max_frames, processor.max_length
    processor.num_frames, processor.max_frames = None, max(frames, processor.max_frames)
    processor.max_length = max(VIDEO_TOKENS, processor.max_length)
    try:
        yield
    finally:
        processor.num_frames, processor.max_frames, processor.max_length = before
