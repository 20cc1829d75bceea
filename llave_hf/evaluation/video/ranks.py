"""Ranks text-video retrieval in both directions.

Text to video: each caption's video among all videos. Video to text, as CLIP4Clip counts it: each video's captions
among those of all videos, where a video's captions stand together at the place of the best of them; so a video that
has many captions above the right one costs one rank, not many.

Shapes: C captions, V videos, M distinct inputs, D dimensions; v videos of a block, T distinct vectors of captions.
"""

from __future__ import annotations

import numpy as np

from llave_hf import distributed
from llave_hf.evaluation.benchmark.benchmark import Task
from llave_hf.evaluation.benchmark.collection import TaskInputs
from llave_hf.evaluation.retrieval.retrieval import rank_tasks
from llave_hf.evaluation.retrieval.vectors import Embeddings
from llave_hf.evaluation.scoring.metrics import AnswerRanks, FloatArray, IntArray

from .inputs import VideoInputs

BLOCK_SCORES = 1 << 24  # cosines in memory at once
TILE = 8192  # vectors of captions scored at once


def rank_text_to_video(inputs: VideoInputs, embeddings: Embeddings, vector_ids: IntArray) -> list[AnswerRanks]:
    """The ranks of the captions' videos (C,) for each number of frames.

    Args:
        embeddings: (M, D), L2-normalised.
        vector_ids: (M,) from :func:`normalise`.
    """
    tasks = [
        TaskInputs(
            Task(f"{frames} frames", "video", "out", "recall_at_1", "global"),
            queries=inputs.captions,
            answers=clips[inputs.caption_videos],
            pools=[clips.astype(np.int32)],
        )
        for frames, clips in zip(inputs.frames, inputs.clips, strict=True)
    ]
    return rank_tasks(tasks, embeddings, vector_ids)


def rank_video_to_text(inputs: VideoInputs, embeddings: Embeddings, vector_ids: IntArray) -> list[AnswerRanks]:
    """The ranks of the videos' captions (V,) for each number of frames; arguments as above."""
    vectors, place = np.unique(vector_ids[inputs.captions], return_inverse=True)
    place = place.reshape(-1)
    starts = np.searchsorted(inputs.caption_videos, np.arange(len(inputs.videos)))
    size = max(1, BLOCK_SCORES // len(place))
    blocks = [(k, start) for k in range(len(inputs.frames)) for start in range(0, len(inputs.videos), size)]
    rank, world_size = distributed.rank(), distributed.world_size()
    found = []
    for k, start in blocks[rank::world_size]:
        videos = embeddings[inputs.clips[k, start : start + size]]
        best = np.maximum.reduceat(_scores(videos, embeddings, vectors)[:, place], starts, axis=1)  # (v, V)
        own = best[np.arange(len(videos)), start + np.arange(len(videos))][:, None]
        found.append(((best > own).sum(axis=1), (best == own).sum(axis=1) - 1))
    above, tied = np.zeros((2, *inputs.clips.shape), dtype=np.int64)
    for share, parts in enumerate(distributed.all_gather_object(found)):
        for (k, start), part in zip(blocks[share::world_size], parts, strict=True):
            above[k, start : start + size], tied[k, start : start + size] = part
    candidates = np.full(len(inputs.videos), len(inputs.videos))
    return [AnswerRanks(one, other, candidates) for one, other in zip(above, tied, strict=True)]


def expected_ranks(ranks: AnswerRanks) -> FloatArray:
    """(Q,) from 1; the middle of the ranks that ties allow."""
    return 1.0 + ranks.above + ranks.tied / 2.0


def _scores(videos: Embeddings, embeddings: Embeddings, vectors: IntArray) -> Embeddings:
    """(v, T) cosines, each distinct vector scored once, so that equal vectors have equal scores."""
    scores = np.empty((len(videos), len(vectors)), dtype=np.float32)
    for start in range(0, len(vectors), TILE):
        scores[:, start : start + TILE] = videos @ embeddings[vectors[start : start + TILE]].T
    return scores
