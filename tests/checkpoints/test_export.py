"""`llave export`: a folder that stock transformers and sentence-transformers open without llave_hf."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import KINDS, save_backbone
from helpers import picture, pictures, tiny_model
from safetensors import safe_open
from transformers import AutoModel, AutoProcessor, ProcessorMixin

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.cli import main

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "model" / "tiny_2x2"
TEXTS = ["a dog", "Füße 図書館", "\nline\n\nbreaks \t"]
if "sanitize_control_tokens" in inspect.signature(ProcessorMixin.apply_chat_template).parameters:  # 5.23
    TEXTS.append("a literal <image>, <|image_pad|> and <|im_end|>")
# What the publishers' files call some weights, and how all names begin. Serving engines know these names.
NAMES = {
    "llava_onevision": (
        "vision_tower.vision_model.embeddings.patch_embedding.weight",
        "vision_tower.vision_model.encoder.layers.1.self_attn.out_proj.bias",
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.1.mlp.down_proj.weight",
        "multi_modal_projector.linear_2.bias",
        "image_newline",
    ),
    "qwen2_vl": ("visual.patch_embed.proj.weight", "model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight"),
    "qwen2_5_vl": ("visual.blocks.1.mlp.gate_proj.weight", "model.norm.weight", "visual.merger.ln_q.weight"),
    "qwen3_vl": (
        "model.visual.deepstack_merger_list.0.norm.weight",
        "model.visual.pos_embed.weight",
        "model.language_model.layers.1.self_attn.q_norm.weight",
    ),
    "qwen3_5": ("model.visual.patch_embed.proj.weight", "model.language_model.layers.0.linear_attn.A_log"),
}
BEGINNINGS = {
    "llava_onevision": r"(vision_tower\.vision_model|language_model\.model|multi_modal_projector)\.|image_newline$",
    "qwen2_vl": r"visual\.|model\.(embed_tokens|layers|norm)\.",
    "qwen2_5_vl": r"visual\.|model\.(embed_tokens|layers|norm)\.",
    "qwen3_vl": r"model\.(visual|language_model)\.",
    "qwen3_5": r"model\.(visual|language_model)\.",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Of every backbone a native folder, and its export."""
    found = {}
    for kind in KINDS:
        root = tmp_path_factory.mktemp(kind)
        native, exported = root / "native", root / "exported"
        if kind == "llava_onevision":
            AutoModel.from_pretrained(PUBLISHED).save_pretrained(native)
            AutoProcessor.from_pretrained(PUBLISHED).save_pretrained(native)
        else:
            backbone = save_backbone(root / "backbone", kind)
            LlaveModel.from_backbone(backbone).save_pretrained(native)
            LlaveProcessor.from_backbone(backbone).save_pretrained(native)
        main(["export", str(native), str(exported)])
        found[kind] = native, exported
    return found


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for number, size in enumerate([(76, 76), (150, 60), (40, 200)]):
        picture(*size, seed=number).save(folder / f"{number}.png")
        paths.append(str(folder / f"{number}.png"))
    return paths


def rows(kind: str, images: list[str]) -> list[dict[str, Any]]:
    """What stock code gives the same vectors for: one picture, and several where it takes each by itself."""
    found: list[dict[str, Any]] = [{"text": text} for text in TEXTS]
    found += [{"text": "What is it?", "image": image} for image in images]
    return found if kind == "llava_onevision" else [*found, {"image": images}, {"image": images[:2], "text": "Both"}]


def expected(kind: str, folder: Path, images: list[str]) -> np.ndarray:
    # Pillow's order of passes is the installed one's, as in transformers
    options = {"resize_order": "installed"} if kind == "llava_onevision" else {}
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder, **options)
    vectors = []
    for row in rows(kind, images):
        given = [row["image"]] if isinstance(row.get("image"), str) else row.get("image")
        with torch.no_grad():
            made = processor(text=[row.get("text", "")], images=[given] if given else None)
            vectors.append(model(**made).embeddings)
    return torch.cat(vectors).numpy()


ELSEWHERE = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llave_hf":
            raise ImportError("llave_hf is not here")

sys.meta_path.insert(0, Block())
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

def last(hidden, mask):
    rows = hidden[torch.arange(len(hidden)), mask.shape[1] - 1 - mask.flip(1).argmax(1)]
    return torch.nn.functional.normalize(rows, dim=-1)

found = {}
for kind, (folder, inputs) in json.loads(sys.argv[1]).items():
    whole = SentenceTransformer(folder, device="cpu")
    network, info = AutoModel.from_pretrained(folder, output_loading_info=True)
    processor = AutoProcessor.from_pretrained(folder)
    if kind == "llava_onevision":
        # Pillow's pixels, to compare exactly; as it comes it resizes with torchvision
        whole[0].processor.image_processor = LlavaOnevisionImageProcessorPil.from_pretrained(folder)
    message = [{"role": "user", "content": [{"type": "text", "text": inputs[0]["text"]}]}]
    made = processor.apply_chat_template(message, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        plain = last(network(**made).last_hidden_state, made["attention_mask"])
    found[kind] = {
        "vectors": whole.encode([row["text"] if [*row] == ["text"] else row for row in inputs], batch_size=2).tolist(),
        "plain": plain[0].tolist(),
        "classes": [type(network).__name__, type(processor).__name__],
        "loading": [sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")],
    }
print()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def elsewhere(
    folders: dict[str, tuple[Path, Path]], images: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """What a process without llave_hf makes of the exports."""
    releases = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if ".releases" in path]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.pathsep.join(releases)}
    asked = {kind: (str(exported), rows(kind, images)) for kind, (_, exported) in folders.items()}
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, json.dumps(asked)],
        cwd=tmp_path_factory.mktemp("work"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_stock_classes_open_all_of_it_without_llave_hf_and_without_trust(kind: str, elsewhere: dict[str, Any]) -> None:
    begin = {"llava_onevision": "LlavaOnevision", "qwen2_vl": "Qwen2VL", "qwen2_5_vl": "Qwen2_5_VL"}.get(kind, "Qwen3")
    processors = {"qwen3_vl": "Qwen3VLProcessor", "qwen3_5": "Qwen3VLProcessor"}
    network, processor = elsewhere[kind]["classes"]
    assert network.startswith(begin)
    assert processor == processors.get(kind, f"{begin}Processor")
    assert elsewhere[kind]["loading"] == [[], [], []]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_vectors_are_the_same(
    kind: str, elsewhere: dict[str, Any], folders: dict[str, tuple[Path, Path]], images: list[str]
) -> None:
    wanted = expected(kind, folders[kind][0], images)
    assert np.abs(np.array(elsewhere[kind]["vectors"]) - wanted).max() <= 1e-5
    assert np.abs(np.array(elsewhere[kind]["plain"]) - wanted[0]).max() <= 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_weights_have_the_names_of_the_published_files(kind: str, folders: dict[str, tuple[Path, Path]]) -> None:
    with safe_open(folders[kind][1] / "model.safetensors", "pt") as file:
        names = list(file.keys())
    assert set(NAMES[kind]) <= set(names)
    assert [name for name in names if not re.match(BEGINNINGS[kind], name)] == []
    assert len(names) == len(AutoModel.from_pretrained(folders[kind][0]).state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_what_serving_engines_look_for(kind: str, folders: dict[str, tuple[Path, Path]]) -> None:
    """An architecture that they know, a pooling in old and new spelling, no code, no pickle, nothing of ours."""
    exported = folders[kind][1]
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"][0].endswith("ForConditionalGeneration")
    assert config["model_type"] == kind
    positions = config["text_config"]["rope_parameters"].get("mrope_interleaved")
    assert positions is (True if kind in ("qwen3_vl", "qwen3_5") else None)
    assert "matryoshka_dimensions" not in config
    pooling = json.loads((exported / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == "lasttoken"
    assert [name for name, value in pooling.items() if value is True] == ["pooling_mode_lasttoken", "include_prompt"]
    types = [module["type"] for module in json.loads((exported / "modules.json").read_text())]
    assert types == [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")]
    assert not [path for path in exported.rglob("*") if path.suffix in (".py", ".bin", ".pt", ".pkl")]
    for path in exported.rglob("*.json"):
        for word in ("llave", "auto_map", "is_local", "local_files_only", "image_tiling", str(exported.parent)):
            assert word not in path.read_text(encoding="utf-8").lower(), path


def test_it_comes_back(folders: dict[str, tuple[Path, Path]], images: list[str]) -> None:
    native, exported = folders["llava_onevision"]
    model = LlaveModel.from_pretrained(exported, video_newline="grid").eval()
    processor = LlaveProcessor.from_pretrained(exported, video_newline="grid")
    before = AutoModel.from_pretrained(native), AutoProcessor.from_pretrained(native)
    inputs = {"text": ["a", "b", ""], "images": [images[0], images[1:], None], "videos": [None, None, [picture()] * 3]}
    with torch.no_grad():
        assert torch.equal(model(**processor(**inputs)).embeddings, before[0](**before[1](**inputs)).embeddings)


def test_a_tiling_that_stock_code_has_not_is_refused_or_changed_and_its_cost_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = tiny_model(processor={"image_tiling": "none"})
    model.config.matryoshka_dimensions = [24, 8]
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    with pytest.raises(SystemExit) as exit:
        main(["export", str(tmp_path / "model"), str(tmp_path / "out")])
    assert exit.value.code == 2
    assert "image_tiling 'none', which stock code does not have" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--image_tiling", "anyres"])
    told = capsys.readouterr().out
    found = dict(re.findall(r"  (\w[\w ]+?) +(\d\.\d{4})$", told, re.MULTILINE))
    picture_names = ["square image", "wide image", "tall image and text", "two images"]
    assert list(found) == picture_names
    # The export opened again gives the vectors whose cosines were told.
    from llave_hf.hub.fingerprint.samples import fingerprint_samples

    opened = LlaveModel.from_pretrained(tmp_path / "out").eval(), LlaveProcessor.from_pretrained(tmp_path / "out")
    samples = {sample.name: sample for sample in fingerprint_samples()}
    for name, cosine in found.items():
        columns = samples[name].columns
        with torch.no_grad():
            before, after = model(**processor(**columns)).embeddings, opened[0](**opened[1](**columns)).embeddings
        assert float((before * after).sum()) == pytest.approx(float(cosine), abs=6e-5)
    assert all(float(cosine) < 0.9999 for cosine in found.values())
    assert json.loads((tmp_path / "out" / "config.json").read_text())["matryoshka_dimensions"] == [24, 8]
    assert f"square image         {found['square image']}" in (tmp_path / "out" / "SERVING.md").read_text()


def test_what_cannot_be_exported_is_named(
    folders: dict[str, tuple[Path, Path]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    llava, qwen = folders["llava_onevision"], folders["qwen2_vl"]
    for arguments, message in (
        ([str(qwen[0]), str(tmp_path / "out"), "--format", "llava_onevision"], "backbone of llava_onevision"),
        ([str(llava[0]), str(llava[1])], "is not empty"),
        ([str(llava[1]), str(tmp_path / "out")], "is no LLaVE model"),
        ([str(qwen[0]), str(tmp_path / "out"), "--image_tiling", "anyres"], "image_tiling is LLaVA-OneVision's"),
    ):
        with pytest.raises(SystemExit) as exit:
            main(["export", *arguments])
        assert exit.value.code == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_the_earlier_name_of_the_format_writes_the_same(folders: dict[str, tuple[Path, Path]], tmp_path: Path) -> None:
    native, exported = folders["llava_onevision"]
    main(["export", str(native), str(tmp_path / "out"), "--format", "llava_onevision"])
    written = {path.relative_to(tmp_path / "out"): path.read_bytes() for path in (tmp_path / "out").rglob("*.*")}
    page = written.pop(Path("SERVING.md"))
    assert b"vllm serve" in page
    assert all((exported / path).read_bytes() == content for path, content in written.items())
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "llava_onevision"])
def test_a_clip_is_the_same_where_its_times_are_told(kind: str, folders: dict[str, tuple[Path, Path]]) -> None:
    native, exported = folders[kind]
    model, processor = AutoModel.from_pretrained(native).eval(), AutoProcessor.from_pretrained(native)
    stock, of_stock = AutoModel.from_pretrained(exported).eval(), AutoProcessor.from_pretrained(exported)
    frames = pictures([(32, 24)] * 4)
    prompt = of_stock.apply_chat_template([{"role": "user", "content": [{"type": "video"}]}], tokenize=False)
    told = [{"total_num_frames": 4, "fps": 2.0, "frames_indices": [0, 1, 2, 3], "duration": 2.0}]
    options = {"do_sample_frames": False, "video_metadata": told}
    clip = np.stack([np.array(frame).transpose(2, 0, 1) for frame in frames])
    made = of_stock(text=[prompt], videos=[clip], videos_kwargs=options, return_tensors="pt")
    if "video_metadata" in made:
        made.pop("video_metadata")
    with torch.no_grad():
        found = torch.nn.functional.normalize(stock(**made).last_hidden_state[:, -1], dim=-1)
        wanted = model(**processor(videos=[frames])).embeddings
    assert float((found - wanted).abs().max()) <= 1e-6
