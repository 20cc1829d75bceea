"""Each fault in pictures and clips, planted in a real server, is named by the check."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from backbones import save_backbone
from helpers import TEXTS
from local_model import MAX_LENGTH, Local
from PIL import Image
from planted_server import Asked, Embed, embedding, run
from torchvision.transforms.v2 import functional as tv

from llave_hf import LlaveModel, LlaveProcessor
from llave_hf.checkpoints.from_scratch import train_tokenizer
from llave_hf.model.media_llave import load_clip
from llave_hf.serving_check.asking import cosine
from llave_hf.serving_check.check import probes_of
from llave_hf.serving_check.diagnosis import Diagnosis, row_key
from llave_hf.serving_check.faults import media_of, with_prompt
from llave_hf.serving_check.media_faults import media_faults
from llave_hf.serving_check.probes import KINDS
from llave_hf.serving_check.prompt_faults import prompt_faults
from llave_hf.serving_check.reference import open_reference

Plant = Callable[[Local], Embed]


def with_processor(**settings: Any) -> Plant:
    """A server whose processor has other settings."""

    def plant(local: Local) -> Embed:
        other = LlaveProcessor.from_pretrained(local.folder, max_length=MAX_LENGTH, **settings)
        return embedding(local.model, other)

    return plant


def with_pictures(change: Callable[[list[bytes]], list[Any]]) -> Plant:
    """A server that opens or orders pictures otherwise."""

    def plant(local: Local) -> Embed:
        def embed(asked: Asked) -> np.ndarray:
            return run(local.model, local.processor(text=[asked.text], images=[change(asked.pictures)]))[-1]

        return embed

    return plant


def with_clip(change: Callable[[Any], Any]) -> Plant:
    def plant(local: Local) -> Embed:
        def embed(asked: Asked) -> np.ndarray:
            return run(local.model, local.processor(text=[asked.text], videos=[change(load_clip(asked.clip))]))[-1]

        return embed

    return plant


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def laid_on_white(content: bytes) -> Image.Image:
    image = opened(content).convert("RGBA")
    ground = Image.new("RGB", image.size, "white")
    ground.paste(image, mask=image.getchannel("A"))
    return ground


def premultiplied(content: bytes) -> Image.Image:
    """On black."""
    pixels = np.asarray(opened(content).convert("RGBA")).astype(float)
    return Image.fromarray(np.rint(pixels[..., :3] * pixels[..., 3:] / 255).astype(np.uint8))


def pixels_alone(content: bytes) -> np.ndarray:
    return np.asarray(opened(content).convert("RGB"))


def with_resize(resize: Callable[[Image.Image, int, int], np.ndarray]) -> Plant:
    def plant(local: Local) -> Embed:
        other = LlaveProcessor.from_pretrained(local.folder, max_length=MAX_LENGTH)
        other._visual.tiles._resize = resize
        return embedding(local.model, other)

    return plant


def bilinear(image: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))


def without_antialias(image: Image.Image, width: int, height: int) -> np.ndarray:
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    made = tv.resize(planes, [height, width], interpolation=tv.InterpolationMode.BICUBIC, antialias=False)
    return made.permute(1, 2, 0).numpy()


def ids_of(local: Local, asked: Asked) -> tuple[list[int], dict[str, Any]]:
    inputs = dict(local.processor(text=[asked.text], **asked.media))
    inputs.pop("attention_mask")
    return inputs.pop("input_ids")[0].tolist(), inputs


def text_first(local: Local) -> Embed:
    def embed(asked: Asked) -> np.ndarray:
        ids, tensors = ids_of(local, asked)
        places = [place for place, token in enumerate(ids) if token == local.processor.image_token_id]
        start, end = places[0], places[-1] + 1
        plain = {"add_special_tokens": False}
        before = local.processor.tokenizer.decode(ids[:start])
        head = local.processor.tokenizer(before + asked.text + "\n", **plain)["input_ids"]
        closing = local.processor.tokenizer("<|im_end|>\n<|im_start|>assistant\n\n<|im_end|>\n", **plain)["input_ids"]
        return run(local.model, {"input_ids": torch.tensor([[*head, *ids[start:end], *closing]]), **tensors})[-1]

    return embed


def glued(local: Local) -> Embed:
    """Without the newline between a picture and the text."""

    def embed(asked: Asked) -> np.ndarray:
        ids, tensors = ids_of(local, asked)
        plain = {"add_special_tokens": False}
        tokens = {
            text: local.processor.tokenizer(text, **plain)["input_ids"] for text in ("\n" + asked.text, asked.text)
        }
        with_newline, without = tokens.values()
        last = max(place for place, token in enumerate(ids) if token == local.processor.image_token_id) + 1
        assert ids[last : last + len(with_newline)] == with_newline
        changed = [*ids[:last], *without, *ids[last + len(with_newline) :]]
        return run(local.model, {"input_ids": torch.tensor([changed]), **tensors})[-1]

    return embed


def one_tile_of(picture: Callable[[Image.Image], Image.Image]) -> Plant:
    """A server that makes one tile of a picture, squeezed to it."""

    def plant(local: Local) -> Embed:
        other = LlaveProcessor.from_pretrained(local.folder, max_length=MAX_LENGTH, image_tiling="none")
        tiles = other._visual.tiles
        tiles.padded = lambda image: tiles.squeezed(picture(image))
        return embedding(local.model, other)

    return plant


def on_black(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def without_pictures(local: Local) -> Embed:
    return lambda asked: run(local.model, local.processor(text=[asked.text]))[-1]


def frames_as_pictures(local: Local) -> Embed:
    def embed(asked: Asked) -> np.ndarray:
        frames = load_clip(asked.clip).frames
        return run(local.model, local.processor(text=[asked.text], images=[frames]))[-1]

    return embed


FAULTS: dict[str, tuple[tuple[str, ...], Plant]] = {
    "every picture is one tile": (("picture",), with_processor(image_tiling="none")),
    "a picture that stands alone is cut into tiles, several are one tile each": (
        ("pictures",),
        with_processor(image_tiling="anyres_single"),
    ),
    "resized by torchvision": (("picture",), with_processor(backend="torchvision")),
    "resized bilinear by Pillow": (("picture",), with_resize(bilinear)),
    "resized bicubic by torchvision, without antialias": (("picture",), with_resize(without_antialias)),
    "normalised with CLIP's mean and deviation": (
        ("pictures",),
        with_processor(image_mean=(0.48145466, 0.4578275, 0.40821073), image_std=(0.26862954, 0.26130258, 0.27577711)),
    ),
    "transparency is laid on white": (("transparency",), with_pictures(lambda all_: [*map(laid_on_white, all_)])),
    "transparency is laid on black": (("transparency",), with_pictures(lambda all_: [*map(premultiplied, all_)])),
    "the orientation in EXIF is not heeded": (
        ("orientation",),
        with_pictures(lambda all_: [*map(pixels_alone, all_)]),
    ),
    "red and blue are swapped": (
        ("picture",),
        with_pictures(lambda all_: [pixels_alone(one)[..., ::-1].copy() for one in all_]),
    ),
    "the pictures stand in reverse order": (("pictures",), with_pictures(lambda all_: all_[::-1])),
    "the last picture stands for all": (("pictures",), with_pictures(lambda all_: all_[-1:] * 2)),
    "every picture is one tile, squeezed and not padded": (("pictures",), one_tile_of(lambda image: image)),
    "every picture is one tile, padded with black": (("pictures",), one_tile_of(on_black)),
    "nothing stands between pictures and text": (("picture",), glued),
    "only the first picture is taken": (("pictures",), with_pictures(lambda all_: all_[:1])),
    "pictures stand behind the text": (("pictures",), text_first),
    "the pictures are left out": (("pictures",), without_pictures),
    "2 of its 4 frames are taken, spread over it": (("clip",), with_clip(lambda clip: clip[:4:3])),
    "3 of its 4 frames are taken, from its beginning": (("clip",), with_clip(lambda clip: clip[:3])),
    "its frames stand in reverse order": (("clip",), with_clip(lambda clip: clip[::-1])),
    "its frames are taken for pictures": (("clip",), frames_as_pictures),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name: str, local: Local) -> None:
    kinds, plant = FAULTS[name]
    faulty = plant(local)

    def embed(asked: Asked) -> np.ndarray:  # a text stays right
        needs_text = name == "nothing stands between pictures and text" and not asked.text
        right = needs_text or (asked.clip is None and not asked.pictures)
        return local.right(asked) if right else faulty(asked)

    report = local.check(local.planted(embed), ("text", *kinds))
    assert not report.agrees
    named = {probe: cause.name for (_, probe), cause in report.causes.items()}
    assert named and all(found.startswith(name) for found in named.values()), named


def test_a_model_of_one_tile_that_is_served_with_tiles(one_tile: Local) -> None:
    plant = with_processor(image_tiling="anyres_single")
    report = one_tile.check(one_tile.planted(plant(one_tile)), ("text", "picture", "pictures"))
    named = {probe: cause.name for (_, probe), cause in report.causes.items()}
    assert "two images" not in named
    assert set(named.values()) == {"a picture that stands alone is cut into tiles, several are one tile each"}


@contextlib.contextmanager
def configured(config: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(config, name)
    setattr(config, name, value)
    try:
        yield
    finally:
        setattr(config, name, before)


def test_newlines_of_clips(local: Local) -> None:
    def embed(asked: Asked) -> np.ndarray:
        if asked.clip is None:
            return local.right(asked)
        with configured(local.model.config, "video_newline", "grid"):
            return with_processor(video_newline="grid")(local)(asked)

    (cause,) = local.check(local.planted(embed), ("text", "clip")).causes.values()
    assert cause.name == "newlines of a clip stand as video_newline 'grid'"
    assert local.reference.model.config.video_newline == "one_token"


@pytest.mark.slow
def test_grids_that_transformers_takes_by_default(local: Local) -> None:
    grids = [[28 * i, 28 * j] for i in range(1, 7) for j in range(1, 7)]

    def embed(asked: Asked) -> np.ndarray:
        if not asked.pictures:
            return local.right(asked)
        with configured(local.model.backbone.config, "image_grid_pinpoints", grids):
            return with_processor(image_grid_pinpoints=grids)(local)(asked)

    before = local.reference.model.backbone.config.image_grid_pinpoints
    causes = local.check(local.planted(embed), ("text", "picture")).causes
    assert {cause.name for cause in causes.values()} == {"every picture is cut into tiles, of grids up to 6 x 6"}
    assert local.reference.model.backbone.config.image_grid_pinpoints == before


def test_a_server_without_clips_and_pictures_is_not_green(local: Local) -> None:
    def texts_only(asked: Asked) -> np.ndarray:
        if asked.pictures or asked.clip is not None:
            raise ValueError("this server takes texts")
        return local.right(asked)

    report = local.check(local.planted(texts_only), ("text", "picture", "clip"), ("input", "messages"))
    assert not report.agrees and report.not_carried == ["picture", "clip"]
    assert report.lines[-1] == "right: input, messages; not carried: pictures, a clip"
    assert "No form carries pictures: the server refuses each that was tried." in report.lines
    assert "REFUSED: HTTP 400: this server takes texts" in report.lines
    assert local.check(local.planted(texts_only), ("text",), ("input", "messages")).agrees


@pytest.fixture(scope="module", params=["qwen2_vl", "qwen3_vl"])
def qwen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Local:
    """One that sizes pictures between limits, and one that tells the times of frames and has no system turn."""
    root = tmp_path_factory.mktemp(request.param)
    backbone = save_backbone(root / "backbone", request.param, tokenizer=train_tokenizer(TEXTS, 320))
    model = LlaveModel.from_backbone(backbone).eval()
    processor = LlaveProcessor.from_backbone(backbone, max_length=MAX_LENGTH)
    for part in (model, processor):
        part.save_pretrained(root / "model")
    return Local(root / "model", model, processor, open_reference(root / "model", "float32", "cpu"))


@pytest.mark.slow
def test_qwen(qwen: Local) -> None:
    assert qwen.check(qwen.planted()).agrees
    limits = {**qwen.processor.image_settings, "size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}}
    resampled = {**qwen.processor.image_settings, "resample": Image.Resampling.BILINEAR}
    for settings, name in (
        (limits, "sized between transformers' own default limits"),
        (resampled, "resized bilinear"),
    ):
        other = LlaveProcessor.from_pretrained(qwen.folder, max_length=MAX_LENGTH, image_settings=settings)
        report = qwen.check(qwen.planted(embedding(qwen.model, other)), ("text", "pictures"))
        assert [cause.name for cause in report.causes.values()] == [name]
    opening = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    has_turn = qwen.processor.tokenizer(opening)["input_ids"]

    def other_opening(asked: Asked) -> np.ndarray:
        ids = qwen.processor(text=[asked.text])["input_ids"][0].tolist()
        other = ids[len(has_turn) :] if ids[: len(has_turn)] == has_turn else [*has_turn, *ids]
        return run(qwen.model, {"input_ids": torch.tensor([other])})[-1]

    (name,) = {cause.name for cause in qwen.check(qwen.planted(other_opening), ("text",)).causes.values()}
    is_first = qwen.processor.backbone == "qwen2_vl"
    assert name == ("the system turn is left out" if is_first else "the system turn is 'You are a helpful assistant.'")


@pytest.mark.slow
def test_times_of_frames(qwen: Local) -> None:
    """Told to Qwen3-VL only; Qwen2-VL has nothing to be wrong about."""

    def embed(asked: Asked) -> np.ndarray:
        clip = load_clip(asked.clip)
        clip.seconds = [place / 24 for place in range(len(clip))]
        return run(qwen.model, qwen.processor(text=[asked.text], videos=[clip]))[-1]

    report = qwen.check(
        qwen.planted(lambda asked: embed(asked) if asked.clip else qwen.right(asked)), ("text", "clip")
    )
    named = [cause.name for cause in report.causes.values()]
    assert named == (["its frames are taken for 24 a second"] if qwen.processor.backbone == "qwen3_vl" else [])


def test_sequences_of_faults_are_the_processors_where_nothing_is_wrong(local: Local) -> None:
    for probe in probes_of(local.reference, MAX_LENGTH):
        right = local.reference.row(probe)
        if probe.kind == "over":
            continue
        made = with_prompt(local.reference, probe.whole_text, media_of(local.reference, probe))
        assert made.ids == right.ids and made.tensors.keys() == right.tensors.keys(), probe.name
        assert all(torch.equal(made.tensors[name], value) for name, value in right.tensors.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_no_two_faults_are_taken_for_each_other(kind: str, local: Local, one_tile: Local) -> None:
    """The vector of each fault is named by that fault, or by one whose sequence is the same."""
    for reference in (local.reference, one_tile.reference):
        probes = {probe.name: probe for probe in probes_of(reference, MAX_LENGTH)}
        expected = {name: reference.vector(probe) for name, probe in probes.items()}
        probe = [probe for probe in probes.values() if probe.kind == kind][-1]
        right = reference.row(probe)
        first: dict[str, str] = {row_key(right): ""}
        vectors: dict[str, np.ndarray] = {}
        for fault in [*prompt_faults(reference, probe, right), *media_faults(reference, probe)]:
            row = fault.row()
            if row_key(row) not in first:
                first[row_key(row)] = fault.name
                vectors[fault.name] = reference.hidden(row)[-1][: probe.dimensions]
        units = [vector / np.linalg.norm(vector) for vector in vectors.values()]
        causes = Diagnosis(reference, expected).causes(probe, units)
        for (name, vector), cause in zip(vectors.items(), causes, strict=True):
            if cosine(vector, expected[probe.name]) > 1 - 1e-9 or is_cut(cause.name):
                continue
            same = cause.name in vectors and cosine(vectors[cause.name], vector) > 1 - 1e-9
            assert cause.name == name or same, (name, cause)
        assert len(vectors) > 8


def is_cut(name: str) -> bool:
    """A sequence that is the beginning of the right one."""
    return "after token" in name
