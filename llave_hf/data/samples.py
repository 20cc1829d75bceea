"""What a training row becomes: a query, a positive and negatives, each of which turns into one vector."""

from __future__ import annotations

import hashlib
import os
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass

from llave_hf.model.media_llave import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from llave_hf.model.media_pictures_llave import is_data_uri

from .stored.pictures import StoredPicture

MARK_PATTERN = r"<\|(?:image|video)_\d+\|>"  # also valid for RE2, which Arrow uses
_SHOWN = 80  # characters of a text in messages
_MARKS = re.compile(rf"{MARK_PATTERN}(?:\s*{MARK_PATTERN})*")


@dataclass(frozen=True, slots=True)
class Sample:
    """One side of a pair: anything that becomes one vector.

    Attributes:
        text: The user's text, without marks of pictures; the white space around a mark is kept.
        images: Paths as written in the row, in order, or where pictures stand in a file of rows.
        video: A video file or a folder of frames, or None.
        media_root: The folder that the paths are relative to and may not leave. None: the caller vouches for them.
    """

    text: str = ""
    images: tuple[str | StoredPicture, ...] = ()
    video: str | None = None
    media_root: str | None = None

    def __str__(self) -> str:
        """Short, for messages: its media by name, and the beginning of its text."""
        media = [str(image) for image in self.images] + ([self.video] if self.video else [])
        text = textwrap.shorten(self.text, _SHOWN, placeholder=" …")
        return " with ".join([", ".join(media)] * bool(media) + [repr(text)] * bool(text or not media))

    def key(self) -> int:
        """A hash of the content as a signed 64-bit number, the same in every process and on every machine.

        Pictures that stand in a file of rows count by their bytes, which are read for it.

        Raises:
            MediaError: They cannot be read.
        """
        digest = hashlib.blake2b(digest_size=8)
        media = [image.content() if isinstance(image, StoredPicture) else image for image in self.images]
        # A text, or a picture of a table, is the same wherever it stands.
        root = self.media_root if self.video or any(isinstance(image, str) for image in self.images) else None
        for field in (self.text, self.video, root, *media):
            # The length in front keeps ("ab", "c") and ("a", "bc") apart; None is not "".
            encoded = b"" if field is None else field.encode("utf-8", "surrogatepass")
            digest.update(b"-" if field is None else b"%d:" % len(encoded))
            digest.update(encoded)
        return int.from_bytes(digest.digest(), "little", signed=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """A query, the document that answers it, documents that do not, and where the row stands.

    Attributes:
        source: Name of the task, i.e. of the subset.
        row: Number of the row in its subset, from 0, as the file has it (before any cap).
        label: Equal where the rows' labels are; -1: the row has none.
        hardness: What the data say the positive is worth as a negative of other queries, or None.
        negative_hardness: The same of each negative, or None.
        score: How well the positive answers the query, as a judge says (high is good), or None.
        negative_scores: The same of each negative, or None.
        group: Number of the group of hard rows that it is in, of its task's; -1: none.
    """

    query: Sample
    positive: Sample
    negatives: tuple[Sample, ...] = ()
    source: str = ""
    row: int = -1
    label: int = -1
    hardness: float | None = None
    negative_hardness: tuple[float, ...] | None = None
    score: float | None = None
    negative_scores: tuple[float, ...] | None = None
    group: int = -1


def sample_from(
    text: str | None,
    images: str | Iterable[str | StoredPicture | None] | None = None,
    video: str | None = None,
    media_root: str | os.PathLike[str] | None = None,
) -> Sample:
    """Makes a sample from the columns of a row in MMEB's schema; for training rows and evaluation rows alike.

    An entry of `images` that is a folder, or has the suffix of a video, is the sample's video, as in MMEB's video
    tasks. A `.gif` among the images is a picture (its first frame); in `video` it is a video.

    >>> sample_from("<|image_1|>\\nWhat is in the image?\\n", "images/dog.jpg")
    Sample(text='\\nWhat is in the image?\\n', images=('images/dog.jpg',), video=None, media_root=None)

    Args:
        text: With or without marks such as `<|image_1|>`.
        images: A path, several, or nothing; an empty string is nothing.
        video: A path, or nothing.
        media_root: See `Sample`.

    Raises:
        ValueError: There is more than one video.
    """
    root = None if media_root is None else os.path.normpath(media_root)
    paths: list[str | StoredPicture | None] = [images] if isinstance(images, str) else list(images or ())
    pictures: list[str | StoredPicture] = []
    videos = [video] if video else []
    for path in paths:
        if isinstance(path, str) and path and _is_video(path, root):
            videos.append(path)
        elif path:
            pictures.append(path)
    if len(videos) > 1:
        raise ValueError(f"one sample has {len(videos)} videos ({', '.join(videos)}); give one at most.")
    return Sample(strip_marks(text or ""), tuple(pictures), videos[0] if videos else None, root)


def strip_marks(text: str) -> str:
    """Takes `<|image_1|>` and its like out; the rest stays as it is, but for white space from mark to mark.

    >>> strip_marks("<|image_1|>\\n<|image_2|>\\nWhich is larger?")
    '\\nWhich is larger?'
    """
    return _MARKS.sub("", text)


def _is_video(path: str, root: str | None) -> bool:
    if is_data_uri(path):
        return path[5:11].lower() == "video/"
    suffix = os.path.splitext(path)[1].lower()
    if suffix in IMAGE_SUFFIXES:
        return False
    return suffix in VIDEO_SUFFIXES or os.path.isdir(os.path.join(root or "", path))
