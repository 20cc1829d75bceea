"""The vector of an input is its own: property tests over random mixes, sizes, modes, paddings, batches and orders."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
import torch
from backbones import KINDS, save_backbone
from helpers import picture, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st

from llave_hf import LlaveModel, LlaveProcessor

TOLERANCE = 1e-6
MODES = ("RGB", "L", "RGBA", "P", "1", "LA", "CMYK")
SIZES = st.tuples(st.integers(3, 90), st.integers(3, 90))
IMAGES = st.builds(
    lambda size, seed, mode: picture(*size, seed=seed, mode=mode), SIZES, st.integers(0, 50), st.sampled_from(MODES)
)
CLIPS = st.builds(
    lambda count, size, seed: [picture(*size, seed=seed + frame) for frame in range(count)],
    st.integers(1, 5),
    st.tuples(st.integers(8, 40), st.integers(8, 40)),
    st.integers(0, 50),
)
TEXTS = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=30) | st.sampled_from(
    ["", "\n", "\nWhat?", "a dog <image> in the snow <|im_end|>", "<|endoftext|>", "snow " * 12]
)
SAMPLES = st.tuples(TEXTS, st.lists(IMAGES, max_size=3), st.none() | CLIPS)


@cache
def embedder(kind: str) -> tuple[LlaveModel, LlaveProcessor]:
    if kind == "tiny":
        return tiny_model(processor={"video_newline": "one_token"})
    folder = save_backbone(Path(mkdtemp()) / kind, kind)
    return LlaveModel.from_pretrained(folder).eval(), LlaveProcessor.from_pretrained(folder)


@torch.no_grad()
def embed(kind: str, samples: list[Any], **options: Any) -> np.ndarray:
    model, processor = embedder(kind)
    texts, images, videos = (list(column) for column in zip(*samples, strict=True))
    return model(**processor(text=texts, images=images, videos=videos, **options)).embeddings.numpy()


@pytest.mark.parametrize("kind", ["tiny", *KINDS])
@given(data=st.data())
@settings(max_examples=30)
def test_batch_padding_and_order_do_not_matter(kind: str, data: st.DataObject) -> None:
    samples = data.draw(st.lists(SAMPLES, min_size=1, max_size=6))
    alone = np.concatenate([embed(kind, [sample]) for sample in samples])
    assert np.abs(np.linalg.norm(alone, axis=1) - 1).max() <= TOLERANCE
    order = data.draw(st.permutations(range(len(samples))))
    size = data.draw(st.integers(1, len(samples)))
    side = data.draw(st.sampled_from(["left", "right"]))
    multiple = data.draw(st.sampled_from([None, 8]))
    for start in range(0, len(order), size):
        chosen = list(order[start : start + size])
        batch = embed(kind, [samples[index] for index in chosen], padding_side=side, pad_to_multiple_of=multiple)
        assert np.abs(batch - alone[chosen]).max() <= TOLERANCE


@given(text=st.text(min_size=80, max_size=300), image=IMAGES, room=st.integers(0, 40))
@settings(max_examples=20)
def test_a_long_text_is_cut_in_the_users_part(text: str, image: Any, room: int) -> None:
    """The prompt before and after stays to the token, the picture whole, and the rest is a beginning of the text."""
    _, processor = embedder("tiny")
    empty = processor(text=[""], images=[image])["input_ids"][0].tolist()
    whole = processor(text=[text], images=[image], max_length=10**6)["input_ids"][0].tolist()
    suffix = 9  # <|im_end|> \n <|im_start|> assistant\n\n <|im_end|> \n, at least
    length = len(empty) + room
    cut = processor(text=[text], images=[image], max_length=length)["input_ids"][0].tolist()
    assert len(cut) == min(length, len(whole))
    kept = len(cut) - _common_suffix(empty, whole)
    assert cut[:kept] == whole[:kept]
    assert cut[kept:] == whole[len(whole) - (len(cut) - kept) :]
    assert _common_suffix(cut, whole) >= min(suffix, _common_suffix(empty, whole))


def _common_suffix(left: list[int], right: list[int]) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[-1 - count] == right[-1 - count]:
        count += 1
    return count


@pytest.mark.parametrize("newline", ["one_token", "frame", "grid", "no_token"])
@given(counts=st.lists(st.integers(1, 6), min_size=2, max_size=4))
@settings(max_examples=6)
def test_videos_of_unequal_length(newline: str, counts: list[int]) -> None:
    model, processor = tiny_model(processor={"video_newline": newline})
    clips = [[picture(20, 16, seed=frame) for frame in range(count)] for count in counts]
    with torch.no_grad():
        alone = torch.cat([model(**processor(videos=[clip])).embeddings for clip in clips])
        together = model(**processor(videos=clips)).embeddings
    assert float((together - alone).abs().max()) <= TOLERANCE
