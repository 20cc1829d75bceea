"""A model by its Hub id is what its folder is: the same object, prompts, processor, vectors, records and card.

A real server on loopback is the Hub, and each way of naming a model runs in a process that knows no other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import tiny_model
from loopback_client import WRITE, Client
from loopback_hub import LoopbackHub

LOOK = """
import numpy as np
from llave_hf.encoding.model_identity import path_revision
from llave_hf.encoding.sentence_transformer import load_encoder
from llave_hf.evaluation.mteb.model_meta import model_meta
from llave_hf.evaluation.mteb.prompts import Prompts
from llave_hf.evaluation.report.training_weights import training_weights
from llave_hf.hub.fingerprint.fingerprint import read_fingerprint
from llave_hf.encoding.prompts import default_prompts

def look(model, **options):
    encoder = load_encoder(model, device="cpu", **options)
    revision = path_revision(model, **options)
    meta = model_meta(encoder, model, revision=revision, use_instructions=False, loader=type(encoder), changes={})
    return {
        "class": type(encoder).__name__,
        "prompts": getattr(encoder, "prompts", None),
        "prompts of mteb": vars(Prompts(encoder, None)),
        "prompts of search": default_prompts(encoder),
        "longest": encoder.max_seq_length,
        "card": [meta.license, meta.adapted_from, meta.max_tokens, meta.embed_dim],
        "weights": vars(training_weights(model)),
        "vectors": np.asarray(encoder.encode(["a dog", "snow"])).tolist(),
        "revision": revision,
    }
"""
CARD = b"---\nlicense: apache-2.0\nbase_model: org/base\n---\n# A model\n"


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As a run leaves it, with prompts that somebody chose."""
    root = tmp_path_factory.mktemp("saved") / "model"
    for part in tiny_model(seed=3, processor={"max_length": 90}):
        part.save_pretrained(root)
    file = root / "config_sentence_transformers.json"
    settings = json.loads(file.read_text())
    settings["prompts"] |= {"query": "Find: ", "document": "Doc: "}
    file.write_text(json.dumps(settings))
    record = {"hardness_strength": 3.0, "temperature": 0.07, "hardness_source": "self"}
    (root / "training_args.json").write_text(json.dumps(record))
    (root / "README.md").write_bytes(CARD)
    (root / "fingerprint.json").write_text(json.dumps({"format": 0}))
    return root


@pytest.fixture(scope="module")
def hub(folder: Path) -> Iterator[LoopbackHub]:
    with LoopbackHub({WRITE: ["org"]}) as server:
        files = files_of(folder)
        server.store.create("org/tiny", files=files)
        server.store.create("org/bare", files={name: files[name] for name in files if name != "modules.json"})
        server.store.create("org/secret", files=files, private=True)
        yield server


def looked(client: Client, model: str, **options: Any) -> dict[str, Any]:
    done = client("python", f"{LOOK}\nresult = look({model!r}, **{options!r})")
    assert done["code"] == 0, done["output"]
    return done["result"]


def test_the_same_object_prompts_records_and_vectors(client: Client, hub: LoopbackHub, folder: Path) -> None:
    by_folder, by_id = looked(client, str(folder)), looked(client, "org/tiny")
    commit = hub.store.repositories["org/tiny"].sha("main")
    assert by_id.pop("revision") == commit
    assert by_folder.pop("revision") != commit
    assert by_id == by_folder
    assert by_id["class"] == "LlaveSentenceTransformer"
    assert by_id["prompts"]["query"] == "Find: "
    assert by_id["longest"] == 90
    assert by_id["card"] == ["apache-2.0", "org/base", 90, 24]
    assert by_id["weights"]["strength"] == 3.0


def test_a_model_without_module_files_is_an_encoder_either_way(client: Client, folder: Path, tmp_path: Path) -> None:
    for name, content in files_of(folder).items():
        if name != "modules.json":
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(content)
    by_folder, by_id = looked(client, str(tmp_path)), looked(client, "org/bare")
    for found in (by_folder, by_id):
        del found["revision"]
    assert by_id == by_folder
    assert by_id["class"] == "LlaveEncoder"


def test_the_arguments_of_the_hub_reach_every_file(client: Client, hub: LoopbackHub, tmp_path: Path) -> None:
    found = looked(client, "org/secret", token=WRITE, revision="main", cache_dir=str(tmp_path))
    assert found["class"] == "LlaveSentenceTransformer"
    assert (tmp_path / "models--org--secret").is_dir()


def test_a_copy_in_the_cache_serves_without_the_hub(client: Client, folder: Path) -> None:
    looked(client, "org/tiny")
    offline = f"import os\nos.environ['HF_HUB_OFFLINE'] = '1'\nimport huggingface_hub.constants as c\n{LOOK}"
    done = client("python", f"{offline}\nc.HF_HUB_OFFLINE = True\nresult = look('org/tiny')\nc.HF_HUB_OFFLINE = False")
    assert done["code"] == 0, done["output"]
    assert done["result"]["class"] == "LlaveSentenceTransformer"
    assert done["result"]["card"][0] == "apache-2.0"


@pytest.mark.parametrize("named", ["folder", "id"])
def test_the_file_that_is_there_is_read(client: Client, folder: Path, named: str) -> None:
    """fingerprint.json of another format is told as such; without one that is said."""
    model = {"folder": str(folder), "id": "org/tiny"}[named]
    done = client("python", f"{LOOK}\nresult = read_fingerprint({model!r})")
    assert "fingerprint.json is not of format" in done["output"]


def test_an_adapter_by_its_id_brings_its_own_processor(client: Client, hub: LoopbackHub, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model, processor = tiny_model(seed=5)
    model.save_pretrained(base)
    processor.save_pretrained(base)
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    wrapped = peft.get_peft_model(model, config)
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    wrapped.save_pretrained(adapter)
    processor.max_length = 60
    processor.save_pretrained(adapter)
    hub.store.create("org/adapter", files=files_of(adapter))
    script = """
from llave_hf.checkpoints.adapters import open_base
from llave_hf.encoding.model_identity import path_revision
result = []
for name in {names}:
    base, model, processor = open_base(name)
    result.append([base, processor.max_length, path_revision(name)])
"""
    done = client("python", script.format(names=[str(adapter), "org/adapter"]))
    assert done["code"] == 0, done["output"]
    found = done["result"]
    assert [entry[:2] for entry in found] == [[str(base), 60]] * 2
    assert found[1][2] == hub.store.repositories["org/adapter"].sha("main")
