"""fingerprint.json, and `llave verify`, which must name the first stage that a planted fault changes."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers import picture, tiny_model, write_recipe, write_training_data
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from llave_hf import LlaveConfig, LlaveModel, LlaveProcessor, cli
from llave_hf.errors import UserError
from llave_hf.hub.fingerprint import reference_values, stages
from llave_hf.hub.fingerprint import samples as fingerprint_samples_module
from llave_hf.hub.fingerprint.comparison import compare
from llave_hf.hub.fingerprint.fingerprint import (
    FORMAT,
    expanded,
    make_fingerprint,
    read_fingerprint,
    run_lengths,
    write_fingerprint,
)
from llave_hf.hub.fingerprint.recomputation import BACKENDS
from llave_hf.hub.fingerprint.reference_values import Reference, card_inputs, published_size, verify_published
from llave_hf.hub.fingerprint.samples import FEW, affordable, fingerprint_samples
from llave_hf.hub.fingerprint.verify import Difference, verify
from llave_hf.training.recipe.recipe import load_recipe
from llave_hf.training.run import train

TEXTS = ["text", "unicode and special tokens", "long text"]
TALL = "tall image and text"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    for part in tiny_model(seed=3):
        part.save_pretrained(folder)
    write_fingerprint(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(saved, tmp_path / "model"))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# ------------------------------------------------------------------------------------------------- what is written


def test_the_file_holds_every_stage_and_no_date(saved: Path) -> None:
    found = read_fingerprint(saved)
    assert list(found["samples"]) == [sample.name for sample in fingerprint_samples()]
    assert (found["dtype"], found["device"], found["image_backend"]) == ("float32", "cpu", "pil")
    assert {"llave_hf", "transformers", "torch", "pillow", "sentence-transformers", "tokenizers"} <= set(
        found["versions"]
    )
    for name, stages_of in found["samples"].items():
        media = name not in TEXTS
        assert set(stages_of) == {"prompt", "tokens", "pixels", "vector"} | ({"visual"} if media else set())
        assert bool(stages_of["pixels"]) == media and len(stages_of["vector"]) == 24
        assert stages_of["prompt"].startswith("<|im_start|>system\n")
    vectors = np.array([stages_of["vector"] for stages_of in found["samples"].values()])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert len(np.unique(vectors, axis=0)) == len(vectors)
    assert len(found["samples"]["wide image"]["pixels"]["pixel_values"]["shape"]) == 4


def test_writing_again_or_from_memory_gives_the_same_bytes(saved: Path, folder: Path) -> None:
    written = (saved / "fingerprint.json").read_bytes()
    write_fingerprint(folder)
    assert (folder / "fingerprint.json").read_bytes() == written
    model, processor = tiny_model(seed=3)
    model.train()
    # As accelerate wraps a model that trains in bfloat16: the fingerprint must be what float32 gives.
    model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    write_fingerprint(folder, model=model, processor=processor)
    assert (folder / "fingerprint.json").read_bytes() == written
    assert model.training


def test_precision_switches_are_left_as_they_were() -> None:
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = "tf32"
        with torch.autocast("cpu", dtype=torch.bfloat16), stages.full_precision(torch.device("cpu")):
            assert matmul.fp32_precision == "ieee" and not torch.is_autocast_enabled("cpu")
        assert matmul.fp32_precision == "tf32"
    finally:
        matmul.fp32_precision = before


def test_long_vectors_are_kept_short_and_sensitive_everywhere() -> None:
    vector = torch.randn(3584, generator=torch.Generator().manual_seed(0)).double()
    kept = np.array(stages.summary(vector))
    assert len(kept) == 128 and np.allclose(kept[:64], vector[:64], rtol=1e-6)
    assert 0.5 < kept[64:].std() < 1.5  # of the scale of the vector's own numbers
    for position in (64, 1000, 3583):
        changed = vector.clone()
        changed[position] += 1
        assert np.abs(stages.summary(changed) - kept)[64:].min() > 0.01
    assert stages.summary([1 / 3]) == [0.3333333]
    # 8 samples x (vector + features) x 128 numbers, at most 15 characters each, beside prompts and tokens
    assert 8 * 2 * 128 * 15 < 100_000


@pytest.mark.parametrize("ids", [[], [5], [5, 5], [1, 5, 5, 5, 2, 2, 1], [7] * 3000])
def test_runs_of_tokens_go_there_and_back(ids: list[int]) -> None:
    assert expanded(run_lengths(ids)) == ids
    assert len(run_lengths(ids)) == sum(a != b for a, b in zip(ids, [None, *ids], strict=False))


def test_a_model_that_gives_nan_has_no_fingerprint(folder: Path) -> None:
    model, processor = tiny_model(seed=3)
    with torch.no_grad():
        model.backbone.language_model.norm.weight[0] = float("nan")
    (folder / "fingerprint.json").unlink()
    with pytest.raises(UserError, match=r"the sample 'text' gives a vector with NaN or infinity, so no fingerprint"):
        write_fingerprint(folder, model=model, processor=processor)
    assert not (folder / "fingerprint.json").exists()


def test_a_model_without_vision_has_the_texts_only(folder: Path) -> None:
    model, processor = tiny_model(seed=3)
    del model.backbone.multi_modal_projector
    assert list(make_fingerprint(model, processor)["samples"]) == TEXTS
    write_fingerprint(folder, model=model, processor=processor)
    assert verify(folder).lines[-1] == "agrees: 3 samples, backend auto"


def test_a_tower_that_gives_an_object_is_read_too() -> None:
    class Output:
        pooler_output = torch.ones(3, 4)

    assert stages._rows_of(Output()).shape == (3, 4)
    assert stages._rows_of(torch.ones(2, 3, 4)).shape == (6, 4)


def test_training_leaves_a_fingerprint_that_agrees(tmp_path: Path) -> None:
    data = write_training_data(tmp_path / "data", tasks=["Caption"], rows=8)
    try:
        train(load_recipe(write_recipe(data, max_steps=1, save_strategy="no", bf16=True)))
    finally:
        torch.set_autocast_enabled("cpu", False)  # accelerate's wrapper is not always left when training ends
    verdict = verify(data / "out")
    assert verdict.difference is None, verdict.lines


# ------------------------------------------------------------------------------------------------- what agrees


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_an_untouched_folder_agrees(backend: str, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["verify", str(saved), "--backend", backend])
    lines = capsys.readouterr().out.splitlines()
    note = "" if backend == "auto" else " (not compared: visual features)"
    assert lines[-1] == f"agrees: 8 samples, backend {backend}{note}"
    assert [line.split("  ")[0] for line in lines[:-1]] == [sample.name for sample in fingerprint_samples()]
    assert all("largest difference" in line for line in lines[:-1])


def test_sixteen_bits_agree_within_their_own_tolerance(saved: Path) -> None:
    verdict = verify(saved, dtype="bfloat16")
    assert verdict.difference is None
    amounts = [float(line.split("difference ")[1].split()[0]) for line in verdict.lines[:-1]]
    assert 1e-4 < max(amounts) < 2e-2  # so that float32's tolerance would not have done


def test_pixels_of_other_bytes_loosen_what_follows(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchvision of another version would make them: within a level or so of those that were written."""
    edit_json(folder / "fingerprint.json", lambda content: content.update(image_backend="torchvision"))
    whole = LlaveProcessor.__call__

    def shifted(self: LlaveProcessor, *positional: Any, **named: Any) -> Any:
        inputs = whole(self, *positional, **named)
        for name in set(inputs) & {"pixel_values", "pixel_values_videos"}:
            inputs[name] = inputs[name] + 5e-4
        return inputs

    monkeypatch.setattr(LlaveProcessor, "__call__", shifted)
    verdict = verify(folder)
    assert verdict.difference is None
    assert float(verdict.lines[3].split("difference ")[1].split()[0]) > 1e-5
    swap_layers(folder)
    assert verify(folder).difference == Difference("vector", "text", mock.ANY)


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen3_vl"])
def test_qwen_vl_backbones_have_fingerprints_too(kind: str, tmp_path: Path) -> None:
    model, processor = tiny_qwen(kind)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    write_fingerprint(tmp_path, model=model, processor=processor)
    samples = read_fingerprint(tmp_path)["samples"]
    assert all(("visual" in stages_of) == (name not in TEXTS) for name, stages_of in samples.items())
    assert verify(tmp_path).difference is None
    edit_weights(tmp_path, lambda weights: scale(weights, "visual.patch_embed.proj.weight"))
    difference = verify(tmp_path).difference
    assert difference is not None and (difference.stage, difference.sample) == ("visual", "square image")


def tiny_qwen(kind: str) -> tuple[LlaveModel, LlaveProcessor]:
    _, made = tiny_model()
    tokens = ["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
    made.tokenizer.add_tokens(tokens, special_tokens=True)
    start, end, image, video = made.tokenizer.convert_tokens_to_ids(tokens)
    vision: dict[str, Any] = {"depth": 2, "num_heads": 2, "patch_size": 14, "spatial_merge_size": 2}
    if kind == "qwen2_vl":
        vision |= {"embed_dim": 16, "hidden_size": 24, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 16, "out_hidden_size": 24, "intermediate_size": 32, "deepstack_visual_indexes": [0]}
        vision |= {"num_position_embeddings": 16}
    text = {
        "vocab_size": len(made.tokenizer),
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 12,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
    }
    ids = {
        "vision_start_token_id": start,
        "vision_end_token_id": end,
        "image_token_id": image,
        "video_token_id": video,
    }
    config = AutoConfig.for_model(kind, vision_config=vision, text_config=text, **ids)
    torch.manual_seed(0)
    model = LlaveModel(LlaveConfig(backbone_config=config)).eval()
    limits = {"patch_size": 14, "merge_size": 2, "size": {"shortest_edge": 28 * 28, "longest_edge": 112 * 112}}
    processor = LlaveProcessor(made.tokenizer, backbone=kind, image_settings=limits, video_settings=limits)
    return model, processor


def scale(weights: dict[str, torch.Tensor], name: str) -> None:
    weights[next(key for key in weights if key.endswith(name))] *= 1.05


# ------------------------------------------------------------------------------------------------- planted faults


def edit_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    text = path.read_text(encoding="utf-8")
    assert "helpful" in text
    path.write_text(text.replace("helpful", "useful"), encoding="utf-8")


def break_template(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no') }}", encoding="utf-8")


def drop_a_merge(folder: Path) -> None:
    edit_json(folder / "tokenizer.json", lambda content: content["model"]["merges"].pop(0))


def tile_nothing(folder: Path) -> None:
    edit_json(folder / "processor_config.json", lambda content: content.update(image_tiling="none"))


def change_mean(folder: Path) -> None:
    edit_json(folder / "processor_config.json", lambda content: content.update(image_mean=[0.5, 0.5, 0.48]))


def change_tower(folder: Path) -> None:
    edit_weights(folder, lambda weights: scale(weights, "vision_tower.encoder.layers.0.self_attn.v_proj.weight"))


def swap_layers(folder: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        first = [name for name in weights if ".language_model.layers.0." in name]
        assert first
        for name in first:
            other = name.replace(".layers.0.", ".layers.1.")
            weights[name], weights[other] = weights[other], weights[name]

    edit_weights(folder, change)


def do_not_normalise(folder: Path) -> None:
    edit_json(folder / "config.json", lambda content: content.update(normalize=False))


def pool_the_mean(folder: Path) -> None:
    edit_json(folder / "1_Pooling" / "config.json", lambda content: content.update(pooling_mode="mean"))


FAULTS = [
    (edit_template, "auto", "prompt", "text", "'useful assistant"),
    (break_template, "auto", "prompt", "text", "the template fails"),
    (drop_a_merge, "auto", "tokens", "text", "tokens, 31 were written"),
    (drop_a_merge, "sentence-transformers", "tokens", "text", "tokens, 31 were written"),
    (tile_nothing, "auto", "tokens", "square image", "tokens"),
    (change_mean, "auto", "pixels", "square image", "pixel_values: mean"),
    (change_mean, "sentence-transformers", "pixels", "square image", "pixel_values: mean"),
    (change_tower, "auto", "visual", "square image", "1e-05 is allowed"),
    (swap_layers, "auto", "vector", "text", "1e-05 is allowed"),
    (swap_layers, "sentence-transformers", "vector", "text", "1e-05 is allowed"),
    (do_not_normalise, "auto", "vector", "text", "1e-05 is allowed"),
    (pool_the_mean, "sentence-transformers", "vector", "text", "1e-05 is allowed"),
]


@pytest.mark.parametrize(
    ("plant", "backend", "stage", "sample", "detail"), FAULTS, ids=lambda part: getattr(part, "__name__", None)
)
def test_a_planted_fault_is_named(
    plant: Callable[[Path], None],
    backend: str,
    stage: str,
    sample: str,
    detail: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant(folder)
    with pytest.raises(SystemExit) as raised:
        cli.main(["verify", str(folder), "--backend", backend])
    assert raised.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    name = "visual features" if stage == "visual" else stage
    assert lines[0].startswith(f"DIFFERS first at {name}, in the sample {sample!r}")
    assert detail in lines[1]
    assert lines[2].startswith("  usually: ")
    if stage != "prompt":
        assert next(line for line in lines if "equal before it" in line).startswith("  equal before it: prompt")
    assert lines[-1] == "  changed since it was written: no version, dtype or device"


def test_a_processor_that_leaves_the_suffix_out_is_found_at_the_tokens(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LlaveProcessor.__call__

    def cut(self: LlaveProcessor, *positional: Any, **named: Any) -> Any:
        inputs = whole(self, *positional, **named)
        inputs["attention_mask"][:, -1] = 0
        return inputs

    monkeypatch.setattr(LlaveProcessor, "__call__", cut)
    difference = verify(saved).difference
    assert difference is not None and (difference.stage, difference.sample) == ("tokens", "text")
    assert "30 tokens, 31 were written; from token 30 on []" in difference.detail


def test_the_pooling_of_sentence_transformers_is_not_auto_models(folder: Path) -> None:
    pool_the_mean(folder)
    assert verify(folder).difference is None


def test_sixteen_bits_do_not_hide_swapped_layers(folder: Path) -> None:
    swap_layers(folder)
    difference = verify(folder, dtype="bfloat16").difference
    assert difference is not None and difference.stage == "vector" and "0.02 is allowed" in difference.detail


def test_other_versions_are_mentioned_only_where_something_differs(folder: Path) -> None:
    edit_json(folder / "fingerprint.json", lambda content: content["versions"].update(torch="0.1"))
    verdict = verify(folder)
    assert verdict.difference is None and "torch" not in "\n".join(verdict.lines)
    change_mean(folder)
    assert f"torch 0.1 -> {torch.__version__.split('+')[0]}" in verify(folder).lines[-1]


def test_a_vector_of_nan_or_another_length_differs() -> None:
    allowed: dict[str, Any] = {"tolerance": 1e-5, "exact_pixels": True}
    assert not compare("vector", [0.5, 1.0], [0.5, float("nan")], **allowed).agrees
    assert not compare("vector", [0.5, 1.0], [0.5], **allowed).agrees
    assert compare("vector", [0.0, 100.0], [0.0005, 100.0], **allowed).agrees
    assert not compare("vector", [0.0, 100.0], [0.002, 100.0], **allowed).agrees
    assert not compare("visual", None, [1.0], **allowed).agrees
    assert not compare("visual", [1.0], None, **allowed).agrees
    assert compare("visual", None, None, **allowed).agrees


def test_pixels_of_other_backends_may_differ_a_little() -> None:
    old = {"pixel_values": {"shape": [1], "mean": 0.1, "std": 0.5, "sha256": "a"}}
    near, far, wide = (copy.deepcopy(old) for _ in range(3))
    near["pixel_values"].update(mean=0.1005, sha256="b")
    far["pixel_values"].update(std=0.502, sha256="b")
    wide["pixel_values"].update(shape=[2])
    for new, exact, agrees in [
        (old, True, True),
        (near, True, False),
        (near, False, True),
        (far, False, False),
        (wide, False, False),
        ({}, False, False),
    ]:
        found = compare("pixels", old, new, tolerance=1e-5, exact_pixels=exact)
        assert found.agrees == agrees and found.other_bytes == (new is near and agrees)


# ------------------------------------------------------------------------------------------------- user errors


def no_file(folder: Path) -> None:
    (folder / "fingerprint.json").unlink()


def no_json(folder: Path) -> None:
    (folder / "fingerprint.json").write_text("{", encoding="utf-8")


def other_format(folder: Path) -> None:
    edit_json(folder / "fingerprint.json", lambda content: content.update(format=2))


def fewer_samples(folder: Path) -> None:
    edit_json(folder / "fingerprint.json", lambda content: content["samples"].pop("video"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (no_file, "has no fingerprint.json"),
        (no_json, "is no JSON"),
        (other_format, "is not of format 1"),
        (fewer_samples, "does not hold all samples"),
    ],
)
def test_without_a_usable_fingerprint_the_exit_code_is_2(
    spoil: Callable[[Path], None], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    with pytest.raises(SystemExit) as raised:
        cli.main(["verify", str(folder)])
    assert raised.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "fingerprint.json" in error


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model \(no config.json\)"):
        write_fingerprint(tmp_path)


def test_the_command_offers_every_backend(capsys: pytest.CaptureFixture[str]) -> None:
    for backend in BACKENDS:
        assert cli.build_parser().parse_args(["verify", "M", "--backend", backend]).backend == backend
    with pytest.raises(SystemExit):
        cli.build_parser().parse_args(["verify", "M", "--backend", "other"])
    assert all(backend in capsys.readouterr().err for backend in ["auto"])


# ------------------------------------------------------------------------------------------------- published cards


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "example.png"
    picture(50, 30).save(path)
    return path


def test_another_models_similarities_are_not_the_cards(
    saved: Path, photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["verify", str(saved), "--published", "2B", "--picture", str(photo)])
    assert raised.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    values = [line.rsplit(" ", 1)[1] for line in lines[:4]]
    assert values == ["0.5132", "0.3809", "0.5225", "0.4141"]
    assert sum(line.startswith("DIFFERS: ") for line in lines[:4]) >= 3 and "0.005 is allowed" in lines[4]


@pytest.mark.parametrize(("off", "agrees"), [(0.004, True), (-0.004, True), (0.006, False), (-0.006, False)])
def test_the_similarity_decides(
    off: float, agrees: bool, saved: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cosines computed here by hand take the place of the card's."""
    model, processor = tiny_model(seed=3)
    with torch.no_grad():
        left = model(**card_inputs(processor, "What?", photo)).embeddings[0]
        right = model(**processor(text=["A cat"])).embeddings[0]
    cosine = float(left @ right)
    monkeypatch.setattr(reference_values, "REFERENCES", {"0.5B": (Reference("What?", "A cat", cosine + off),)})
    assert (verify_published(saved, photo, size="0.5B").difference is None) == agrees


def test_a_cards_picture_and_text_are_joined_with_a_space(tiny: Any, photo: Path) -> None:
    _, processor = tiny
    inputs = card_inputs(processor, "Represent the given image.", photo)
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape and bool(inputs["attention_mask"].all())
    count = text.count("<image>")
    assert count > 1
    assert text == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        + "<image>" * count
        + " Represent the given image.<|im_end|>\n<|im_start|>assistant\n\n<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("name", "fields", "size"),
    [
        ("LLaVE-0.5B", {"hidden_size": 896, "num_hidden_layers": 24}, "0.5B"),
        ("llave", {"backbone_config": {"text_config": {"hidden_size": 1536, "num_hidden_layers": 28}}}, "2B"),
        ("mine", {"_name_or_path": "zhibinlan/LLaVE-2B", "hidden_size": 1536, "num_hidden_layers": 28}, "2B"),
        ("onevision", {"hidden_size": 896, "num_hidden_layers": 24}, None),
        ("LLaVE-0.5B", {"hidden_size": 24, "num_hidden_layers": 2}, None),
    ],
)
def test_published_models_are_recognised(name: str, fields: dict[str, Any], size: str | None, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text(json.dumps({"model_type": "llava_qwen", **fields}))
    assert published_size(tmp_path / name) == size


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--published", "2B"], "--published needs --picture"),
        (["--published", "2B", "--picture", "x.png", "--backend", "sentence-transformers"], "leave --backend out"),
        (["--picture", "x.png"], "is not recognised as a published LLaVE"),
    ],
)
def test_what_is_missing_for_a_published_card_is_said(
    options: list[str], message: str, saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["verify", str(saved), *options])
    assert raised.value.code == 2 and message in capsys.readouterr().err


def test_the_samples_never_change() -> None:
    """Who changes them must raise FORMAT: every fingerprint that is out there would be wrong."""
    digest = hashlib.sha256()
    for sample in fingerprint_samples():
        digest.update(f"{sample.name}\n{sample.text}\n".encode())
        for image in (*sample.images, *sample.frames):
            digest.update(f"{image.mode} {image.size}".encode() + image.tobytes())
    assert (FORMAT, digest.hexdigest()) == (1, "d3eadc56a824191454c8a853af33bdc1f4a25bb008aa006c225b363beaffa77d")


# ----------------------------------------------------------------------------------------------- effort that fits


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one with each sample that goes through a model; every model counts as large."""
    monkeypatch.setattr(fingerprint_samples_module, "LARGE", 0)
    made: list[int] = []
    whole = LlaveModel._embed

    def counted(self: LlaveModel, *positional: Any, **named: Any) -> Any:
        made.append(1)
        return whole(self, *positional, **named)

    monkeypatch.setattr(LlaveModel, "_embed", counted)
    return made


def test_a_large_model_is_given_a_few(
    folder: Path, saved: Path, forwards: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    whole = read_fingerprint(saved)["samples"]
    write_fingerprint(folder)
    assert len(forwards) == len(FEW) == 5
    few = read_fingerprint(folder)["samples"]
    assert few.keys() == whole.keys()
    for name, stages_of in few.items():
        left_out = set() if name in FEW else {"vector", "visual"}
        assert stages_of == {stage: value for stage, value in whole[name].items() if stage not in left_out}
    forwards.clear()
    cli.main(["verify", str(folder)])
    assert len(forwards) == 5
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "agrees: 8 samples, backend auto"
    assert lines[-1].startswith("3 of them were compared up to their pixels")
    assert "--thorough" in lines[-1]
    forwards.clear()
    cli.main(["verify", str(folder), "--thorough"])
    assert len(forwards) == 5
    assert capsys.readouterr().out.splitlines()[-1].endswith("; the fingerprint has no more.")


def test_thorough_takes_all(folder: Path, saved: Path, forwards: list[int]) -> None:
    write_fingerprint(folder, thorough=True)
    assert len(forwards) == 8
    assert (folder / "fingerprint.json").read_bytes() == (saved / "fingerprint.json").read_bytes()
    forwards.clear()
    assert len(verify(folder).lines) == 10 and len(forwards) == 5
    forwards.clear()
    verdict = verify(folder, thorough=True)
    assert verdict.lines[-1] == "agrees: 8 samples, backend auto" and len(forwards) == 8


@pytest.mark.parametrize(
    ("plant", "stage", "sample"),
    [(tile_nothing, "tokens", "square image"), (swap_layers, "vector", "text"), (change_tower, "visual", TALL)],
)
def test_a_few_find_faults_too(
    plant: Callable[[Path], None], stage: str, sample: str, folder: Path, forwards: list[int]
) -> None:
    write_fingerprint(folder)
    plant(folder)
    difference = verify(folder).difference
    assert difference is not None and (difference.stage, difference.sample) == (stage, sample)


def test_a_gpu_is_given_all() -> None:
    assert len(affordable(10**9, "cuda")) == len(affordable(10**6, "cpu")) == 8
    assert [sample.name for sample in affordable(10**9, "cpu")] == list(FEW)


def test_sixteen_bits_on_a_cpu_without_them(saved: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fingerprint of bfloat16 is compared with float32 where the processor has no bfloat16, unless one asks."""
    write_fingerprint(folder, dtype="bfloat16")
    assert read_fingerprint(folder)["dtype"] == "bfloat16"
    monkeypatch.setattr("llave_hf.runtime.processor_dtypes.native_dtypes", lambda: frozenset({torch.float32}))
    verdict = verify(folder)
    assert verdict.difference is None
    assert verdict.lines[-1].startswith("Computed in float32: this processor does not multiply bfloat16 by itself")
    assert "Computed in" not in verify(folder, dtype="bfloat16").lines[-1]
    swap_layers(folder)
    assert verify(folder).difference == Difference("vector", "text", mock.ANY)
