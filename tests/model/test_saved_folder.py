"""One folder that AutoModel, AutoProcessor and SentenceTransformer open, with llave_hf installed and without."""

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
from helpers import picture, pictures, tiny_model, write_video
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoProcessor

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
TEXT = "a dog in <image> the snow"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved")
    model, processor = tiny_model(seed=3, processor={"video_newline": "grid"})
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media")
    picture(56, 40).save(path / "one.png")
    picture(20, 70, seed=1).save(path / "two.png")
    write_video(path / "clip.mp4", levels=range(0, 200, 10))
    return path


@pytest.fixture(scope="module")
def transformer(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu")


def inputs_for_encode(media: Path) -> list[Any]:
    """As SentenceTransformer.encode takes them; several pictures of one input are a list under "image"."""
    one, two = str(media / "one.png"), str(media / "two.png")
    return [
        TEXT,
        picture(56, 40),
        one,
        {"image": one, "text": "What is in the image?"},
        {"text": "Which differs?", "image": [one, two]},
        {"image": [picture(56, 40), picture(20, 70, seed=1)]},
        {"video": str(media / "clip.mp4")},
        {"video": pictures([(30, 20)] * 3), "text": "a clip"},
        [{"role": "user", "content": [{"type": "image", "image": one}, {"type": "text", "text": "chat"}]}],
    ]


def expected_vectors(folder: Path, media: Path) -> np.ndarray:
    one, two = str(media / "one.png"), str(media / "two.png")
    samples = [
        (TEXT, None, None),
        ("", one, None),
        ("", one, None),
        ("What is in the image?", one, None),
        ("Which differs?", [one, two], None),
        ("", [one, two], None),
        ("", None, str(media / "clip.mp4")),
        ("a clip", None, pictures([(30, 20)] * 3)),
        ("chat", one, None),
    ]
    model, processor = AutoModel.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    vectors = []
    for text, images, video in samples:
        with torch.no_grad():
            vectors.append(model(**processor(text=[text], images=[images], videos=[video])).embeddings)
    return torch.cat(vectors).numpy()


def close(left: Any, right: Any) -> bool:
    return bool(np.abs(np.asarray(left) - np.asarray(right)).max() <= 1e-6)


# ------------------------------------------------------------------------------------------------- what lies there


def test_the_folder_holds_what_each_library_looks_for(folder: Path) -> None:
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "chat_template.jinja",
        "modules.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Normalize/config.json",
        "config_sentence_transformers.json",
        "configuration_llave.py",
        "modeling_llave.py",
        "processing_llave.py",
    }
    assert not [name for name in names if name.endswith(PICKLES)]
    auto_map = json.loads((folder / "config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "modeling_llave.LlaveModel"
    assert auto_map["AutoConfig"] == "configuration_llave.LlaveConfig"
    types = [module["type"] for module in json.loads((folder / "modules.json").read_text())]
    assert all(kind.startswith("sentence_transformers.") for kind in types)  # no custom module, no trust needed


def test_files_that_travel_import_nothing_that_stays_behind(folder: Path) -> None:
    for path in folder.glob("*.py"):
        text = path.read_text()
        assert "llave_hf" not in text.replace("from llave_hf import LlaveConfig, LlaveModel", ""), path.name
        relative = [line.split()[1][1:] for line in text.splitlines() if line.startswith("from .")]
        assert all((folder / f"{name}.py").exists() for name in relative)


# ----------------------------------------------------------------------------------------- with llave_hf installed


def test_sentence_transformer_gives_the_vectors_of_auto_model(
    transformer: SentenceTransformer, folder: Path, media: Path
) -> None:
    inputs = inputs_for_encode(media)
    expected = expected_vectors(folder, media)
    assert close([transformer.encode(entry) for entry in inputs], expected)
    assert close(transformer.encode(inputs, batch_size=3), expected)
    assert close(transformer.encode(inputs, batch_size=32), expected)


def test_prompts_stand_before_the_users_text(transformer: SentenceTransformer, media: Path) -> None:
    one = str(media / "one.png")
    prompted = transformer.encode(["a dog", {"image": one, "text": "x"}, one], prompt="Represent: ")
    plain = transformer.encode(
        ["Represent: a dog", {"image": one, "text": "Represent: x"}, {"image": one, "text": "Represent: "}]
    )
    assert close(prompted, plain)


def test_queries_documents_truncation_and_similarity(folder: Path) -> None:
    prompts = {"query": "Find: ", "document": "\n"}
    model = SentenceTransformer(str(folder), device="cpu", prompts=prompts)
    query, document = model.encode_query(["a dog"]), model.encode_document(["a dog"])
    assert close(query, model.encode(["Find: a dog"]))
    assert close(document, model.encode(["\na dog"]))
    assert float(model.similarity(query, document)) == pytest.approx(float(query[0] @ document[0]), abs=1e-6)
    short = model.encode(["a dog"], truncate_dim=8, normalize_embeddings=True)
    whole = model.encode(["a dog"])[:, :8]
    assert close(short, whole / np.linalg.norm(whole))


def test_a_maximal_length_keeps_the_pooled_token(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = SentenceTransformer(str(folder), device="cpu")
    model.max_seq_length = 60
    processor = AutoProcessor.from_pretrained(folder, max_length=60)
    plain = AutoModel.from_pretrained(folder)
    with torch.no_grad():
        expected = plain(**processor(text=["snow " * 100])).embeddings
    assert close(model.encode(["snow " * 100]), expected)
    assert "the last 362 tokens of its text were left out" in caplog.text


def test_an_address_is_not_fetched(transformer: SentenceTransformer) -> None:
    for entry in (
        "http://localhost:9/a.png",
        {"image": "http://localhost:9/a.png"},
        {"video": "http://localhost:9/a.mp4"},
    ):
        with pytest.raises(ValueError, match="only local files are opened"):
            transformer.encode([entry])


def test_round_trip_through_sentence_transformers(
    transformer: SentenceTransformer, folder: Path, media: Path, tmp_path: Path
) -> None:
    transformer.save_pretrained(str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(PICKLES)]
    again = SentenceTransformer(str(tmp_path), device="cpu")
    mixed = inputs_for_encode(media)
    assert close(again.encode(mixed), transformer.encode(mixed))
    assert close(expected_vectors(tmp_path, media), expected_vectors(folder, media))


def test_an_unnormalised_model_has_no_normalize_module(tmp_path: Path) -> None:
    model, processor = tiny_model()
    model.config.normalize = False
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    transformer = SentenceTransformer(str(tmp_path), device="cpu")
    with torch.no_grad():
        expected = model(**processor(text=["a dog"])).embeddings
    assert abs(float(expected.norm()) - 1) > 1e-3
    assert close(transformer.encode(["a dog"]), expected)


def test_pickled_weights_are_refused_by_sentence_transformers_too(folder: Path, tmp_path: Path) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"only as pickles \(pytorch_model\.bin\)"):
        SentenceTransformer(str(tmp_path), device="cpu")


# -------------------------------------------------------------------------------------------- without llave_hf

WITHOUT = """
import json, sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llave_hf":
            raise ImportError("llave_hf is not here")

sys.meta_path.insert(0, Block())
import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor
torch.set_num_threads(1)
folder, one, clip, out = sys.argv[1:]
def refusal(opener):
    try:
        opener(folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "opened"

refused = [refusal(opener.from_pretrained) for opener in (AutoConfig, AutoModel, AutoProcessor)]
from sentence_transformers import SentenceTransformer
refused.append(refusal(lambda path: SentenceTransformer(path, device="cpu")))
executed = [name for name in sys.modules if name.startswith("transformers_modules") and "llave" in name]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
inputs = processor(text=["a dog", "what?", ""], images=[None, one, None], videos=[None, None, clip])
with torch.no_grad():
    plain = model(**inputs).embeddings
transformer = SentenceTransformer(folder, device="cpu", trust_remote_code=True)
encoded = transformer.encode(["a dog", {"image": one, "text": "what?"}, {"video": clip}])
model.save_pretrained(out)
processor.save_pretrained(out)
print()  # transformers leaves its question on the line
print(json.dumps({"refused": refused, "executed": executed, "plain": plain.tolist(), "encoded": encoded.tolist()}))
"""


@pytest.fixture(scope="module")
def elsewhere(folder: Path, media: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What a process without llave_hf says of the folder, and where it saved the model again."""
    work, out = tmp_path_factory.mktemp("elsewhere"), tmp_path_factory.mktemp("again")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {
        "HF_HOME": str(work / "hf"),
        "HF_MODULES_CACHE": str(work / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    arguments = [str(folder), str(media / "one.png"), str(media / "clip.mp4"), str(out)]
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, *arguments],
        cwd=work,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1]), out


@pytest.mark.slow
def test_remote_code_only_when_the_user_says_so(elsewhere: tuple[dict[str, Any], Path]) -> None:
    found, _ = elsewhere
    assert found["executed"] == []
    for error in found["refused"]:
        assert "trust_remote_code=True" in error


@pytest.mark.slow
def test_remote_code_gives_the_same_vectors(
    elsewhere: tuple[dict[str, Any], Path], transformer: SentenceTransformer, media: Path
) -> None:
    found, _ = elsewhere
    inputs = ["a dog", {"image": str(media / "one.png"), "text": "what?"}, {"video": str(media / "clip.mp4")}]
    expected = transformer.encode(inputs)
    assert close(found["plain"], expected)
    assert close(found["encoded"], expected)


@pytest.mark.slow
def test_what_remote_code_saves_opens_here(elsewhere: tuple[dict[str, Any], Path], folder: Path, media: Path) -> None:
    _, out = elsewhere
    assert {path.name for path in folder.glob("*.py")} == {path.name for path in out.glob("*.py")}
    assert close(expected_vectors(out, media), expected_vectors(folder, media))
    assert SentenceTransformer(str(out), device="cpu").encode(["a dog"]).shape == (1, 24)
