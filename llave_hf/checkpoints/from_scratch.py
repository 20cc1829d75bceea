"""A small LLaVA-OneVision-shaped embedding model with random weights, and the tokenizer that fits its data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from typing import Any

from PIL import Image
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import LlavaOnevisionConfig, PreTrainedTokenizerFast, set_seed

from llave_hf.model.configuration_llave import LlaveConfig
from llave_hf.model.geometry_llave import swapped
from llave_hf.model.modeling_llave import LlaveModel
from llave_hf.model.processing_llave import LlaveProcessor

from .vision_start import start_patches, start_positions

END_OF_TEXT, START, END, IMAGE, VIDEO = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"
SPECIAL_TOKENS = (END_OF_TEXT, START, END, IMAGE, VIDEO)

# How Qwen2's tokenizer cuts a text into words before the merges.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# What stands at the start of a text: an instruction, up to its colon or the end of its line, and a question behind it
# but for its last word; or a part of the prompt.
_INSTRUCTION = (
    r"\A(?:user)?\n?[A-Z][^:\n]*[:\n](?: [A-Z][^?\n]*(?= [^ ?\n]+\?))?"
    r"|\A(?:system\n[^\n]*|assistant\n\n|user\n)"
)
# What the prompt adds to every sample; as frequent as the samples, so that it takes few tokens.
_PROMPT_PIECES = ("system\nYou are a helpful assistant.", "assistant\n\n", "\n")


def train_tokenizer(
    texts: Iterable[str], vocab_size: int, *, merge_across_words: bool | str = False
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer in Qwen2's form (NFC, its word pattern, its special tokens), trained on `texts`.

    Args:
        texts: User texts, without the prompt.
        vocab_size: Entries including the 256 bytes and the five special tokens. Fewer are made where the texts
            give no more merges.
        merge_across_words: Whether a token may span words. An instruction that stands in thousands of rows, and the
            prompt, then take one token each, which halves the length of short samples; but so does "a small red", and
            what is learned of "red" elsewhere does not count for it. `"instructions"`: only in the instruction that a
            text begins with, up to its colon or the end of its line, and on through a question behind the colon, but
            for the question's last word.

    Raises:
        ValueError: `vocab_size` is no number or too small, or `merge_across_words` is none of these.
    """
    if merge_across_words not in (False, True, "instructions"):
        raise ValueError(f"merge_across_words is {merge_across_words!r}; give true, false or 'instructions'.")
    least = 256 + len(SPECIAL_TOKENS)
    if type(vocab_size) is not int or vocab_size < least:
        raise ValueError(f"vocab_size is {vocab_size!r}; a byte-level tokenizer needs at least {least} entries.")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces_of = {False: [_WORDS], "instructions": [f"{_INSTRUCTION}|{_WORDS}"], True: []}[merge_across_words]
    words = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in pieces_of]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*words, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    # With a picture before it, a text is a piece of its own and starts with a newline; see PromptBuilder.
    pieces = (text if text.startswith("\n") else f"user\n{text}" for text in texts)
    corpus = chain.from_iterable((piece, *_PROMPT_PIECES) for piece in pieces)
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=END_OF_TEXT,
        eos_token=END,
        additional_special_tokens=[START, IMAGE, VIDEO],
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )


def build_from_scratch(
    texts: Iterable[str],
    *,
    vocab_size: int,
    merge_across_words: bool | str = False,
    vision_config: Mapping[str, Any],
    text_config: Mapping[str, Any],
    patch_start: str | None = None,
    position_start: str | None = None,
    processor: Mapping[str, Any] | None = None,
    seed: int = 0,
    pictures: Callable[[], Iterable[Image.Image]] | None = None,
) -> tuple[LlaveModel, LlaveProcessor]:
    """A model with random weights and its processor.

    Args:
        texts: What the tokenizer learns from.
        vocab_size, merge_across_words: See [`train_tokenizer`].
        vision_config: Fields of `SiglipVisionConfig`; `image_size` and `patch_size` also shape the processor.
        text_config: Fields of `Qwen2Config`, without the vocabulary.
        patch_start: `"principal_components"` of the pictures' patches, see [`start_patches`]; None: random.
        position_start: `"sincos2d"`, see [`start_positions`]; None: random.
        processor: Fields of [`LlaveProcessor`] (`image_tiling`, `max_length`, ...).
        seed: Of the weights.
        pictures: Gives pictures of the training data, for `patch_start`.

    Raises:
        ValueError: A start is none of these, or the pictures do not suffice for it.
    """
    for name, start, known in (
        ("patch_start", patch_start, "principal_components"),
        ("position_start", position_start, "sincos2d"),
    ):
        if start not in (None, known):
            raise ValueError(f"{name} is {start!r}; give {known!r}, or leave it out for random weights.")
    tokenizer = train_tokenizer(texts, vocab_size, merge_across_words=merge_across_words)
    image_id, video_id = tokenizer.convert_tokens_to_ids([IMAGE, VIDEO])
    vision = {"model_type": "siglip_vision_model", "vision_use_head": False, **vision_config}
    made = LlaveProcessor(
        tokenizer, image_size=vision["image_size"], patch_size=vision["patch_size"], **(processor or {})
    )
    backbone_config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config={"model_type": "qwen2", "vocab_size": len(tokenizer), "pad_token_id": 0, **text_config},
        image_token_index=image_id,
        video_token_index=video_id,
        image_grid_pinpoints=swapped(made.image_grid_pinpoints),
    )
    set_seed(seed)
    config = LlaveConfig(
        backbone_config=backbone_config, video_newline=made.video_newline, unpad_rounding=made.unpad_rounding
    )
    model = LlaveModel(config)
    if patch_start is not None:
        tiles = (made(text=[""], images=[picture])["pixel_values"] for picture in (pictures() if pictures else ()))
        start_patches(model.backbone.vision_tower, tiles, seed)
    if position_start is not None:
        start_positions(model.backbone.vision_tower)
    return model, made
