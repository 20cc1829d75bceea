"""`llave export`: a folder that stock transformers and sentence-transformers open without llave_hf."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbones import save_backbone
from helpers import picture
from transformers import AutoModel, AutoProcessor

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.checkpoints.export import differences
from llave_hf.cli import main

PUBLISHED = Path(__file__).parents[1] / "fixtures" / "model" / "tiny_2x2"
TEXTS = ["a dog", "Füße 図書館", "a literal <image> and <|im_end|>", "\nline\n\nbreaks \t"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A native folder, and its export."""
    native, exported = tmp_path_factory.mktemp("native"), tmp_path_factory.mktemp("exported")
    AutoModel.from_pretrained(PUBLISHED).save_pretrained(native)
    AutoProcessor.from_pretrained(PUBLISHED).save_pretrained(native)
    main(["export", str(native), str(exported), "--format", "llava_onevision"])
    return native, exported


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    paths = []
    for number, size in enumerate([(76, 76), (150, 60), (40, 200)]):
        picture(*size, seed=number).save(folder / f"{number}.png")
        paths.append(str(folder / f"{number}.png"))
    return paths


def expected(folder: Path, images: list[str]) -> np.ndarray:
    model, processor = (
        AutoModel.from_pretrained(folder),
        AutoProcessor.from_pretrained(folder, resize_order="installed"),
    )
    with torch.no_grad():
        texts = [model(**processor(text=[text])).embeddings for text in TEXTS]
        pictures = [model(**processor(text=["What is it?"], images=[image])).embeddings for image in images]
    return torch.cat([*texts, *pictures]).numpy()


ELSEWHERE = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llave_hf":
            raise ImportError("llave_hf is not here")

sys.meta_path.insert(0, Block())
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

folder, texts, images = sys.argv[1], json.loads(sys.argv[2]), json.loads(sys.argv[3])
model = SentenceTransformer(folder, device="cpu")
# Pillow's pixels, to compare exactly; as it comes it resizes with torchvision
model[0].processor.image_processor = LlavaOnevisionImageProcessorPil.from_pretrained(folder)
inputs = texts + [{"image": image, "text": "What is it?"} for image in images]
vectors = model.encode(inputs, batch_size=2)
print()
print(json.dumps({
    "vectors": vectors.tolist(),
    "classes": [type(auto.from_pretrained(folder)).__name__ for auto in (AutoModel, AutoProcessor)],
}))
"""


@pytest.fixture(scope="module")
def elsewhere(
    folders: tuple[Path, Path], images: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folders[1]), json.dumps(TEXTS), json.dumps(images)],
        cwd=tmp_path_factory.mktemp("work"),
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.slow
def test_stock_classes_open_it_without_llave_hf_and_without_trust(elsewhere: dict[str, Any]) -> None:
    assert elsewhere["classes"] == ["LlavaOnevisionModel", "LlavaOnevisionProcessor"]


@pytest.mark.slow
def test_the_vectors_are_the_same(elsewhere: dict[str, Any], folders: tuple[Path, Path], images: list[str]) -> None:
    assert np.abs(np.array(elsewhere["vectors"]) - expected(folders[0], images)).max() <= 1e-5


def test_what_serving_engines_look_for(folders: tuple[Path, Path]) -> None:
    """An architecture that they know, a pooling by sentence-transformers' files, no code and no pickle."""
    _, exported = folders
    config = json.loads((exported / "config.json").read_text())
    assert config["architectures"] == ["LlavaOnevisionForConditionalGeneration"]
    assert "auto_map" not in config
    assert json.loads((exported / "1_Pooling" / "config.json").read_text())["pooling_mode"] == "lasttoken"
    types = [module["type"].rsplit(".", 1)[1] for module in json.loads((exported / "modules.json").read_text())]
    assert types == ["Transformer", "Pooling", "Normalize"]
    assert not [path for path in exported.rglob("*") if path.suffix in (".py", ".bin", ".pt", ".pkl")]


def test_it_comes_back(folders: tuple[Path, Path], images: list[str]) -> None:
    native, exported = folders
    model = LlaveModel.from_pretrained(exported, video_newline="grid").eval()
    processor = LlaveProcessor.from_pretrained(exported, video_newline="grid")
    before = AutoModel.from_pretrained(native), AutoProcessor.from_pretrained(native)
    inputs = {"text": ["a", "b", ""], "images": [images[0], images[1:], None], "videos": [None, None, [picture()] * 3]}
    with torch.no_grad():
        assert torch.equal(model(**processor(**inputs)).embeddings, before[0](**before[1](**inputs)).embeddings)


def test_it_says_where_transformers_differs(folders: tuple[Path, Path]) -> None:
    model, processor = AutoModel.from_pretrained(folders[0]), AutoProcessor.from_pretrained(folders[0])
    text = "\n".join(differences(model, processor))
    for part in (
        "Several images",
        "one newline after the last frame, this model `grid`",
        "Transparent",
        "image sizes",
    ):
        assert part in text
    model.config.video_newline, model.config.unpad_rounding = "one_token", "round"
    processor.image_tiling = "anyres_single"
    assert len(differences(model, processor)) == 2


def test_what_cannot_be_exported_is_named(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = save_backbone(tmp_path / "backbone", "qwen2_vl")
    main(["init", "--backbone", str(backbone), str(tmp_path / "qwen")])
    for arguments, message in (
        ([str(tmp_path / "qwen"), str(tmp_path / "out")], "no LLaVE model with a LLaVA-OneVision backbone"),
        ([str(folders[0]), str(folders[1])], "is not empty"),
    ):
        with pytest.raises(SystemExit) as exit:
            main(["export", *arguments, "--format", "llava_onevision"])
        assert exit.value.code == 2
        assert message in capsys.readouterr().err
