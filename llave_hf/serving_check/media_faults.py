"""Faults in how pictures and clips are opened, sized, cut into tiles, normalised and put in order."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from llave_hf.model.backbone_llava_onevision_llave import IMAGE_TILINGS
from llave_hf.model.configuration_llave import VIDEO_NEWLINES
from llave_hf.model.geometry_llave import swapped
from llave_hf.model.media_llave import Clip

from .faults import Fault, clip_of, pictures_of, prepared, with_prompt
from .media import Encoded
from .probes import Probe
from .reference import Reference, Row

Resize = Callable[[Image.Image, int, int], np.ndarray]
_TILINGS = {
    "anyres": "every picture is cut into tiles",
    "anyres_single": "a picture that stands alone is cut into tiles, several are one tile each",
    "none": "every picture is one tile",
}
_TILING = (
    "the server tiles otherwise: serve an export whose tiling is the model's (`llave export` says what it can do)"
)
_RESIZE = (
    "look for resample, antialias and the kind of image processor in the served folder's preprocessor_config.json; "
    "where such vectors are near enough, --tolerance allows for them"
)
_STATISTICS = {
    "ImageNet's": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "CLIP's": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "0.5": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "no": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
_RESAMPLES = {"nearest": 0, "Lanczos": 1, "bilinear": 2, "bicubic": 3}
_ORIENTED = "open pictures with PIL.ImageOps.exif_transpose before they are sent"
_FLAT = "send pictures without transparency: convert them to RGB before"
_ORDER = "the server changes the order of pictures: send one picture an input, or report it"
_FRAMES = "the server samples clips otherwise: set its number of frames, or send the frames as the model samples them"


def media_faults(reference: Reference, probe: Probe) -> Iterator[Fault]:
    """The faults that a probe with pictures or a clip can show, the likelier ones first."""
    if not probe.has_media:
        return
    yield from _tilings(reference, probe)
    yield from _openings(reference, probe)
    yield from _orders(reference, probe)
    yield from _clips(reference, probe)
    yield from _resizes(reference, probe)
    yield from _statistics(reference, probe)
    yield from _sizes(reference, probe)


def _is_tiled(reference: Reference) -> bool:
    return reference.processor.backbone == "llava_onevision"


def _row(
    reference: Reference,
    probe: Probe,
    *,
    pictures: list[Image.Image] | None = None,
    clip: Clip | None = None,
    visual: Any = None,
    config: Mapping[str, Any] | None = None,
    backbone_config: Mapping[str, Any] | None = None,
) -> Row:
    media = prepared(
        visual or reference.visual(),
        pictures_of(probe) if pictures is None else pictures,
        clip_of(reference, probe) if clip is None else clip,
    )
    return with_prompt(reference, probe.whole_text, media, config=config or {}, backbone_config=backbone_config or {})


def _with(reference: Reference, probe: Probe, changes: Mapping[str, Any], **configs: Any) -> Row:
    """With some of the processor's settings changed."""
    return _row(reference, probe, visual=reference.visual(**changes), **configs)


def _tilings(reference: Reference, probe: Probe) -> Iterator[Fault]:
    if not _is_tiled(reference) or not probe.pictures:
        return
    # Where two tilings make the same of a probe, the first is named.
    for tiling in ("anyres_single", "none", "anyres") if len(probe.pictures) > 1 else reversed(IMAGE_TILINGS):
        if tiling != reference.processor.image_tiling:
            changes = {"image_tiling": tiling}
            yield Fault(_TILINGS[tiling], _TILING, partial(_with, reference, probe, changes))

    def squeezed() -> Row:
        visual = reference.visual(image_tiling="none")
        visual.tiles.padded = visual.tiles.squeezed
        return _row(reference, probe, visual=visual)

    def padded_with(colour: int) -> Row:
        visual = reference.visual(image_tiling="none")
        visual.tiles._background = (colour,) * 3
        return _row(reference, probe, visual=visual)

    yield Fault("every picture is one tile, squeezed and not padded", _TILING, squeezed)
    yield Fault("every picture is one tile, padded with black", _TILING, partial(padded_with, 0))
    yield Fault("every picture is one tile, padded with white", _TILING, partial(padded_with, 255))
    side = reference.processor.image_size
    grids = [[side * columns, side * rows] for columns in range(1, 7) for rows in range(1, 7)]
    for tiling in ("anyres", "anyres_single"):
        name = f"{_TILINGS[tiling]}, of grids up to 6 x 6"
        fields = {"image_grid_pinpoints": swapped(grids)}
        more = {"image_tiling": tiling, "image_grid_pinpoints": grids}
        yield Fault(
            name,
            _TILING,
            partial(_with, reference, probe, more, backbone_config=fields),
        )


def _openings(reference: Reference, probe: Probe) -> Iterator[Fault]:
    def through(open_one: Callable[[Encoded], Image.Image]) -> Callable[[], Row]:
        return lambda: _row(reference, probe, pictures=pictures_of(probe, open_one))

    if probe.kind == "orientation":
        yield Fault("the orientation in EXIF is not heeded", _ORIENTED, through(_as_it_lies))
    if probe.kind == "transparency":
        for name, level in (("white", 255), ("black", 0), ("grey", 128)):
            yield Fault(f"transparency is laid on {name}", _FLAT, through(partial(_laid_on, level)))
    swap = "the server takes BGR for RGB: look at what decodes its pictures (OpenCV gives BGR)"
    if probe.pictures:
        yield Fault("red and blue are swapped", swap, lambda: _row(reference, probe, pictures=_swapped(probe)))
    clip = clip_of(reference, probe)
    if clip is not None:
        turned = Clip([_bgr(frame) for frame in clip.frames], clip.seconds)
        yield Fault("red and blue are swapped", swap, lambda: _row(reference, probe, clip=turned))


def _as_it_lies(picture: Encoded) -> Image.Image:
    image = Image.open(io.BytesIO(picture.content))
    image.load()
    return image.convert("RGB")  # which forgets nothing of where the pixels lie


def _laid_on(level: int, picture: Encoded) -> Image.Image:
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(picture.content))).convert("RGBA")
    ground = Image.new("RGBA", image.size, (level, level, level, 255))
    return Image.alpha_composite(ground, image).convert("RGB")


def _swapped(probe: Probe) -> list[Image.Image]:
    return [_bgr(picture) for picture in pictures_of(probe)]


def _bgr(picture: Image.Image) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(np.asarray(picture.convert("RGB"))[..., ::-1]))


def _orders(reference: Reference, probe: Probe) -> Iterator[Fault]:
    pictures = pictures_of(probe)
    if len(pictures) < 2:
        return
    choices = {
        "the pictures stand in reverse order": pictures[::-1],
        "only the first picture is taken": pictures[:1],
        "only the last picture is taken": pictures[-1:],
        "the first picture stands for all": pictures[:1] * len(pictures),
        "the last picture stands for all": pictures[-1:] * len(pictures),
    }
    for name, chosen in choices.items():
        yield Fault(name, _ORDER, partial(_row, reference, probe, pictures=chosen))


def _clips(reference: Reference, probe: Probe) -> Iterator[Fault]:
    clip = clip_of(reference, probe)
    if clip is None:
        return
    frames, seconds = clip.frames, clip.seconds or [0.0] * len(clip)
    for count in range(1, len(frames)):
        spread = np.linspace(0, len(frames) - 1, count, dtype=int).tolist()
        for how, places in (("spread over it", spread), ("from its beginning", list(range(count)))):
            chosen = Clip([frames[place] for place in places], [seconds[place] for place in places])
            name = f"{count} of its {len(frames)} frames are taken, {how}"
            yield Fault(name, _FRAMES, partial(_row, reference, probe, clip=chosen))
    backwards = Clip(frames[::-1], seconds)
    yield Fault("its frames stand in reverse order", _FRAMES, partial(_row, reference, probe, clip=backwards))
    separate = "the server has no clips and takes the frames for pictures"
    empty = prepared(reference.visual(), frames, None)
    yield Fault("its frames are taken for pictures", separate, lambda: with_prompt(reference, probe.whole_text, empty))
    for rate in (1, 2, 3, 4, 8, 24, 30):
        timed = Clip(frames, [place / rate for place in range(len(frames))])
        name = f"its frames are taken for {rate} a second"
        yield Fault(name, _FRAMES, partial(_row, reference, probe, clip=timed))
    if _is_tiled(reference):
        for newline in VIDEO_NEWLINES:
            fields = {"video_newline": newline}
            name = f"newlines of a clip stand as video_newline {newline!r}"
            advice = f"export a model whose config.json has video_newline {newline!r}, or serve it with llave_hf"
            yield Fault(
                name,
                advice,
                partial(_with, reference, probe, fields, config=fields),
            )


def _resizes(reference: Reference, probe: Probe) -> Iterator[Fault]:
    def resized(resize: Resize) -> Row:
        visual = reference.visual()
        visual.tiles._resize = resize
        return _row(reference, probe, visual=visual)

    def small(name: str, **changes: Any) -> Fault:
        return Fault(name, _RESIZE, partial(_with, reference, probe, changes))

    backend = reference.processor.backend
    other = "pil" if backend == "torchvision" else "torchvision"
    yield small(f"resized by {'Pillow' if other == 'pil' else 'torchvision'}", backend=other)
    if not _is_tiled(reference):
        for name, number in _RESAMPLES.items():
            settings = {
                key: {**(getattr(reference.processor, key) or {}), "resample": number}
                for key in ("image_settings", "video_settings")
            }
            yield small(f"resized {name}", **settings)
        return
    yield small("resized in the other order of passes", backend="pil", resize_order="installed")
    for name, number in _RESAMPLES.items():
        pil = partial(_resize_pil, number)
        yield Fault(f"resized {name} by Pillow", _RESIZE, partial(resized, pil))
    for name in ("bilinear", "bicubic"):
        for antialias in (True, False):
            how = partial(_resize_torch, name, antialias)
            words = f"resized {name} by torchvision, {'with' if antialias else 'without'} antialias"
            yield Fault(words, _RESIZE, partial(resized, how))


def _resize_pil(resample: int, image: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(image.resize((width, height), Image.Resampling(resample)))


def _resize_torch(mode: str, antialias: bool, image: Image.Image, width: int, height: int) -> np.ndarray:
    from torchvision.transforms.v2 import InterpolationMode
    from torchvision.transforms.v2 import functional as tv

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    resized = tv.resize(pixels, [height, width], interpolation=InterpolationMode(mode), antialias=antialias)
    return resized.permute(1, 2, 0).numpy()


def _statistics(reference: Reference, probe: Probe) -> Iterator[Fault]:
    processor = reference.processor
    advice = "image_mean and image_std of the served folder's preprocessor_config.json are not the model's"
    for name, (mean, std) in _STATISTICS.items():
        fields = {"image_mean": list(mean), "image_std": list(std)}
        if _is_tiled(reference):
            changes: dict[str, Any] = fields
        else:
            changes = {
                key: {**(getattr(processor, key) or {}), **fields} for key in ("image_settings", "video_settings")
            }
        yield Fault(
            f"normalised with {name} mean and deviation",
            advice,
            partial(_with, reference, probe, changes),
        )


def _sizes(reference: Reference, probe: Probe) -> Iterator[Fault]:
    """Qwen-VL: between how many pixels a picture is brought."""
    if _is_tiled(reference):
        return
    processor = reference.processor
    advice = "size (min_pixels, max_pixels) of the served folder's preprocessor_config.json is not the model's"
    defaults = {key: value for key, value in (processor.image_settings or {}).items() if key != "size"}
    of_clips = {key: value for key, value in (processor.video_settings or {}).items() if key != "size"}
    yield Fault(
        "sized between transformers' own default limits",
        advice,
        partial(_with, reference, probe, {"image_settings": defaults, "video_settings": of_clips}),
    )
