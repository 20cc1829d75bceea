"""Pictures and videos of some samples, opened: their sizes and modes, and those that do not open."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from llave_hf.data.media import load_sample
from llave_hf.data.samples import Pair, Sample
from llave_hf.model.media_llave import MediaError

from .remarks import NOTE, PROBLEM, Remark
from .spread import Spread

NAMED = 3  # culprits that a line lists
SIZES_LISTED = 4
LONG = 6  # sides in this proportion, or beyond
TINY = 16  # pixels of the shorter side


@dataclass(frozen=True)
class OpenedSample:
    """What one sample's media are.

    Attributes:
        sizes: Width and height of each picture, or of a video's first frame, in pixels.
        modes: Pillow's modes.
        fault: Why it does not open, else None.
    """

    sizes: tuple[tuple[int, int], ...] = ()
    modes: tuple[str, ...] = ()
    fault: str | None = None


@dataclass
class PictureLook:
    """The media of some samples of a task.

    Attributes:
        samples: Distinct ones with pictures or a video that were opened.
        sizes, modes: How often each stands among their pictures.
        broken: Row and reason of those that do not open.
    """

    samples: int = 0
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    @property
    def pictures(self) -> int:
        """How many were opened."""
        return self.sizes.total()

    def side(self, axis: int) -> Spread | None:
        """Widths (0) or heights (1) in pixels."""
        return Spread.of([size[axis] for size in self.sizes.elements()])

    def common_sizes(self) -> list[tuple[tuple[int, int], int]]:
        """The most frequent sizes, and how often they stand."""
        return self.sizes.most_common(SIZES_LISTED)


def open_samples(pairs: Iterable[Pair]) -> PictureLook:
    """Opens each distinct sample of some pairs once, of videos one frame, in threads."""
    owners: dict[Sample, Pair] = {}
    for pair in pairs:
        for sample in (pair.query, pair.positive, *pair.negatives):
            if sample.images or sample.video is not None:
                owners.setdefault(sample, pair)
    look = PictureLook(samples=len(owners))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # Pillow decodes without holding Python's lock
        for pair, opened in zip(owners.values(), pool.map(_open, owners), strict=True):
            look.sizes.update(opened.sizes)
            look.modes.update(opened.modes)
            if opened.fault is not None:
                look.broken.append(f"row {pair.row}: {opened.fault}")
    return look


def broken_files(broken: list[str]) -> str:
    """One line on files that do not open."""
    rest = f" (and {len(broken) - NAMED} more)" if len(broken) > NAMED else ""
    return f"{len(broken)} files do not open: {'; '.join(broken[:NAMED])}{rest}"


def picture_remarks(name: str, look: PictureLook) -> Iterator[Remark]:
    """What is worth saying of them."""
    if look.broken:
        yield Remark(PROBLEM, name, broken_files(look.broken))
    for what, odd in (
        (f"a side below {TINY} pixels", lambda width, height: min(width, height) < TINY),
        (
            f"one side {LONG} times the other or more",
            lambda width, height: max(width, height) >= LONG * min(width, height),
        ),
    ):
        found = [(size, count) for size, count in look.sizes.items() if odd(*size)]
        if found:
            (width, height), _ = found[0]
            count = sum(count for _, count in found)
            text = f"{count:,} of {look.pictures:,} pictures opened have {what}, such as {width} x {height}"
            yield Remark(NOTE, name, text)


def _open(sample: Sample) -> OpenedSample:
    try:
        loaded = load_sample(sample, num_frames=1)
    except MediaError as error:
        return OpenedSample(fault=str(error))
    pictures = [*loaded.get("images", ()), *loaded.get("video", ())[:1]]
    return OpenedSample(tuple(picture.size for picture in pictures), tuple(picture.mode for picture in pictures))
