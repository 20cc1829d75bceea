"""Merged models as folders: what is in them, who opens them, what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from helpers import picture, tiny_model
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from torch import Tensor, nn
from transformers import AutoModel, AutoProcessor

from llave_hf.checkpoints.soup import soup
from llave_hf.checkpoints.soup.fitting import check_fit
from llave_hf.checkpoints.soup.parents import Parent, own_tensors
from llave_hf.checkpoints.soup.soup import merge_models
from llave_hf.cli import main
from llave_hf.errors import UserError
from llave_hf.hub.card.metadata import front_matter
from llave_hf.hub.fingerprint.verify import verify


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, and `a`, `b`, `c` trained from it: their projector is the base's, `b` lies in several files."""
    root = tmp_path_factory.mktemp("soup")
    for part in tiny_model():
        part.save_pretrained(root / "base")
    processor = AutoProcessor.from_pretrained(root / "base")
    for seed, name in enumerate("abc"):
        model = AutoModel.from_pretrained(root / "base")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if "projector" not in path:
                    parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        model.save_pretrained(root / name, **({"max_shard_size": "40KB"} if name == "b" else {}))
        processor.save_pretrained(root / name)
    assert len(list((root / "b").glob("model-*-of-*.safetensors"))) > 1
    return root


def stored(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_soup_has_the_mean_of_all_weights_and_opens_everywhere(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["merge", *(str(root / name) for name in "abc"), str(tmp_path / "out"), "--weights", "1", "2", "1"])
    said = capsys.readouterr().out
    assert f"linear: 0.25 * {root / 'a'} + 0.5 * {root / 'b'} + 0.25 * {root / 'c'}" in said
    parents, found = [stored(root / name) for name in "abc"], stored(tmp_path / "out")
    assert found.keys() == parents[0].keys()
    for name, tensor in found.items():
        one, two, three = (parent[name].double() for parent in parents)
        assert torch.equal(tensor, (0.25 * one + 0.5 * two + 0.25 * three).float()), name
    model, processor = AutoModel.from_pretrained(tmp_path / "out"), AutoProcessor.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        vectors = model.eval()(**processor(text=["a dog", "x"], images=[None, picture()])).embeddings
    encoder = SentenceTransformer(str(tmp_path / "out"), device="cpu")
    encoded = encoder.encode(["a dog", {"image": picture(), "text": "x"}])
    assert torch.allclose(torch.from_numpy(encoded), vectors, atol=1e-6)
    assert verify(tmp_path / "out").difference is None
    assert not list(tmp_path.glob(".merge-*"))


def test_ties_keeps_the_largest_changes_of_the_whole_model(root: Path, tmp_path: Path) -> None:
    models = [root / name for name in "ab"]
    merge_models(models, tmp_path / "out", method="ties", base=root / "base", density=0.3)
    base, parents = stored(root / "base"), [stored(model) for model in models]
    trained = [name for name in base if not torch.equal(base[name], parents[0][name])]
    assert 0 < len(trained) < len(base)
    deltas = [torch.cat([(parent[name] - base[name]).flatten().double() for name in trained]) for parent in parents]
    for delta in deltas:
        delta[delta.abs() < delta.abs().sort(descending=True).values[round(0.3 * len(delta)) - 1]] = 0
    one, two = deltas
    sign = (one + two).sign()
    counts = ((one.sign() == sign).double() + (two.sign() == sign).double()) * (sign != 0)
    total = one * (one.sign() == sign) + two * (two.sign() == sign)
    expected = torch.cat([base[name].flatten().double() for name in trained]) + total / counts.clamp(min=1)
    found = stored(tmp_path / "out")
    assert torch.allclose(torch.cat([found[name].flatten() for name in trained]).double(), expected, atol=1e-8)
    assert all(torch.equal(found[name], base[name]) for name in base if name not in trained)


def test_slerp_mixes_tensor_by_tensor(root: Path, tmp_path: Path) -> None:
    merge_models([root / "a", root / "b"], tmp_path / "out", method="slerp", weights=[3, 1])
    one, two, found = stored(root / "a"), stored(root / "b"), stored(tmp_path / "out")
    checked = 0
    for name, tensor in found.items():
        a, b = one[name].double().flatten(), two[name].double().flatten()
        cosine = a @ b / (a.norm() * b.norm())
        if cosine < 0.999:
            angle = cosine.acos()
            expected = ((0.75 * angle).sin() * a + (0.25 * angle).sin() * b) / angle.sin()
            assert torch.allclose(tensor.double().flatten(), expected, atol=1e-7), name
            checked += 1
    assert checked > 5


def test_weights_stay_in_their_type_or_in_the_widest_or_in_a_chosen_one(root: Path, tmp_path: Path) -> None:
    for name in "ab":
        model = AutoModel.from_pretrained(root / name, dtype=torch.bfloat16)
        model.save_pretrained(tmp_path / name)
        AutoProcessor.from_pretrained(root / name).save_pretrained(tmp_path / name)
    a, b, wide = tmp_path / "a", tmp_path / "b", root / "b"
    for number, (models, dtype, expected) in enumerate(
        (
            ([a, b], None, torch.bfloat16),
            ([a, wide], None, torch.float32),
            ([a, wide], "bfloat16", torch.bfloat16),
            ([a, b], "float32", torch.float32),
        )
    ):
        folder = tmp_path / str(number)
        merge_models(models, folder, dtype=dtype)
        found, (one, two) = stored(folder), (stored(model) for model in models)
        assert json.loads((folder / "config.json").read_text())["dtype"] == str(expected).removeprefix("torch.")
        for name, tensor in found.items():
            mean = (one[name].double() + two[name].double()) / 2
            assert tensor.dtype == expected and torch.equal(tensor, mean.to(expected)), name


def test_tied_weights_and_buffers() -> None:
    def module(value: float) -> nn.Module:
        part = nn.Module()
        part.weight = nn.Parameter(torch.full((2,), value))
        part.tied = part.weight
        part.register_buffer("mean", torch.full((2,), value))
        part.register_buffer("steps", torch.tensor(3))
        part.register_buffer("derived", torch.zeros(1), persistent=False)
        return part

    found = own_tensors(module(1.0))
    assert found.keys() == {"weight", "mean", "steps"}
    model = module(1.0)
    own_tensors(model)["weight"].data = torch.full((2,), 5.0)
    assert model.tied.tolist() == [5, 5]


def test_whole_numbers_must_be_equal_and_other_buffers_are_mixed(root: Path, tmp_path: Path) -> None:
    parents = []
    for name, value in (("a", 1.0), ("b", 3.0)):
        model = AutoModel.from_pretrained(root / name)
        model.register_buffer("running", torch.full((2,), value))
        model.register_buffer("steps", torch.tensor(3))
        parents.append(Parent(name, model, AutoProcessor.from_pretrained(root / name), str(root / name)))
    assert check_fit(parents) == []
    merged = soup._combine(soup.Mixture("linear", (0.5, 0.5)), parents, None, "bfloat16")
    assert merged.running.tolist() == [2, 2] and merged.running.dtype == torch.float32
    assert next(merged.parameters()).dtype == torch.bfloat16
    parents[1].tensors["steps"] = torch.tensor(4)
    with pytest.raises(UserError, match="steps holds whole numbers, which differ"):
        check_fit(parents)


def save_adapter(base: Path, folder: Path, seed: int) -> dict[str, Tensor]:
    """The folder of a LoRA adapter whose projector is trained whole, and the weights that it makes."""
    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=2,
        lora_alpha=3,
        target_modules=["q_proj", "v_proj"],
        init_lora_weights=False,
        modules_to_save=["multi_modal_projector"],
    )
    wrapped = peft.get_peft_model(AutoModel.from_pretrained(base), config)
    for name, parameter in wrapped.named_parameters():
        if "modules_to_save" in name:
            parameter.data.add_(0.1)
    wrapped.save_pretrained(folder)
    made, saved = stored(base), load_file(folder / "adapter_model.safetensors")
    for name in saved:
        plain = name.removeprefix("base_model.model.")
        if name.endswith("lora_A.weight"):
            product = saved[name.replace("lora_A", "lora_B")].double() @ saved[name].double()
            key = plain.replace(".lora_A", "")
            made[key] = made[key].double() + 1.5 * product
        elif "lora_B" not in name:
            made[plain] = saved[name].double()
    return made


def test_adapters_are_mixed_as_deltas(root: Path, tmp_path: Path) -> None:
    made = [save_adapter(root / "base", tmp_path / name, seed) for seed, name in enumerate(("one", "two"))]
    base, whole = stored(root / "base"), stored(root / "a")
    changed = [name for name in base if not torch.equal(made[0][name].float(), base[name])]
    assert any("projector" in name for name in changed) and any("q_proj" in name for name in changed)
    merge_models([tmp_path / "one", tmp_path / "two", root / "a"], tmp_path / "mean", weights=[2, 1, 1])
    for name, tensor in stored(tmp_path / "mean").items():
        mean = 0.5 * made[0][name].double() + 0.25 * made[1][name].double() + 0.25 * whole[name].double()
        assert torch.allclose(tensor.double(), mean, atol=2e-7), name
    record = json.loads((tmp_path / "mean" / "fingerprint.json").read_text())["merge"]
    assert record["models"][0] == {"name": "one", "weight": 0.5, "adapter_of": "base"}
    # An adapter's base is what its changes are measured from.
    said = merge_models([tmp_path / "one", tmp_path / "two"], tmp_path / "ties", method="ties", density=1.0)
    assert f"ties over {root / 'base'}" in said
    found = stored(tmp_path / "ties")
    assert all(torch.equal(found[name], base[name]) for name in base if name not in changed)
    one, two = ((made[place][changed[0]] - base[changed[0]]).double() for place in (0, 1))
    agree = one.sign() == two.sign()
    expected = torch.where(agree, (one + two) / 2, torch.where(one.abs() > two.abs(), one, two))
    assert torch.allclose(found[changed[0]].double(), base[changed[0]].double() + expected, atol=2e-7)


def other_prompt(folder: Path) -> None:
    file = folder / "config_sentence_transformers.json"
    edit_json(file, prompts=json.loads(file.read_text())["prompts"] | {"query": "Find: "})


def other_token(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (folder / "tokenizer.json").write_text(json.dumps(content))


def other_merges(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(content))


def setting(file: str, **changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / file, **changes)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (setting("config.json", normalize=False), "config.normalize is True in the first and False in the second"),
        (setting("config.json", video_newline="grid"), "config.video_newline is 'one_token' in the first and 'grid'"),
        (setting("processor_config.json", image_tiling="none"), "processor.image_tiling is 'anyres' .* 'none'"),
        (
            setting("processor_config.json", image_grid_pinpoints=[[28, 28]]),
            r"processor.image_grid_pinpoints is \[\[28, 28\].* and \[\[28, 28\]\] in the second",
        ),
        (other_prompt, "prompts.query is '' in the first and 'Find: ' in the second"),
        (other_token, r"tokenizer.model.vocab.a is \d+ in the first and \d+ in the second"),
        (other_merges, r"tokenizer.model.merges is \d+ entries in the first and \d+ entries in the second"),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
            "processor.chat_template is .* and '{{ messages }}' in the second",
        ),
    ],
)
def test_models_that_do_not_fit_are_refused_by_the_field(
    change: Callable[[Path], None], said: str, root: Path, tmp_path: Path
) -> None:
    change(shutil.copytree(root / "b", tmp_path / "b"))
    with pytest.raises(UserError, match=said):
        merge_models([root / "a", tmp_path / "b"], tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b"]


def test_another_architecture_is_refused(root: Path, tmp_path: Path) -> None:
    for part in tiny_model(image_size=14):
        part.save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match=r"config.backbone_config.\S+ is .* in the first and .* in the second"):
        merge_models([root / "a", tmp_path / "small"], tmp_path / "out")
    with pytest.raises(UserError, match=r"small and .* cannot be merged: the weight \S+position_embedding\S+ is \(4"):
        merge_models([root / "a", root / "b"], tmp_path / "out", method="ties", base=tmp_path / "small")


def test_what_may_differ_is_told_and_the_firsts_is_kept(root: Path, tmp_path: Path) -> None:
    edit_json(shutil.copytree(root / "b", tmp_path / "b") / "processor_config.json", max_length=64)
    said = merge_models([root / "a", tmp_path / "b"], tmp_path / "out")
    assert f"processor.max_length: 4096 of {root / 'a'} is kept; {tmp_path / 'b'} has 64" in said
    assert AutoProcessor.from_pretrained(tmp_path / "out").max_length == 4096


def test_prompts_of_the_models_stay(root: Path, tmp_path: Path) -> None:
    for name in "ab":
        other_prompt(shutil.copytree(root / name, tmp_path / name))
    merge_models([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert SentenceTransformer(str(tmp_path / "out"), device="cpu").prompts["query"] == "Find: "


def test_the_card_and_the_fingerprint_name_the_models(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "b", tmp_path / "runs" / "a")
    merge_models(
        [root / "a", tmp_path / "runs" / "a"], tmp_path / "out", method="ties", base=root / "base", weights=[3, 1]
    )
    record = json.loads((tmp_path / "out" / "fingerprint.json").read_text())["merge"]
    names = [f"{root.name}/a", "runs/a"]
    assert record == {
        "method": "ties",
        "density": 0.2,
        "scale": 1.0,
        "models": [{"name": names[0], "weight": 0.75}, {"name": names[1], "weight": 0.25}],
        "base": f"{root.name}/base",
    }
    card = (tmp_path / "out" / "README.md").read_text()
    assert "its weights are those of 2 models, merged by `ties` over" in card
    assert f"{names[0]} (weight 0.75), runs/a (weight 0.25)." in card
    assert "base_model" not in card  # folders are no names on the Hub


def test_the_front_matter_names_models_of_the_hub(tmp_path: Path) -> None:
    models = [{"name": "me/a", "hub_id": "me/a"}, {"name": "b"}, {"name": "me/c", "hub_id": "me/c"}]
    matter = front_matter(tmp_path, {}, {}, merge={"method": "linear", "models": models})
    assert "base_model:\n- me/a\n- me/c\n" in matter and "base_model_relation: merge\n" in matter
    assert "base_model" not in front_matter(tmp_path, {}, {})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{a}", "{out}", "--method", "slerp"], "--method is for two or more models"),
        (["{a}", "{out}"], "is a whole model and holds no adapter_config.json"),
        (["{a}", "{b}", "{c}", "{out}", "--method", "slerp"], "slerp merges two models, and 3 are named"),
        (["{a}", "{b}", "{out}", "--weights", "1"], "1 weights are given for 2 models"),
        (["{a}", "{b}", "{out}", "--weights", "1", "-1"], "the weights are 1, -1; give 0 or more"),
        (["{a}", "{b}", "{out}", "--weights", "0", "0"], "the weights are 0, 0; give 0 or more, and not 0 for all"),
        (["{a}", "{b}", "{out}", "--density", "0.5"], "density: only the method ties uses it, and this one is linear"),
        (["{a}", "{b}", "{out}", "--method", "ties"], "name what the models were trained from, with --base"),
        (["{a}", "{b}", "{out}", "--method", "ties", "--base", "{base}", "--density", "0"], "density is 0; it is"),
        (["{a}", "{b}", "{b}"], "b is not empty; name a new folder"),
        (["{a}", "{root}/absent", "{out}"], "There is no model folder"),
    ],
)
def test_what_is_wrong_is_said(
    words: Sequence[str], said: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {name: str(root / name) for name in ("a", "b", "c", "base")}
    with pytest.raises(SystemExit) as ended:
        main(["merge", *(word.format(**places, root=root, out=tmp_path / "out") for word in words)])
    error = capsys.readouterr().err.splitlines()[-1]
    assert ended.value.code == 2 and said in error
    assert list(tmp_path.iterdir()) == []


def test_the_help_tells_the_two_meanings_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["merge", "--help"])
    said = capsys.readouterr().out
    assert "llave merge ADAPTER OUT" in said and "llave merge A B [C ...] OUT" in said


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what memory a process holds")
def test_only_the_result_is_in_memory(tmp_path: Path) -> None:
    """In a process of its own, that gives no memory back to the system: it grows where it holds more at a time than
    while it made the models one after another. In this one, how much is free is chance.
    """
    command = [sys.executable, str(Path(__file__).with_name("memory_worker.py")), str(tmp_path)]
    keep = {"MALLOC_TRIM_THRESHOLD_": "2000000000", "MALLOC_MMAP_THRESHOLD_": "33554432"}  # glibc's
    environment = {**os.environ, **keep, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["size"] > 8e7 and found["looks"] > 20
    assert found["grown"] < 1.5 * found["size"]
