"""What Qwen3.5 has that no other backbone has: layers with a state that runs over the tokens, a turn that is trimmed,
files of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from backbones import save_backbone
from helpers import TEXTS, picture, pictures
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import AutoModel, AutoProcessor, Qwen2Tokenizer
from transformers.models.qwen3_5 import modeling_qwen3_5
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.checkpoints.from_scratch import train_tokenizer
from llave_hf.checkpoints.initialisation import init_from_backbone
from llave_hf.hub.fingerprint.verify import verify

CHUNK = 64  # tokens: transformers runs the gated delta rule over so many at once
HINDI = "हिन्दी में एक कुत्ता"  # its vowel signs are marks, not letters


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlaveModel, LlaveProcessor]:
    """A model whose linear attention moves its vectors: with the weights as they are drawn it hardly does."""
    folder = save_backbone(tmp_path_factory.mktemp("qwen3_5"), "qwen3_5")
    model = LlaveModel.from_pretrained(folder).eval()
    for name, parameter in model.named_parameters():
        if "linear_attn" in name and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
        if name.endswith("A_log"):
            torch.nn.init.constant_(parameter, -3.0)  # a long memory
    return model, LlaveProcessor.from_pretrained(folder)


def rows_around_chunks(processor: LlaveProcessor) -> list[str]:
    """Texts of a token less than a chunk, a chunk, a token more, as much around two chunks; and a short one."""
    least = processor(text=[""])["input_ids"].shape[1]
    lengths = [least + 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1]
    rows = ["x" * (length - least) for length in lengths]
    assert [processor(text=[row])["input_ids"].shape[1] for row in rows] == lengths
    return [f"{row[:-1]}{end}" for row, end in zip(rows, "abcdefg", strict=True)]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("multiple", [1, 50, CHUNK])
def test_chunks_and_padding_do_not_show_in_a_vector(
    opened: tuple[LlaveModel, LlaveProcessor], side: str, multiple: int
) -> None:
    model, processor = opened
    texts = rows_around_chunks(processor)
    with torch.no_grad():
        alone = torch.cat([model(**processor(text=[text])).embeddings for text in texts])
        batch = processor(text=texts, padding_side=side, pad_to_multiple_of=multiple)
        assert float((model(**batch).embeddings - alone).abs().max()) <= 1e-6
        batch["input_ids"][batch["attention_mask"] == 0] = 7
        assert float((model(**batch).embeddings - alone).abs().max()) <= 1e-6
        one = processor(text=texts[:1], padding_side=side, pad_to_multiple_of=100)
        assert float((model(**one).embeddings - alone[:1]).abs().max()) <= 1e-6


def test_unmasked_padding_would_show(
    opened: tuple[LlaveModel, LlaveProcessor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test above can fail: a state that has run over padding gives another vector."""
    model, processor = opened
    batch = processor(text=["a dog", "a dog in the snow"], padding_side="left", pad_to_multiple_of=50)
    with torch.no_grad():
        before = model(**batch).embeddings
        monkeypatch.setattr(modeling_qwen3_5, "create_recurrent_attention_mask", lambda **arguments: None)
        assert float((model(**batch).embeddings - before).abs().max()) > 1e-3


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_does_not_show_in_a_gradient(opened: tuple[LlaveModel, LlaveProcessor], side: str) -> None:
    model, processor = opened
    texts = rows_around_chunks(processor)[:4]
    weights = torch.randn(len(texts), model.config.hidden_size, generator=torch.Generator().manual_seed(0))

    def gradients(batches: list[Any]) -> torch.Tensor:
        model.zero_grad()
        (torch.cat([model(**batch).embeddings for batch in batches]) * weights).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.backbone.language_model.parameters()])

    expected = gradients([processor(text=[text]) for text in texts])
    found = gradients([processor(text=texts, padding_side=side)])
    assert float((found - expected).norm() / expected.norm()) < 1e-5


@pytest.mark.parametrize("text", ["a dog", " a dog", "a dog\n", "\n a dog \n", "  ", ""])
@pytest.mark.parametrize("images", [0, 2])
def test_the_users_turn_is_trimmed_as_the_template_does(
    opened: tuple[LlaveModel, LlaveProcessor], text: str, images: int, tmp_path: Path
) -> None:
    processor = opened[1]
    stock = AutoProcessor.from_pretrained(save_backbone(tmp_path, "qwen3_5"))
    content = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    shown = pictures([(28, 28), (40, 28)])[:images]
    turn = stock.apply_chat_template([{"role": "user", "content": content}], tokenize=False)
    expected = stock(text=[turn], images=shown or None, return_tensors="pt")["input_ids"][0].tolist()
    made = processor(text=[text], images=[shown])["input_ids"][0].tolist()
    assert made[: len(expected)] == expected
    assert processor.tokenizer.decode(made[len(expected) :]) == "<|im_start|>assistant\n\n<|im_end|>\n"
    rendered = processor.apply_chat_template([{"role": "user", "content": content}])
    assert rendered == f"{turn}<|im_start|>assistant\n\n<|im_end|>\n"
    placed = processor(text=[" @@" * images + text], images=[shown], placeholder="@@")["input_ids"][0]
    placed_text = processor.tokenizer.decode([i for i in placed.tolist() if i != processor.image_token_id])
    marks = " ".join(["<|vision_start|><|vision_end|>"] * images)
    assert placed_text.startswith(f"<|im_start|>user\n{(marks + text).strip()}<|im_end|>")


def published_folder(folder: Path) -> Path:
    """A backbone in the layout of the Hub's Qwen3.5 repositories, with their tokenizer's class and word pattern."""
    base = train_tokenizer([*TEXTS, HINDI], 320)
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    base.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer = base.train_new_from_iterator([*TEXTS, *[HINDI] * 9], 400)
    save_backbone(folder, "qwen3_5", tokenizer=tokenizer)
    edit_json(folder / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")
    sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    pixels = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "processor_class": "Qwen3VLProcessor"}
    (folder / "processor_config.json").unlink()
    for name, kind, longest in (
        ("preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessorFast"}, 48 * 48),
        ("video_preprocessor_config.json", {"video_processor_type": "Qwen3VLVideoProcessor"}, 4 * 32 * 32),
    ):
        size = {"shortest_edge": 16 * 16, "longest_edge": longest}
        (folder / name).write_text(json.dumps({"size": size, **sizes, **pixels, **kind}))
    weights = load_file(folder / "model.safetensors")
    weights["mtp.fc.weight"] = torch.zeros(32, 64)  # of the head that drafts tokens
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_published_folder_becomes_a_model(tmp_path: Path) -> None:
    backbone = published_folder(tmp_path / "backbone")
    init_from_backbone(backbone, tmp_path / "model")
    model, processor = AutoModel.from_pretrained(tmp_path / "model"), AutoProcessor.from_pretrained(tmp_path / "model")
    assert verify(tmp_path / "model").difference is None
    assert not [name for name, _ in model.named_parameters() if "mtp" in name]
    stock = AutoModel.from_pretrained(backbone).state_dict()
    assert all(torch.equal(stock[name], value) for name, value in model.backbone.state_dict().items())
    assert processor.image_settings["image_mean"] == processor.video_settings["image_std"] == [0.5] * 3
    assert processor.image_settings["size"] == {"shortest_edge": 256, "longest_edge": 48 * 48}
    assert processor.video_settings["size"] == {"shortest_edge": 256, "longest_edge": 4 * 32 * 32}
    with torch.no_grad():
        made = processor(text=[HINDI, "x"], images=[[picture(40, 30)], None], videos=[None, pictures([(32, 24)] * 3)])
        assert model.eval()(**made).embeddings.isfinite().all()


def test_words_are_cut_as_the_published_file_says(tmp_path: Path) -> None:
    """Its `tokenizer_class` is Qwen2's, whose pattern cuts before each mark."""
    backbone = published_folder(tmp_path / "backbone")
    expected = Tokenizer.from_file(str(backbone / "tokenizer.json")).encode(HINDI, add_special_tokens=False).ids
    init_from_backbone(backbone, tmp_path / "model")
    for processor in (
        LlaveProcessor.from_pretrained(backbone),
        LlaveProcessor.from_pretrained(tmp_path / "model"),
        AutoProcessor.from_pretrained(tmp_path / "model"),
    ):
        assert processor.tokenizer(HINDI, add_special_tokens=False)["input_ids"] == expected
    assert Qwen2Tokenizer.from_pretrained(backbone)(HINDI, add_special_tokens=False)["input_ids"] != expected
