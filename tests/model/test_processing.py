from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import picture, pictures, tiny_model, write_video
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor

from llave_hf import LlaveModel, LlaveProcessor

Tiny = tuple[LlaveModel, LlaveProcessor]
TAIL = "<|im_end|>\n<|im_start|>assistant\n\n<|im_end|>\n"


def equal(left: Any, right: Any) -> bool:
    return sorted(left) == sorted(right) and all(torch.equal(left[name], right[name]) for name in left)


def test_shapes_of_a_mixed_batch(tiny: Tiny) -> None:
    _, processor = tiny
    made = processor(
        text=["a dog", "what?", "", ""],
        images=[None, picture(56, 56), pictures([(28, 28), (56, 28)]), None],
        videos=[None, None, None, pictures([(30, 20)] * 3)],
    )
    side = 4
    assert made["image_sizes"].tolist() == [[56, 56], [28, 28], [28, 56]]
    assert made["image_num_tiles"].tolist() == [5, 2, 3]
    assert made["pixel_values"].shape == (10, 3, 28, 28)
    assert made["pixel_values_videos"].shape == (3, 3, 28, 28)
    assert made["video_num_frames"].tolist() == [3]
    tokens = (made["input_ids"] == processor.image_token_id).sum(1).tolist()
    one, two, three = (16 + rows * side * (columns * side + 1) for columns, rows in ((2, 2), (1, 1), (2, 1)))
    assert tokens == [0, one, two + three, 0]
    assert (made["input_ids"] == processor.video_token_id).sum(1).tolist() == [0, 0, 0, 3 * 4 + 1]
    assert made["attention_mask"].shape == made["input_ids"].shape
    assert set(made) <= set(processor.model_input_names)
    assert made["pixel_values"].dtype == torch.float32


def test_inputs_that_are_left_out(tiny: Tiny) -> None:
    _, processor = tiny
    image = picture()
    assert equal(processor(images=[image]), processor(text=[""], images=[[image]]))
    assert equal(processor(text="a dog"), processor(text=["a dog"], images=[None], videos=[None]))
    assert equal(processor(videos=[[image]]), processor(text=[""], videos=[[image]]))


def test_unpadded_samples_are_those_of_a_call_each(tiny: Tiny) -> None:
    _, processor = tiny
    text = ["short", "a longer text\n", "", "clip"]
    images = [None, picture(40, 30), pictures([(30, 50), (20, 20)]), None]
    videos = [None, None, None, pictures([(24, 24)] * 3)]
    made = processor.unpadded(text, images, videos)
    for row, features in enumerate(made):
        alone = dict(processor(text=[text[row]], images=[images[row]], videos=[videos[row]]))
        del alone["attention_mask"]
        assert set(features) == set(alone)
        assert torch.equal(features.pop("input_ids"), alone.pop("input_ids")[0])
        assert all(torch.equal(features[name], alone[name]) for name in alone)


def test_padding_on_either_side(tiny: Tiny) -> None:
    _, processor = tiny
    texts = ["a", "a dog in the snow and more"]
    right, left = (processor(text=texts, padding_side=side) for side in ("right", "left"))
    count = int(right["attention_mask"][0].sum())
    assert count < right["input_ids"].shape[1]
    assert torch.equal(right["input_ids"][0, :count], left["input_ids"][0, -count:])
    assert left["attention_mask"][0, -count:].all()
    assert not left["attention_mask"][0, :-count].any()
    assert processor(text=texts, pad_to_multiple_of=16)["input_ids"].shape[1] % 16 == 0
    assert processor(text=texts, padding="max_length", max_length=99)["input_ids"].shape[1] == 99


def test_sources_of_one_picture_give_the_same(tiny: Tiny, tmp_path: Path) -> None:
    _, processor = tiny
    image = picture()
    image.save(tmp_path / "a.png")
    pixels = np.array(image)
    expected = processor(images=[image])
    for source in (str(tmp_path / "a.png"), tmp_path / "a.png", pixels, pixels.transpose(2, 0, 1)):
        assert equal(processor(images=[source]), expected)
    assert equal(processor(images=[torch.from_numpy(pixels)]), expected)


def test_sources_of_one_video_give_the_same(tiny: Tiny, tmp_path: Path) -> None:
    _, processor = tiny
    frames = pictures([(30, 20)] * 3)
    for index, frame in enumerate(frames):
        frame.save(tmp_path / f"{index}.png")
    expected = processor(videos=[frames])
    stacked = np.stack([np.array(frame) for frame in frames])
    for source in (
        str(tmp_path),
        tmp_path,
        stacked,
        torch.from_numpy(stacked),
        [tmp_path / f"{i}.png" for i in (0, 1, 2)],
    ):
        assert equal(processor(videos=[source]), expected)


def test_frames_of_a_file_are_sampled(tiny: Tiny, tmp_path: Path) -> None:
    _, processor = tiny
    path = write_video(tmp_path / "clip.mp4", levels=range(0, 200, 10))
    assert processor(videos=[path])["video_num_frames"].tolist() == [7]
    assert processor(videos=[path], num_frames=4)["video_num_frames"].tolist() == [4]
    assert processor(videos=[path], max_frames=3)["video_num_frames"].tolist() == [3]
    assert processor(videos=[path], videos_kwargs={"num_frames": 2})["video_num_frames"].tolist() == [2]
    _, fixed = tiny_model(processor={"num_frames": 5})
    assert fixed(videos=[path])["video_num_frames"].tolist() == [5]


def test_image_tilings() -> None:
    images = [[picture(56, 28), picture(28, 56)], picture(56, 28)]
    counts = {
        tiling: tiny_model(processor={"image_tiling": tiling})[1](images=images)["image_num_tiles"].tolist()
        for tiling in ("anyres", "anyres_single", "none")
    }
    assert counts == {"anyres": [3, 3, 3], "anyres_single": [1, 1, 3], "none": [1, 1, 1]}


def test_truncation_warns_with_the_number_of_lost_tokens(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    _, processor = tiny
    whole = processor(text=["snow " * 50])
    with caplog.at_level(logging.WARNING):
        cut = processor(text=["a", "snow " * 50], max_length=60)
    lost = whole["input_ids"].shape[1] - 60
    assert f"row 1 of the batch is longer than max_length 60: the last {lost} tokens" in caplog.text
    assert "row 0" not in caplog.text
    decoded = processor.tokenizer.decode(cut["input_ids"][1], clean_up_tokenization_spaces=False)
    assert decoded.endswith(" sno" + TAIL)


def test_the_tokenizers_limit_is_the_processors() -> None:
    _, processor = tiny_model(processor={"max_length": 50})
    assert processor(text=["snow " * 50])["input_ids"].shape == (1, 50)
    processor.tokenizer.model_max_length = 45  # what SentenceTransformer.max_seq_length sets
    assert processor(text=["snow " * 50])["input_ids"].shape == (1, 45)


def test_too_many_visual_tokens_are_an_error(tiny: Tiny) -> None:
    _, processor = tiny
    with pytest.raises(ValueError, match=r"row 1 of the batch takes .* over max_length 60.*fewer or smaller pictures"):
        processor(text=["a", "a"], images=[None, picture(56, 56)], max_length=60)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "nothing to embed"),
        ({"text": []}, "nothing to embed"),
        ({"text": ["a", "b"], "images": [None]}, "got 2 text, 1 images; give each one entry a sample"),
        ({"text": ["a", None]}, "text of row 1 is NoneType, not a string"),
        ({"text": ["a"], "images": picture()}, "images is Image; give a list"),
        ({"text": ["a"], "images": "a.png"}, "images is str; give a list"),
        ({"text": ["a"], "videos": Path("a.mp4")}, "videos is PosixPath; give a list"),
        ({"text": ["a"], "return_tensors": "np"}, "return_tensors is 'np'"),
        ({"images": ["https://x.org/a.png"]}, "only local files"),
        ({"videos": ["https://x.org/a.mp4"]}, "only local files"),
    ],
)
def test_wrong_input_is_refused(tiny: Tiny, arguments: dict[str, Any], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        tiny[1](**arguments)


@pytest.mark.parametrize(
    "arguments",
    [{"size": 3}, {"text_kwargs": {"size": 3}}, {"images_kwargs": {"size": 3}}, {"videos_kwargs": {"size": 3}}],
)
def test_unknown_arguments_are_refused(tiny: Tiny, arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="does not know: size"):
        tiny[1](text=["a"], **arguments)


def test_unknown_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="image_tiling is 'mosaic'"):
        tiny_model(processor={"image_tiling": "mosaic"})
    with pytest.raises(ValueError, match="backend is 'opencv'"):
        tiny_model(processor={"backend": "opencv"})


# ---------------------------------------------------------------------------------------------- chat messages


def message(*parts: Any, role: str = "user") -> dict[str, Any]:
    kinds = {str: "text", list: "video"}
    content = [{"type": (kind := kinds.get(type(part), "image")), kind: part} for part in parts]
    return {"role": role, "content": content}


def test_messages_equal_plain_arguments(tiny: Tiny) -> None:
    _, processor = tiny
    one, two = pictures([(30, 20), (28, 50)])
    conversations = [
        [{"role": "user", "content": "a dog"}],
        [message("Represent: ", role="system"), message("what?", one, two)],
        [message([one, two], "a clip")],
        [message("a clip", [one, two], two)],
    ]
    expected = processor(
        text=["a dog", "Represent: what?", "a clip", "a clip"],
        images=[None, [one, two], None, two],
        videos=[None, None, [one, two], [one, two]],
    )
    assert equal(processor.apply_chat_template(conversations, tokenize=True), expected)
    single = processor.apply_chat_template(conversations[0], tokenize=True)
    assert equal(single, processor(text=["a dog"]))


def test_wrong_messages_are_refused(tiny: Tiny) -> None:
    _, processor = tiny
    answer = [message("a dog"), message("yes", role="assistant")]
    with pytest.raises(ValueError, match="role 'assistant'"):
        processor.apply_chat_template(answer, tokenize=True)
    with pytest.raises(Exception, match="system and user messages"):
        processor.apply_chat_template(answer, tokenize=False)
    with pytest.raises(ValueError, match="conversation 0 has 2 videos"):
        processor.apply_chat_template([message([picture()], [picture()])], tokenize=True)
    with pytest.raises(ValueError, match="leave return_dict"):
        processor.apply_chat_template([message("a")], tokenize=True, return_dict=False)
    with pytest.raises(ValueError, match="leave chat_template out"):
        processor.apply_chat_template([message("a")], chat_template="{{ 1 }}", tokenize=True)


user_text = st.text(st.sampled_from("ab \n\té雪'\"{}%<>|"), max_size=12)


@given(
    st.lists(st.one_of(user_text, st.just(picture(28, 28)), st.just([picture(28, 28)])), max_size=5).filter(
        lambda parts: sum(isinstance(part, list) for part in parts) < 2
    ),
    st.none() | user_text,
)
def test_the_jinja_template_renders_what_the_ids_say(tiny: Tiny, parts: list[Any], system: str | None) -> None:
    _, processor = tiny
    conversation = [message(*parts)] if system is None else [message(system, role="system"), message(*parts)]
    ids = processor.apply_chat_template([conversation], tokenize=True)["input_ids"][0]
    decoded = processor.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    for token in ("<image>", "<video>"):
        while token * 2 in decoded:
            decoded = decoded.replace(token * 2, token)
    assert processor.apply_chat_template(conversation) == decoded


def test_the_jinja_template_takes_openais_parts_for_pictures_and_clips(tiny: Tiny) -> None:
    _, processor = tiny
    urls = [{"type": "image_url", "image_url": {"url": "a.png"}}, {"type": "video_url", "video_url": {"url": "b.mp4"}}]
    plain = [{"type": "image", "image": "a.png"}, {"type": "video", "video": "b.mp4"}]
    text = {"type": "text", "text": "what?"}
    rendered = [processor.apply_chat_template([{"role": "user", "content": [*p, text]}]) for p in (urls, plain)]
    assert rendered[0] == rendered[1] and "<image>\n<video>\nwhat?" in rendered[0]


# -------------------------------------------------------------------------------------------------- round trip


def test_round_trip_keeps_settings_and_output(tmp_path: Path) -> None:
    settings = {
        "image_tiling": "anyres_single",
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "image_grid_pinpoints": [[28, 28], [84, 28]],
        "backend": "torchvision",
        "max_length": 123,
        "num_frames": 2,
        "max_frames": 7,
        "video_newline": "grid",
        "unpad_rounding": "round",
    }
    _, processor = tiny_model(processor=settings)
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert type(loaded) is LlaveProcessor
    assert {name: getattr(loaded, name) for name in settings} == settings
    assert loaded.chat_template == processor.chat_template
    arguments = {
        "text": ["a dog", "<image> literal"],
        "images": [picture(), None],
        "videos": [None, pictures([(30, 20)] * 4)],
    }
    assert equal(loaded(**arguments), processor(**arguments))


def test_torchvision_pixels_are_close_to_pil(tiny: Tiny) -> None:
    arguments = {"images": [picture(70, 45)], "videos": [pictures([(30, 20)] * 2)]}
    pil, other = tiny[1](**arguments), tiny_model(processor={"backend": "torchvision"})[1](**arguments)
    assert torch.equal(pil["input_ids"], other["input_ids"])
    for name in ("pixel_values", "pixel_values_videos"):
        assert (pil[name] - other[name]).abs().max() <= 3 * 2 / 255 + 1e-6
