"""Opens one picture in every form in which people hold one, as its viewer shows it. Self-contained: the file travels
with a model to the Hub.

The limits: no network, only common raster formats, at most `MAX_PIXELS` pixels, sides of at least `MIN_SIDE` pixels,
no side more than `MAX_ASPECT_RATIO` times the other.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
import re
import struct
import sys
import threading
import urllib.parse
from collections.abc import Collection, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".heic", ".heif"}
)
MAX_PIXELS = 89_478_485  # where Pillow begins to warn of decompression bombs; here it is an error
MIN_SIDE = 2
MAX_ASPECT_RATIO = 200.0
FORMS = (
    "a path, bytes, a binary file object, {'bytes': ..., 'path': ...}, a data URI, a PIL image, an array or a tensor"
)

# What Pillow is known to raise for broken files and closed pictures.
PILLOW_ERRORS = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, ArithmeticError, AssertionError),
    *(AttributeError, RuntimeError, struct.error, Image.DecompressionBombError),
)
_HEIF = "HEIF"  # of phones; Pillow knows it once pillow-heif has registered its opener
_HEIF_STARTS = re.compile(rb"....ftyp(he[ivx][cmsx]|heic|heis|mif1|msf1)", re.DOTALL)
_ORIENTATION = 0x0112  # of EXIF
_METADATA = ("exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp")  # where Pillow keeps an orientation
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TIFF_BITS, _TIFF_PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0
_CHANNELS = (1, 2, 3, 4)  # grey, grey with alpha, RGB, RGBA
_reading = threading.Lock()  # threads that share a file object move one position


class MediaError(ValueError):
    """A picture or video that cannot be used; the message names it and says why."""


@dataclass(frozen=True)
class Medium:
    """A picture or video that is not decoded yet.

    Attributes:
        name: For messages.
        path: Where it lies, if it is a file or a folder.
        content: Its bytes, if it is none.
    """

    name: str
    path: str | None = None
    content: bytes = b""

    @property
    def stream(self) -> Any:
        """What Pillow and PyAV open."""
        return io.BytesIO(self.content) if self.path is None else self.path

    def start(self) -> bytes:
        """Its first bytes, which say of what format it is."""
        if self.path is None:
            return self.content[:12]
        with open(self.path, "rb") as file:
            return file.read(12)


def medium_of(source: Any) -> Medium | None:
    """A path, bytes, file object, Hub structure or data URI as a [`Medium`], which it may be; None for all else.

    Raises:
        MediaError: It is an address on a network, a file object that cannot be read, a broken data URI, or a structure
            with neither bytes nor a path.
    """
    if isinstance(source, Medium):
        return source
    if isinstance(source, Mapping):
        return _of_structure(source) if source and set(source) <= {"bytes", "path"} else None
    if isinstance(source, (str, os.PathLike)):
        name = os.fsdecode(source)
        if is_data_uri(name):
            shown = name if len(name) <= 48 else f"{name[:45]}..."
            return Medium(shown, content=_decoded_uri(name, shown))
        if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", name):
            raise MediaError(f"{name[:100]} is an address; only local files are opened: download it first.")
        return Medium(name, path=name)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return Medium(f"what {memoryview(source).nbytes} bytes hold", content=bytes(source))
    if callable(getattr(source, "read", None)):
        return _of_file(source)
    return None


def _of_structure(source: Mapping[str, Any]) -> Medium | None:
    """The Hub's structure of bytes and a path, which is a mere name where there are bytes."""
    content, path = source.get("bytes"), source.get("path")
    if content is None and not path:
        raise MediaError("a picture or video has neither bytes nor a path; complete the data.")
    medium = medium_of(path if content is None else content)
    if content is None or medium is None or not path:
        return medium
    return Medium(os.fsdecode(path), content=medium.content)


def _of_file(file: Any) -> Medium:
    """All of a file object, whose position is put back; what cannot be sought is read from where it stands."""
    own = getattr(file, "name", None)
    name = own if isinstance(own, str) else f"an object of type {type(file).__name__}"
    try:
        with _reading:
            place = file.tell() if rewinds(file) else None
            if place is not None:
                file.seek(0)
            content = file.read()
            if place is not None:
                file.seek(place)
    except (OSError, ValueError) as error:
        raise MediaError(f"{name} cannot be read ({error}); pass it open, for reading.") from error
    if not isinstance(content, bytes):
        raise MediaError(f"{name} is open as text; open it in binary mode ('rb').")
    return Medium(name, content=content)


def rewinds(source: Any) -> bool:
    """Whether a source may be read more than once: all but file objects that cannot be sought."""
    return not hasattr(source, "read") or bool(getattr(source, "seekable", lambda: False)())


def is_data_uri(text: str) -> bool:
    """Whether a string holds a medium itself, as `data:image/png;base64,...`."""
    return text[:5].lower() == "data:"


def _decoded_uri(uri: str, name: str) -> bytes:
    head, comma, data = uri.partition(",")
    if not comma:
        raise MediaError(f"{name} is no data URI; write data:image/png;base64, and the data.")
    content = urllib.parse.unquote_to_bytes(data)
    if not head.lower().rstrip().endswith(";base64"):
        return content
    plain = b"".join(content.split()).translate(bytes.maketrans(b"-_", b"+/")).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise MediaError(f"{name} is no base64 ({error}); the data URI is truncated or broken.") from error


def as_sequence(value: Any) -> list[Any] | None:
    """Several inputs as a list: of a list, tuple, deque, column, series or array of objects; None for one input."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, np.ndarray):
        return list(value) if value.dtype.kind in "OUS" and value.ndim else None
    single = (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Set, Image.Image)
    if isinstance(value, single) or _is_tensor(value) or not hasattr(value, "__getitem__"):
        return None
    return list(value) if isinstance(value, Collection) else None


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # where nobody has imported it, nothing is a tensor
    return torch is not None and isinstance(value, torch.Tensor)


def load_image(source: Any) -> Image.Image:
    """One picture as a PIL image, decoded, upright and with 8 bits a channel.

    Upright is as its EXIF orientation says; the tag is gone from what is returned, so nothing is turned twice. Colour
    profiles (ICC) are not applied, as in transformers and the research code. Of several frames it is the first, of an
    opened picture the one at which it stands.

    Args:
        source: A path, bytes, a binary file object (its position is put back), the Hub's `{"bytes", "path"}`, a data
            URI, a PIL image, or an array or tensor `(H, W)`, `(H, W, C)` or `(C, H, W)` of bytes, of 16-bit numbers,
            or of floats from 0 to 1.

    Raises:
        MediaError: The file is missing, broken, too large, too thin, of another format, or an address on a network;
            or it is not clear how an array, or a picture of 32-bit numbers, is meant.
    """
    if isinstance(source, Image.Image):
        return _finished(source, getattr(source, "filename", "") or "a PIL image")
    medium = medium_of(source)
    if medium is None:
        return _from_array(source)
    with open_picture(medium) as image:
        return _finished(image, medium.name)


def open_picture(medium: Medium) -> Image.Image:
    """A picture of the known formats whose header has been read; raises [`MediaError`] where that cannot be."""
    try:
        return Image.open(medium.stream, formats=[*IMAGE_FORMATS, *({_HEIF} & Image.OPEN.keys())])
    except FileNotFoundError as error:
        raise missing(medium) from error
    except Image.DecompressionBombError as error:
        raise MediaError(f"{medium.name} is larger than {MAX_PIXELS} pixels; scale it down.") from error
    except PILLOW_ERRORS as error:
        if isinstance(error, UnidentifiedImageError) and _HEIF_STARTS.match(medium.start()):
            raise MediaError(
                f"{medium.name} is a HEIC picture; save it as JPEG or PNG, or let your program call "
                "pillow_heif.register_heif_opener() first (pip install pillow-heif)."
            ) from error
        reason = "cannot identify image file" if isinstance(error, UnidentifiedImageError) else error
        raise MediaError(
            f"{medium.name} is no readable picture ({reason}); give one of {', '.join(IMAGE_FORMATS)}, complete."
        ) from error


def picture_size(source: Any) -> tuple[int, int] | None:
    """Width and height as stored, from the header alone; None where that cannot be told: opening it will say why."""
    if isinstance(source, Image.Image):
        return source.size
    shape = tuple(getattr(source, "shape", ()))
    if len(shape) in (2, 3):
        channels_first = len(shape) == 3 and shape[0] in _CHANNELS
        return (shape[2], shape[1]) if channels_first else (shape[1], shape[0])
    try:
        medium = medium_of(source) if rewinds(source) else None
        if medium is None:
            return None
        with open_picture(medium) as image:
            return image.size
    except ValueError:  # MediaError, or a closed file object
        return None


def check_size(size: tuple[int, int], name: str) -> None:
    """Raises [`MediaError`] for a picture of (width, height) that is too thin or too large."""
    width, height = size
    if min(size) < MIN_SIDE or max(size) > MAX_ASPECT_RATIO * min(size):
        raise MediaError(
            f"{name} is {width} x {height} pixels; a picture needs sides of at least {MIN_SIDE} pixels and at most "
            f"{MAX_ASPECT_RATIO:g} times each other: replace it."
        )
    if width * height > MAX_PIXELS:
        raise MediaError(f"{name} has {width * height} pixels, over the limit of {MAX_PIXELS}; scale it down.")


def missing(medium: Medium) -> MediaError:
    """What is said of a file that is not there."""
    return MediaError(f"{medium.name} does not exist; check the path or the folder it is relative to.")


def undecodable(name: str, error: BaseException) -> MediaError:
    """What is said of a picture that Pillow cannot decode."""
    reason = str(error) or ("it is closed" if isinstance(error, AssertionError) else type(error).__name__)
    advice = "pass a picture that is open, or its path" if "closed" in reason else "the file is truncated or broken"
    return MediaError(f"{name} cannot be decoded ({reason}); {advice}.")


def _finished(image: Image.Image, name: str) -> Image.Image:
    check_size(image.size, name)
    try:
        image.load()
    except PILLOW_ERRORS as error:
        raise undecodable(name, error) from error
    turn, shown = _turn(image), _eight_bits(image, name)
    if turn is None:
        return shown
    turned = shown.transpose(turn)
    for field in _METADATA:
        turned.info.pop(field, None)
    return turned


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        tag = image.getexif().get(_ORIENTATION)
    except PILLOW_ERRORS:  # viewers show a picture with broken metadata as it lies
        return None
    return _TURNS.get(tag) if isinstance(tag, int) else None


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture as RGB, without its transparency (as the research code: a see-through pixel shows its colour).

    Modes of more than 8 bits a channel are brought to 8; Pillow alone would make nearly all of them white.

    Raises:
        MediaError: Numbers of 32 bits do not say how bright they are, or this Pillow cannot convert the mode.
    """
    name = getattr(image, "filename", "") or "a PIL image"
    image = _eight_bits(image, name)
    try:
        if image.mode == "P" and isinstance(image.info.get("transparency"), bytes):
            image = image.convert("RGBA")  # Pillow warns of the direct way, which gives the same colours
        return image.convert("RGB")
    except (ValueError, ImportError) as error:  # LAB needs LittleCMS, which Pillow may have been built without
        raise MediaError(f"{name} has the mode {image.mode} ({error}); convert it to RGB.") from error


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """The same picture in a mode of 8 bits a channel, its colours not multiplied by its transparency."""
    mode = image.mode
    if mode in ("La", "RGBa"):
        return image.convert(mode.upper())
    if not (mode.startswith("I") or mode == "F"):
        return image
    levels = np.asarray(image)
    grey = _of_16_bits(levels, image) if mode.startswith("I;16") else _of_32_bits(levels, image, name)
    shown = Image.fromarray(grey)
    shown.info = {key: value for key, value in image.info.items() if key != "transparency"}  # that was a 16-bit level
    return shown


def _of_16_bits(levels: np.ndarray, image: Image.Image) -> np.ndarray:
    tags: Any = getattr(image, "tag_v2", {})
    bits = tags.get(_TIFF_BITS) or (16,)
    grey = (levels >> (bits[0] - 8 if 8 <= bits[0] <= 16 else 8)).astype(np.uint8)
    return 255 - grey if tags.get(_TIFF_PHOTOMETRIC) == _WHITE_IS_ZERO else grey  # which Pillow leaves as stored


def _of_32_bits(levels: np.ndarray, image: Image.Image, name: str) -> np.ndarray:
    low, high = levels.min(), levels.max()  # NaN where there is one, which fails every comparison below
    if image.mode == "I":
        if getattr(image, "format", None) in ("PPM", "PNG") and 0 <= low <= high <= 65535:
            return (levels >> 8).astype(np.uint8)
        factor = 1.0 if 0 <= low <= high <= 255 else 1 / 256
        allowed, meant = 0 <= low <= high <= 65535, "to 255 or 65535"
    else:
        factor = 255.0 if high <= 1 else 1.0
        allowed, meant = bool(0 <= low <= high <= 255), "to 1 or 255"
    if not allowed:
        raise MediaError(
            f"{name} has the mode {image.mode} and levels from {low:g} to {high:g}, which do not say what is white; "
            f"convert it to 8 or 16 bits, or scale its levels from 0 {meant}."
        )
    scaled = levels * factor
    return (scaled if image.mode == "I" else np.rint(scaled)).astype(np.uint8)


def _from_array(source: Any) -> Image.Image:
    name = f"an array of type {type(source).__name__}"
    if _is_tensor(source):
        tensor = source.detach().cpu()
        pixels = (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    elif hasattr(source, "__array__") or hasattr(source, "__array_interface__"):
        pixels = np.asarray(source)
    else:
        raise MediaError(f"a picture is given as {type(source).__name__}; give {FORMS}.")
    form = f"{name} has dtype {pixels.dtype} and shape {pixels.shape}"
    if pixels.ndim == 3 and pixels.shape[0] == pixels.shape[2] in (3, 4):
        raise MediaError(f"{form}: (H, W, C) or (C, H, W)? Pass Image.fromarray(...) of (H, W, C) to say which.")
    if pixels.ndim == 3 and pixels.shape[0] in _CHANNELS and pixels.shape[2] not in _CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    known = pixels.dtype in (np.uint8, np.uint16, np.bool_) or pixels.dtype.kind == "f"
    if not known or pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in _CHANNELS):
        raise MediaError(
            f"{form}; a picture is an array of uint8, uint16, or floats from 0 to 1, of the shape (H, W), (H, W, C) "
            "or (C, H, W) with 1 to 4 channels."
        )
    check_size((pixels.shape[1], pixels.shape[0]), name)
    return Image.fromarray(np.ascontiguousarray(_bytes_of(pixels, form)))


def _bytes_of(pixels: np.ndarray, form: str) -> np.ndarray:
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if pixels.dtype.kind == "f":
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise MediaError(
                f"{form}, and values from {pixels.min():g} to {pixels.max():g}; floats go from 0 to 1: scale them, "
                "or give uint8."
            )
        return np.rint(pixels.astype(np.float32) * 255).astype(np.uint8)
    return pixels * np.uint8(255) if pixels.dtype == np.bool_ else pixels
