"""Evaluates zero-shot text-video retrieval: captions and videos, their vectors, ranks both ways."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llave_hf import distributed
from llave_hf.data.vectors.store import VectorStore
from llave_hf.errors import UserError
from llave_hf.evaluation.evaluate import check_places, name_of, open_encoder, open_store
from llave_hf.evaluation.retrieval.retrieval import normalise
from llave_hf.evaluation.retrieval.vectors import Encoder, encode_inputs

from .data import read_video_set
from .inputs import VideoInputs, processor_of, takes_all_frames
from .protocols import DATASETS, PROTOCOLS, Protocol
from .ranks import rank_text_to_video, rank_video_to_text
from .report import write_video_report
from .results import VideoResults

logger = logging.getLogger(__name__)


def evaluate_videos(
    model: Encoder | str | os.PathLike[str],
    dataset: str,
    protocol: str,
    data: str | os.PathLike[str],
    *,
    frames: Sequence[int] | None = None,
    captions: str | os.PathLike[str] | None = None,
    videos: str | os.PathLike[str] | None = None,
    output_dir: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    show_progress: bool = True,
    model_name: str | None = None,
    model_revision: str | None = None,
    cache: str | os.PathLike[str] | None = None,
    dtype: str | None = None,
) -> VideoResults:
    """Score an encoder on text-video retrieval, both ways; with several ranks each encodes a share.

    Captions are read and all videos opened before the model is loaded. Each video is then decoded once, whatever the
    numbers of frames, and each caption encoded once.

    Args:
        model: as in :func:`evaluate_benchmark`; so are `model_name`, `model_revision`, `dtype` and `cache`, where
            a clip's number of frames tells it from others of its video.
        dataset: `msrvtt-1ka` or `msvd`.
        protocol: `clip4clip` or `mmeb-v2`, see `video_protocols.py`.
        data: folder of captions and videos, see `video_data.py`.
        frames: numbers of frames a video, for a curve; None: the protocol's own.
        captions, videos: the caption file and the videos' folder, where `data` does not tell.
        output_dir: where the first rank writes `results.json`, `results.md`, `curve.csv`, `curve.png` and
            `per_query.safetensors`; None: nowhere.
        batch_size: inputs that the encoder takes at once.

    Raises:
        UserError: arguments or data that cannot be used; the message names file and row. Also as
            :func:`evaluate_benchmark`.
    """
    chosen, counts = _protocol(dataset, protocol), _counts(frames, protocol)
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}.")
    check_places(model, output_dir, cache)
    places = [None if path is None else Path(path) for path in (captions, videos)]
    video_set = read_video_set(dataset, Path(data), *places)
    if len(video_set.videos) != DATASETS[dataset]:
        logger.warning("%s has %d videos, not %d.", dataset, DATASETS[dataset], len(video_set.videos))
    encoder, identity = open_encoder(model, model_revision, dtype)
    processor = processor_of(encoder)
    inputs = VideoInputs(video_set, chosen, counts, processor)
    store = None if cache is None else open_store(Path(cache), identity)
    lengths = None if store is None else VectorStore(store.folder, f"frames and visual tokens, {store.identity}")
    with takes_all_frames(processor, counts[-1]):
        embeddings = encode_inputs(encoder, inputs, batch_size=batch_size, show_progress=show_progress, store=store)
        measured = inputs.measured(lengths)
    vector_ids = normalise(embeddings)
    results = VideoResults(
        model=model_name or name_of(model),
        identity=identity,
        videos=video_set,
        protocol=chosen,
        frames=counts,
        measured=measured,
        ranks={
            "text_to_video": rank_text_to_video(inputs, embeddings, vector_ids),
            "video_to_text": rank_video_to_text(inputs, embeddings, vector_ids),
        },
        inputs_digest=_digest(inputs),
    )
    if output_dir is not None and distributed.rank() == 0:
        write_video_report(results.to_dict(), results.per_query, Path(output_dir))
    return results


def _protocol(dataset: str, protocol: str) -> Protocol:
    for name, known, what in ((dataset, DATASETS, "data set"), (protocol, PROTOCOLS, "protocol")):
        if name not in known:
            raise UserError(f"There is no {what} {name!r}: choose {' or '.join(known)}.")
    return PROTOCOLS[protocol]


def _counts(frames: Sequence[int] | None, protocol: str) -> tuple[int, ...]:
    counts = tuple(sorted(set([PROTOCOLS[protocol].frames] if frames is None else frames)))
    most = PROTOCOLS[protocol].stored_frames
    if not counts or counts[0] < 1 or (most and counts[-1] > most):
        limit = f" and at most {most}, as {protocol} keeps no more of a video" if most else ""
        raise UserError(f"frames must be numbers of at least 1{limit}, not {list(counts)}.")
    return counts


def _digest(inputs: VideoInputs) -> str:
    numbers = np.concatenate([inputs.captions, inputs.clips[0]])
    keys = np.concatenate([np.array(inputs.keys, dtype=np.int64)[numbers], inputs.caption_videos])
    return f"sha256:{hashlib.sha256(keys.tobytes()).hexdigest()[:16]}"
