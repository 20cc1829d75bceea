"""What an evaluation of text-video retrieval found, and its form as `results.json`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

from llave_hf.encoding.model_identity import ModelIdentity, package_versions
from llave_hf.evaluation.scoring.metrics import AnswerRanks, FloatArray, IntArray, chance, recall_at_k
from llave_hf.evaluation.scoring.resampling import bootstrap_interval

from .data import VideoSet
from .protocols import DATASETS, Protocol
from .ranks import expected_ranks

CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class VideoResults:
    """What was found for one protocol.

    Attributes:
        frames: (K,) that were asked for, ascending.
        measured: (K, V) frames that each video had of these, and its visual tokens (NaN: not known).
        ranks: by direction, for each number of frames.
        inputs_digest: of captions with their prompts, and of the names of the videos.
    """

    model: str
    identity: ModelIdentity
    videos: VideoSet
    protocol: Protocol
    frames: tuple[int, ...]
    measured: tuple[IntArray, FloatArray]
    ranks: dict[str, list[AnswerRanks]]
    inputs_digest: str

    @property
    def per_query(self) -> dict[str, FloatArray]:
        """R@1 of each query, by direction and number of frames."""
        return {
            task_name(direction, frames): recall_at_k(ranks, 1)
            for direction, by_frames in self.ranks.items()
            for frames, ranks in zip(self.frames, by_frames, strict=True)
        }

    def to_dict(self) -> dict[str, Any]:
        """The content of `results.json`, which `llave compare` reads: the protocol is part of the benchmark's name."""
        protocol, dataset = self.protocol, self.videos.dataset
        return {
            "model": self.model,
            "model_revision": self.identity.revision,
            "dtype": self.identity.dtype,
            "prompt": self.identity.prompt,
            "benchmark": f"{dataset}, protocol {protocol.name}",
            "dataset": dataset,
            "revision": self.videos.revision,
            "videos": len(self.videos.videos),
            "videos_of_the_test": DATASETS[dataset],
            "protocol": {
                "name": protocol.name,
                "description": protocol.description,
                "frames": protocol.frames,
                "query_prompt": protocol.query_prompts[dataset],
                "video_prompt": protocol.video_prompt,
            },
            "versions": package_versions() | {"av": version("av")},
            "tasks": {
                task_name(direction, frames): self._task(direction, number)
                for direction in self.ranks
                for number, frames in enumerate(self.frames)
            },
        }

    def _task(self, direction: str, number: int) -> dict[str, Any]:
        ranks, (frames, tokens) = self.ranks[direction][number], (measured[number] for measured in self.measured)
        found: dict[str, Any] = {
            "direction": direction,
            "frames": self.frames[number],
            "mean_frames": float(np.mean(frames)),
            "visual_tokens": None if np.isnan(tokens).any() else float(np.mean(tokens)),
            "metric": "recall_at_1",
            "revision": self.videos.revision,
            "inputs": self.inputs_digest,
            "n": len(ranks.candidates),
            "candidates": int(ranks.candidates[0]),
            "chance": _mean(recall_at_k(chance(ranks), 1)),
            "median_rank": float(np.median(expected_ranks(ranks))),
            "mean_rank": _mean(expected_ranks(ranks)),
            "mean_rank_ci95": list(bootstrap_interval(expected_ranks(ranks))),
        }
        for k in CUTOFFS:
            found[f"recall_at_{k}"] = _mean(recall_at_k(ranks, k))
            found[f"recall_at_{k}_ci95"] = list(bootstrap_interval(recall_at_k(ranks, k)))
        return found


def task_name(direction: str, frames: int) -> str:
    """What results call a direction at a number of frames."""
    return f"{direction}, {frames} frames"


def _mean(values: FloatArray) -> float:
    return math.fsum(values) / len(values)
