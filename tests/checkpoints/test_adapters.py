"""PEFT adapters of a LLaVE model: added, saved, opened by every class, merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from backbones import save_backbone
from helpers import picture, tiny_model
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoConfig, AutoModel, AutoProcessor

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.checkpoints.adapters import open_base
from llave_hf.cli import main
from llave_hf.model.sentence_transformer_layout_llave import write_sentence_transformer_layout

LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    for part in tiny_model():
        part.save_pretrained(folder)
    return folder


def embed(model: Any, processor: LlaveProcessor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**processor(text=["a dog", "x"], images=[None, picture()])).embeddings


@pytest.fixture(scope="module", params=["transformers", "peft"])
def adapter(request: pytest.FixtureRequest, base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The folder of an adapter, as each library saves it, and the vectors that it gives.

    Adding and saving an adapter by transformers itself is all that its own bound on peft shuts out; the bound of a new
    release may be above every peft there is.
    """
    folder = tmp_path_factory.mktemp("adapter")
    model, processor = AutoModel.from_pretrained(base), AutoProcessor.from_pretrained(base)
    plain = embed(model, processor)
    torch.manual_seed(1)
    config = peft.LoraConfig(**LORA)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.integrations.peft.MIN_PEFT_VERSION", peft.__version__)
        if request.param == "peft":
            model = peft.get_peft_model(model, config)
        else:
            model.add_adapter(config)
        vectors = embed(model, processor)
        assert float((vectors - plain).abs().max()) > 1e-2
        model.save_pretrained(folder)
    if request.param == "transformers":
        processor.save_pretrained(folder)
    return folder, vectors


def test_the_base_is_opened_at_the_revision_that_the_adapter_names(
    adapter: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(adapter[0], tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"revision": "1234abcd"}))
    asked: list[dict[str, Any]] = []
    opened = AutoModel.from_pretrained
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda base, **options: asked.append(options) or opened(base))
    open_base(folder)
    open_base(adapter[0])
    assert asked == [{"revision": "1234abcd"}, {}]


def test_an_adapter_holds_its_own_weights_only(adapter: tuple[Path, Any]) -> None:
    names = {path.name for path in adapter[0].iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= names
    assert not names & {"model.safetensors", "config.json"}


def test_every_class_opens_an_adapter(adapter: tuple[Path, Any], base: Path) -> None:
    folder, vectors = adapter
    processor = AutoProcessor.from_pretrained(base)
    for opener in (AutoModel, LlaveModel):
        model = opener.from_pretrained(folder)
        assert type(model) is LlaveModel
        assert torch.equal(embed(model, processor), vectors)
    wrapped = peft.PeftModel.from_pretrained(AutoModel.from_pretrained(base), folder)
    assert torch.equal(embed(wrapped, processor), vectors)


def test_an_adapter_that_does_not_fit_is_refused(adapter: tuple[Path, Any], tmp_path: Path) -> None:
    folder = shutil.copytree(adapter[0], tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    taken = sorted(weights)[0]
    save_file({name: value for name, value in weights.items() if name != taken}, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=r"1 weights that it lacks, 0 that have no place"):
        AutoModel.from_pretrained(folder)
    renamed = {name.replace("base_model.model.", "base."): value for name, value in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(ValueError, match=rf"{len(weights)} weights that it lacks, {len(weights)} that have no place"):
        LlaveModel.from_pretrained(folder)


def test_sentence_transformers_opens_an_adapter_beside_its_processor(adapter: tuple[Path, Any], base: Path) -> None:
    folder, vectors = adapter
    if not (folder / "modules.json").exists():  # PeftModel.save_pretrained writes weights only
        folder = shutil.copytree(folder, base.parent / "beside_its_processor")
        AutoProcessor.from_pretrained(base).save_pretrained(folder)
        config = AutoConfig.from_pretrained(base)
        write_sentence_transformer_layout(folder, config.hidden_size, config.normalize)
    encoded = SentenceTransformer(str(folder), device="cpu").encode(["a dog", {"image": picture(), "text": "x"}])
    assert torch.allclose(torch.from_numpy(encoded), vectors, atol=1e-6)


def test_merge_writes_a_whole_model(
    adapter: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, vectors = adapter
    main(["merge", str(folder), str(tmp_path)])
    assert "merged in; vectors differ by at most" in capsys.readouterr().out
    model, processor = AutoModel.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)
    assert torch.allclose(embed(model, processor), vectors, atol=1e-6)
    assert not [name for name in model.state_dict() if "lora" in name]
    encoded = SentenceTransformer(str(tmp_path), device="cpu").encode(["a dog"])
    assert torch.allclose(torch.from_numpy(encoded), vectors[:1], atol=1e-6)
    assert (tmp_path / "fingerprint.json").exists()


def test_an_adapter_on_a_plain_backbone(tmp_path: Path) -> None:
    backbone = save_backbone(tmp_path / "backbone", "qwen2_vl")
    model, processor = LlaveModel.from_pretrained(backbone), LlaveProcessor.from_pretrained(backbone)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**LORA))
    vectors = embed(wrapped, processor)
    wrapped.save_pretrained(tmp_path / "adapter")
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(
        backbone
    )
    main(["merge", str(tmp_path / "adapter"), str(tmp_path / "merged")])
    merged = AutoModel.from_pretrained(tmp_path / "merged"), AutoProcessor.from_pretrained(tmp_path / "merged")
    assert torch.allclose(embed(*merged), vectors, atol=1e-6)


def test_what_cannot_be_merged_is_named(
    adapter: tuple[Path, Any], base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments, message in (
        ([str(base), str(tmp_path / "out")], "holds no adapter_config.json"),
        ([str(adapter[0]), str(base)], "is not empty"),
    ):
        with pytest.raises(SystemExit) as exit:
            main(["merge", *arguments])
        assert exit.value.code == 2
        assert message in capsys.readouterr().err
