"""The two protocols of zero-shot text-video retrieval; their numbers must never stand side by side.

`clip4clip` is the protocol of CLIP4Clip and of the LLaVE paper: on MSVD all captions of the 670 videos are queries.
`mmeb-v2` is MMEB-V2's: the first caption of a video alone, and 8 frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from llave_hf.model.media_llave import Timeline, sample_frames

DATASETS: Mapping[str, int] = {"msrvtt-1ka": 1000, "msvd": 670}  # with how many videos their tests have


@dataclass(frozen=True)
class Protocol:
    """What a protocol fixes.

    Attributes:
        query_prompts: by data set; a caption follows immediately.
        video_prompt: the text after the video; a processor may put a line break between them.
        all_captions: whether every caption of a video is a query, or its first one alone.
        frames: how many a video gives.
        stored_frames: a video is first cut to so many, `floor(i * total / stored_frames)`, and then sampled; None: it
            is sampled at once, three frames a second, uniformly over the whole where these are too many.
        description: for reports.
    """

    name: str
    query_prompts: Mapping[str, str]
    video_prompt: str
    all_captions: bool
    frames: int
    stored_frames: int | None
    description: str

    def captions(self, captions: tuple[str, ...]) -> tuple[str, ...]:
        """Those of a video's captions that are queries."""
        return captions if self.all_captions else captions[:1]

    def indices(self, timeline: Timeline, frames: int) -> list[int]:
        """Which frames of a video are looked at, ascending; fewer than `frames` where the video has fewer.

        Args:
            timeline: of the video; of a folder of frames, every one of which may be taken, their number alone.
        """
        if self.stored_frames is None:
            return sample_frames(timeline.total, timeline.fps, max_frames=frames, seconds=timeline.seconds)
        stored = min(timeline.total, self.stored_frames)
        kept = [number * timeline.total // stored for number in range(stored)]
        return [kept[place] for place in sample_frames(stored, None, num_frames=frames, max_frames=frames)]


PROTOCOLS: Mapping[str, Protocol] = {
    "clip4clip": Protocol(
        name="clip4clip",
        query_prompts=dict.fromkeys(DATASETS, "Find me an video that matches the given caption: "),
        video_prompt="Represent the given video.",
        all_captions=True,
        frames=32,
        stored_frames=None,
        description="every caption is a query; 3 frames a second, at most as many as named, uniformly over the video",
    ),
    "mmeb-v2": Protocol(
        name="mmeb-v2",
        query_prompts={
            "msrvtt-1ka": "Find a video that contains the following visual content: ",
            "msvd": "Find the video snippet that corresponds to the given summary: ",
        },
        video_prompt=" Understand the content of the provided video.",  # the published code has a space before it
        all_captions=False,
        frames=8,
        stored_frames=64,
        description="a video's first caption is a query; as many frames as named, uniformly from at most 64 of it",
    ),
}
