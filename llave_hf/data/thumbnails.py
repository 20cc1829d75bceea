"""Small copies of pictures and of videos' first frames, as `data:` addresses for a page that needs no other file."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

from PIL import Image

from llave_hf.data.media import open_image, open_video
from llave_hf.data.samples import Sample
from llave_hf.data.stored.pictures import StoredPicture
from llave_hf.model.media_llave import MediaError, to_rgb

SIDE = 160  # pixels of a copy, at most
QUALITY = 78
PICTURES_AN_INPUT = 4


@dataclass(frozen=True)
class Thumbnail:
    """A picture as the page shows it.

    Attributes:
        label: what it is, for readers who do not see it.
        address: `data:image/jpeg;base64,…`, or None where it is left out.
        why: the reason where it is left out.
    """

    label: str
    address: str | None
    width: int = 0
    height: int = 0
    why: str = ""


class Thumbnails:
    """Makes copies until they take more room than allowed; those left out are counted.

    Args:
        limit: bytes of all copies together; 0: none are made.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self.left_out = 0
        self._made: dict[tuple[str | StoredPicture, str | None], Thumbnail] = {}
        self._allowed = limit

    def allow(self, share: float) -> None:
        """From now on copies may fill this share of the limit, so that the first subsets do not take all."""
        self._allowed = int(self.limit * share)

    def of(self, sample: Sample) -> list[Thumbnail]:
        """Copies of an input's first pictures, or of its video's first frame."""
        made = [self._copy(path, sample.media_root, video=False) for path in sample.images[:PICTURES_AN_INPUT]]
        if sample.video is not None:
            made.append(self._copy(sample.video, sample.media_root, video=True))
        return made

    def _copy(self, path: str | StoredPicture, media_root: str | None, *, video: bool) -> Thumbnail:
        label = f"first frame of the video {path}" if video else f"picture {path}"
        if not self.limit:
            return Thumbnail(label, None, why="pictures are off")
        key = path, media_root
        if key not in self._made:
            self._made[key] = _thumbnail(path, media_root, label, video=video)
        made = self._made[key]
        size = len(made.address or "")
        if self.used + size > self._allowed:
            self.left_out += 1
            return Thumbnail(label, None, why="left out, the page would be too large")
        self.used += size
        return made


def _thumbnail(path: str | StoredPicture, media_root: str | None, label: str, *, video: bool) -> Thumbnail:
    try:
        picture = open_video(str(path), media_root, num_frames=1)[0] if video else open_image(path, media_root)
        small = to_rgb(picture)
    except (MediaError, OSError) as error:
        return Thumbnail(label, None, why=f"cannot be opened: {error}")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=QUALITY, optimize=True)
    text = base64.b64encode(stream.getvalue()).decode("ascii")
    return Thumbnail(label, f"data:image/jpeg;base64,{text}", *small.size)
