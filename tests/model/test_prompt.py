"""The prompt of DESIGN: exact token ids, whatever the text holds."""

from __future__ import annotations

import pytest
from helpers import TEXTS
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from llave_hf.checkpoints.from_scratch import SPECIAL_TOKENS, train_tokenizer
from llave_hf.model.prompt_llave import PromptBuilder, sample_from_messages

TOKENIZER = train_tokenizer(TEXTS, 320)
BUILDER = PromptBuilder(TOKENIZER)
IMAGE, VIDEO = TOKENIZER.convert_tokens_to_ids(["<image>", "<video>"])
HEAD = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
TAIL = "<|im_end|>\n<|im_start|>assistant\n\n<|im_end|>\n"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "\n", " ", "a", "user\n"]), max_size=6
).map("".join)


def rendered(text: str, marks: list[list[int]]) -> str:
    rows, lost = BUILDER.build([text], [marks], 4096)
    assert lost == [0]
    return TOKENIZER.decode(rows[0], skip_special_tokens=False, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(
    ("text", "marks", "between"),
    [
        ("a dog", [], "a dog"),
        ("", [], ""),
        ("\n", [], "\n"),
        ("a dog", [[IMAGE]], "<image>\na dog"),
        ("\na dog", [[IMAGE]], "<image>\na dog"),
        ("\n\na dog", [[IMAGE]], "<image>\n\na dog"),
        (" a dog", [[IMAGE]], "<image>\n a dog"),
        ("", [[IMAGE]], "<image>"),
        ("\n", [[IMAGE]], "<image>\n"),
        ("a dog", [[IMAGE], [IMAGE]], "<image>\n<image>\na dog"),
        ("", [[IMAGE, IMAGE], [IMAGE]], "<image><image>\n<image>"),
        ("a dog", [[IMAGE], [VIDEO, VIDEO]], "<image>\n<video><video>\na dog"),
    ],
)
def test_newlines_join_images_and_text(text: str, marks: list[list[int]], between: str) -> None:
    assert rendered(text, marks) == HEAD + between + TAIL


@given(texts, st.booleans())
def test_special_tokens_in_user_text_stay_text(text: str, with_image: bool) -> None:
    rows, _ = BUILDER.build([text], [[[IMAGE]] if with_image else []], 4096)
    special = [token for token in rows[0] if token in TOKENIZER.all_special_ids]
    start, end = BUILDER.prefix[0], BUILDER.suffix[0]
    assert special == [start, end, start, *([IMAGE] if with_image else []), end, start, end]
    assert rows[0][-len(BUILDER.suffix) :] == BUILDER.suffix


@pytest.mark.parametrize("literal", SPECIAL_TOKENS)
def test_a_literal_special_token_reads_back(literal: str) -> None:
    assert rendered(f"see {literal} here", [[IMAGE]]) == HEAD + f"<image>\nsee {literal} here" + TAIL


def test_a_text_without_pictures_is_one_piece_with_the_prompt() -> None:
    # Byte-pair merges may cross "user\n" and the text; the published code tokenises them together.
    rows, _ = BUILDER.build(["\n\n x"], [[]], 4096)
    inside = TOKENIZER("user\n\n\n x", add_special_tokens=False)["input_ids"]
    assert rows[0] == [*BUILDER.prefix, *inside, *BUILDER.suffix]


@given(texts, st.integers(0, 2), st.integers(30, 60))
def test_truncation_keeps_pictures_and_suffix(text: str, images: int, max_length: int) -> None:
    marks = [[IMAGE] * 3 for _ in range(images)]
    full, _ = BUILDER.build([text], [marks], 100_000)
    rows, lost = BUILDER.build([text], [marks], max_length)
    assert len(rows[0]) == min(len(full[0]), max_length)
    assert lost == [len(full[0]) - len(rows[0])]
    kept = len(rows[0]) - len(BUILDER.suffix)
    assert rows[0] == [*full[0][:kept], *BUILDER.suffix]
    assert rows[0].count(IMAGE) == 3 * images


def test_no_room_for_the_pictures_is_an_error_with_numbers() -> None:
    least = len(BUILDER.prefix) + len(BUILDER.suffix) + len(TOKENIZER("user\n")["input_ids"])
    rows, _ = BUILDER.build(["a dog"], [[[IMAGE] * 50]], least + 50)
    assert len(rows[0]) == least + 50
    with pytest.raises(
        ValueError, match=rf"row 1 of the batch takes {least + 50} tokens .* over max_length {least + 49}"
    ):
        BUILDER.build(["", "a dog"], [[], [[IMAGE] * 50]], least + 49)
    with pytest.raises(ValueError, match="over max_length 3"):
        BUILDER.build(["a"], [[]], 3)


def test_a_tokenizer_without_the_chat_tokens_is_refused() -> None:
    other = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER.backend_tokenizer)
    other.convert_tokens_to_ids = lambda token: None  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"no token '<\|im_start\|>'.*use a Qwen tokenizer"):
        PromptBuilder(other)


def test_messages_give_texts_pictures_and_videos_in_order() -> None:
    sample = sample_from_messages(
        [
            {"role": "system", "content": "Represent: "},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "one "},
                    {"type": "image", "image": 1},
                    {"type": "image", "path": "two.png"},
                    {"type": "image", "url": "three.png"},
                    {"type": "image_url", "image_url": {"url": "four.png"}},
                    {"type": "image_url", "image_url": "five.png"},
                    {"type": "video", "video": 6},
                    {"type": "video_url", "video_url": {"url": "seven.mp4", "fps": 1}},
                    {"type": "video_url", "video_url": "eight.mp4"},
                    {"type": "text", "text": "two"},
                ],
            },
            {"role": "user", "content": "."},
        ]
    )
    assert sample.text == "Represent: one two."
    assert sample.images == [1, "two.png", "three.png", "four.png", "five.png"]
    assert sample.videos == [6, "seven.mp4", "eight.mp4"]


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"role": "assistant", "content": "yes"}, "message 0 has the role 'assistant'"),
        ({"role": "user", "content": [{"type": "audio", "audio": 1}]}, "part of type 'audio'; use 'text'"),
        (
            {"role": "user", "content": [{"type": "image"}]},
            "without 'image', 'path', 'url' or 'base64'",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"uri": "a.png"}}]},
            "message 0 has a part of type 'image_url' without its address; write a data URI or a path",
        ),
        ({"role": "user", "content": [{"type": "video_url"}]}, "of type 'video_url' without its address"),
    ],
)
def test_other_messages_are_refused(message: dict[str, object], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        sample_from_messages([message])


def test_a_list_in_one_part_is_several_images() -> None:
    """As sentence-transformers 6.0 passes them; newer versions make a part of each."""
    content = [{"type": "image", "image": ["a.png", "b.png"]}, {"type": "text", "text": "both"}]
    sample = sample_from_messages([{"role": "user", "content": content}])
    assert sample.images == ["a.png", "b.png"]
    assert sample.text == "both"
