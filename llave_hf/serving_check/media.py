"""The pictures and the clip that a server is sent, as bytes that every reader decodes alike."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import av
import numpy as np
from PIL import Image

_RATE = 2  # frames a second: so few that every sampling takes them all
_ORIENTATION = 0x0112  # of EXIF
_TURN_RIGHT = 6  # its value for a picture that a viewer turns by 90 degrees


@dataclass(frozen=True)
class Encoded:
    """A picture or a clip in a file's bytes."""

    mime: str
    content: bytes

    @property
    def uri(self) -> str:
        """A data URI, as requests hold it."""
        return f"data:{self.mime};base64,{base64.b64encode(self.content).decode()}"


def as_png(picture: Image.Image) -> Encoded:
    """Without loss, transparency included."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return Encoded("image/png", file.getvalue())


def as_clip(frames: Sequence[Image.Image]) -> Encoded:
    """An MP4 whose frames are PNG, so that no two decoders differ in their colours."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("png", rate=_RATE)
        stream.width, stream.height, stream.pix_fmt = *frames[0].size, "rgb24"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return Encoded("video/mp4", file.getvalue())


def large_picture() -> Image.Image:
    """640 x 480 pixels with rings that grow finer outwards, down to what only careful resizing keeps."""
    rows, columns = np.indices((480, 640))
    rings = ((rows - 200) ** 2 + (columns - 300) ** 2) // 96 % 256
    fields = (rows // 40 + columns // 40) % 2 * 255
    return Image.fromarray(np.stack((rings, fields, columns * 255 // 639), axis=-1).astype(np.uint8))


def transparent_picture() -> Encoded:
    """A PNG whose right part fades away over a colour that only readers without transparency see."""
    rows, columns = np.indices((60, 80))
    alpha = np.clip(255 - (columns - 20) * 255 // 50, 0, 255)
    colours = (columns * 3, 250 - rows * 3, (rows // 10 + columns // 10) % 2 * 200)
    return as_png(Image.fromarray(np.stack((*colours, alpha), axis=-1).astype(np.uint8)))


def turned_picture() -> Encoded:
    """A JPEG that lies on its side and says so, as phones write them."""
    rows, columns = np.indices((64, 96))
    pixels = np.stack((columns * 255 // 95, rows * 255 // 63, (columns > 64) * 255), axis=-1).astype(np.uint8)
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURN_RIGHT
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, subsampling=0, exif=exif.tobytes())
    return Encoded("image/jpeg", file.getvalue())
