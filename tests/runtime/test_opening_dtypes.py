"""Models in the number type that the processor multiplies; the processor's answer is pretended."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from backbones import KINDS, save_backbone
from helpers import picture, tiny_model, write_recipe, write_training_data
from safetensors.torch import load_file, safe_open, save_file
from torch import nn
from transformers import AutoModel

from llave_hf import LlaveModel, LlaveProcessor, cli
from llave_hf.doctor import examine
from llave_hf.encoding.encoder import LlaveEncoder
from llave_hf.encoding.sentence_transformer import load_encoder
from llave_hf.hub.fingerprint.fingerprint import read_fingerprint
from llave_hf.runtime import opening, progress

NATIVE = {False: frozenset({torch.float32, torch.float64})}
NATIVE[True] = NATIVE[False] | {torch.bfloat16, torch.float16}


def pretend(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    monkeypatch.setattr("llave_hf.runtime.processor_dtypes.native_dtypes", lambda: NATIVE[native])


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in bfloat16."""
    folder = tmp_path_factory.mktemp("halved") / "model"
    model, processor = tiny_model(seed=3)
    model.to(torch.bfloat16).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


# -------------------------------------------------------------------------------------------- what is opened in what


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("native", [False, True])
def test_encoders(
    native: bool,
    plain: bool,
    halved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = Path(shutil.copytree(halved, tmp_path / "model"))
    if plain:
        (folder / "modules.json").unlink()
    pretend(monkeypatch, native)
    capsys.readouterr()
    encoder = load_encoder(folder, device="cpu")
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("llave: ")]
    model = encoder.model if isinstance(encoder, LlaveEncoder) else encoder
    assert isinstance(encoder, LlaveEncoder) == plain
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16 if native else torch.float32}
    if native:
        assert not told
    else:
        assert len(told) == 1
        assert "is bfloat16, which this processor does not multiply by itself: opened in float32" in told[0]
        assert "GB of memory instead of" in told[0] and "--dtype bfloat16 keeps it" in told[0]
    kept = load_encoder(folder, device="cpu", dtype="bfloat16")
    model = kept.model if isinstance(kept, LlaveEncoder) else kept
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert "llave: " not in capsys.readouterr().err


def test_float32_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in tiny_model(seed=3):
        part.save_pretrained(tmp_path)
    pretend(monkeypatch, False)
    load_encoder(tmp_path, device="cpu")
    assert "llave: " not in capsys.readouterr().err


def test_another_rank_says_nothing(
    halved: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, False)
    monkeypatch.setattr("llave_hf.distributed.rank", lambda: 1)
    load_encoder(halved, device="cpu")
    assert "llave: " not in capsys.readouterr().err


@pytest.mark.parametrize("native", [False, True])
def test_init_writes_what_the_backbone_has(
    native: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save_backbone(tmp_path / "backbone", "qwen2_vl")
    AutoModel.from_pretrained(source, dtype="bfloat16").save_pretrained(tmp_path / "half")
    for file in (tmp_path / "half").iterdir():
        shutil.copy(file, source)
    pretend(monkeypatch, native)
    cli.main(["init", "--backbone", str(source), str(tmp_path / "model")])
    error = capsys.readouterr().err
    assert ("opened in float32" in error) == (not native)
    assert "--dtype" not in error  # which is the type of the weights here
    assert {t.dtype for t in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.bfloat16}
    fingerprint = read_fingerprint(tmp_path / "model")
    assert fingerprint["dtype"] == ("bfloat16" if native else "float32")
    pretend(monkeypatch, not native)  # on the other kind of processor
    cli.main(["verify", str(tmp_path / "model")])
    printed = capsys.readouterr().out
    assert "agrees: 8 samples" in printed
    assert ("this processor does not multiply bfloat16" in printed) == native


def test_doctor_and_summary_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llave_hf.training.recipe.recipe import load_recipe
    from llave_hf.training.run import train

    recipe = write_recipe(write_training_data(tmp_path, rows=8), bf16=True, max_steps=1, save_strategy="no")
    said = "this CPU does not multiply bfloat16 by itself"
    for native in (True, False):
        pretend(monkeypatch, native)
        notes = [finding.text for finding in examine(str(recipe)) if finding.level == "note"]
        assert any(said in note and "leave bf16 out" in note for note in notes) == (not native)
    assert not any(said in finding.text for finding in examine(str(recipe), tflops=100.0))  # another machine trains
    capsys.readouterr()
    try:
        train(load_recipe(str(recipe)))
    finally:
        torch.set_autocast_enabled("cpu", False)  # accelerate's wrapper is not always left when training ends
    assert "bfloat16, which this processor does not multiply by itself" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------ widening


def resident(file: Path) -> int:
    """Bytes of a file's maps that lie in this process's memory."""
    total, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = line.endswith(str(file))
        elif inside and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps"), reason="only Linux tells what is in memory")
def test_the_file_leaves_memory_as_it_is_widened(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    values = torch.randn(2, 4 << 20, generator=torch.Generator().manual_seed(0)).to(torch.bfloat16)
    save_file({"one": values[0].contiguous(), "two": values[1].contiguous()}, file)
    model = nn.Module()
    with safe_open(file, framework="pt") as opened:
        tensors = {name: opened.get_tensor(name) for name in ("one", "two")}
    model.one, model.two = (nn.Parameter(tensors[name], requires_grad=False) for name in ("one", "two"))
    assert model.one.sum().isfinite() and model.two.sum().isfinite()  # reads all
    before = resident(file)
    opening.cast(model, torch.float32)
    assert torch.equal(model.one, values[0].float()) and torch.equal(model.two, values[1].float())
    if before:  # a version of safetensors that maps files
        assert before > 8 << 20
        assert resident(file) < 1 << 20
        assert torch.equal(tensors["one"], values[0])  # whoever holds the old tensor reads the file again


def test_memory_that_is_no_file_is_not_given_back() -> None:
    """Tied parameters are widened each by itself: the second must still find its numbers."""
    shared = torch.randn(1 << 20).to(torch.bfloat16)
    model = nn.Module()
    model.one, model.two = nn.Parameter(shared), nn.Parameter(shared.view(1024, 1024))
    opening.cast(model, torch.float32)
    assert torch.equal(model.one, shared.float()) and torch.equal(model.two.flatten(), shared.float())


def test_integers_and_buffers_stay(halved: Path) -> None:
    model = AutoModel.from_pretrained(halved)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    opening.cast(model, torch.float32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())
    expected = AutoModel.from_pretrained(halved, dtype="float32").state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


# ------------------------------------------------------------------------------------------------------------ progress


@pytest.mark.parametrize("kind", KINDS)
def test_the_bar_ends_where_the_work_ends(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_backbone(tmp_path / kind, kind)
    model, processor = LlaveModel.from_backbone(folder).eval(), LlaveProcessor.from_backbone(folder)
    inputs = [processor(text=["a dog"]), processor(text=["x"], images=[[picture(64, 40)]])]
    inputs.append(processor(text=[""], videos=[[picture(40, 40, seed=n) for n in range(4)]]))
    bars: list[Counted] = []
    monkeypatch.setattr(progress, "tqdm", lambda **options: bars.append(Counted(options["total"])) or bars[-1])
    with torch.inference_mode(), progress.forward_bar(model, inputs, "Computing"):
        for given in inputs:
            before = bars[0].n
            model(**given)
            assert bars[0].n > before
    assert 0.85 <= bars[0].n / bars[0].total <= 1
    steps = len(bars[0].steps)
    model(**inputs[0])
    assert len(bars[0].steps) == steps  # nothing stays on the model


class Counted:
    """Of tqdm what is used, with every step kept."""

    def __init__(self, total: float) -> None:
        self.total, self.steps = total, list[float]()

    @property
    def n(self) -> float:
        return sum(self.steps)

    def update(self, amount: float) -> None:
        self.steps.append(amount)

    def __enter__(self) -> Counted:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def test_writing_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars: list[Counted] = []
    monkeypatch.setattr(progress, "_LOOKS", 0.01)
    monkeypatch.setattr(progress, "tqdm", lambda **options: bars.append(Counted(options["total"])) or bars[-1])
    with progress.writing_bar(tmp_path / "new", 1000, "Writing"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "part").write_bytes(bytes(400))
        while not any(bars[0].steps):
            pass
        assert bars[0].n == 400
    assert bars[0].n == 1000
