"""Draws scenes with Pillow, to the same pixels everywhere: polygons at four times the size, averaged down."""

from __future__ import annotations

import math
from functools import cache, lru_cache

from PIL import Image, ImageDraw

from .grammar import Scene

PICTURE_SIZE = 64
LARGE_PICTURE_SIZE = 128  # pictures with six things, from which crops are cut
CROP_SIZE = 44
SUPERSAMPLING = 4

PALETTE = {
    "red": (222, 30, 40),
    "orange": (250, 140, 0),
    "yellow": (250, 222, 30),
    "green": (24, 160, 60),
    "blue": (30, 90, 230),
    "purple": (135, 40, 190),
    "pink": (255, 140, 205),
    "brown": (125, 70, 25),
}
_PLAIN = {"white": 255, "gray": 158, "black": 12}
_PATTERN = (255, 206)  # light and dark of the patterned backgrounds

Points = list[tuple[float, float]]


def _around(count: int, radii: tuple[float, ...] = (1.0,), start: float = -90.0) -> Points:
    """`count` points around the centre, the first at `start` degrees, with the radii in turn."""
    points = []  # rounded: the last bits of sine and cosine are not the same in every C library
    for i in range(count):
        angle, radius = math.radians(start + 360 * i / count), radii[i % len(radii)]
        points.append((round(radius * math.cos(angle), 6), round(radius * math.sin(angle), 6)))
    return points


def _heart() -> Points:
    points = []
    for i in range(64):
        t = math.tau * i / 64
        y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
        points.append((round(math.sin(t) ** 3, 6), round(-(y + 2.5) / 15, 6)))
    return points


def _cross(arm: float = 0.34) -> Points:
    corners = [(-arm, -1.0), (arm, -1.0), (arm, -arm), (1.0, -arm), (1.0, arm), (arm, arm)]
    return corners + [(-x, -y) for x, y in corners]


# Outlines within [-1, 1] x [-1, 1], sized so that all shapes look about equally large.
OUTLINES: dict[str, Points] = {
    "circle": _around(64, (0.94,)),
    "square": _around(4, (1.18,), start=-45.0),
    "triangle": [(0.0, -0.92), (1.0, 0.82), (-1.0, 0.82)],
    "star": _around(10, (1.0, 0.42)),
    "diamond": [(0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)],
    "cross": _cross(),
    "heart": _heart(),
    "ring": _around(64, (0.98,)),
}
_RING_HOLE = _around(64, (0.56,))
_CORNER = 1.35  # the outermost corner, the triangle's, is 1.3 radii from the centre


@cache
def _mask(shape: str, radius: int, angle: int) -> Image.Image:
    """White shape on black, turned by `angle` degrees; its middle pixel is the centre."""
    reach = radius if angle == 0 else math.ceil(radius * _CORNER)
    mask = Image.new("L", (2 * reach + 1, 2 * reach + 1))
    pen = ImageDraw.Draw(mask)
    for outline, fill in ((OUTLINES[shape], 255), *([(_RING_HOLE, 0)] if shape == "ring" else [])):
        points = _turned(outline, angle)
        pen.polygon([(round(reach + x * radius), round(reach + y * radius)) for x, y in points], fill=fill)
    return mask


def _turned(points: Points, angle: int) -> Points:
    if not angle:
        return points
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return [(round(x * cosine - y * sine, 6), round(x * sine + y * cosine, 6)) for x, y in points]


@cache
def _background(name: str, side: int) -> Image.Image:
    if name in _PLAIN:
        return Image.new("RGB", (side, side), (_PLAIN[name],) * 3)
    light, dark = ((value,) * 3 for value in _PATTERN)
    canvas = Image.new("RGB", (side, side), light)
    pen, step = ImageDraw.Draw(canvas), side // 8
    for row in range(8):
        if name == "striped":
            pen.rectangle((0, row * step, side, row * step + step // 2 - 1), fill=dark)
        for column in range(8):
            x, y = column * step, row * step
            if name == "checked" and (row + column) % 2:
                pen.rectangle((x, y, x + step - 1, y + step - 1), fill=dark)
            if name == "dotted":
                points = OUTLINES["circle"]
                pen.polygon(
                    [(round(x + step * (0.5 + dx / 4)), round(y + step * (0.5 + dy / 4))) for dx, dy in points],
                    fill=dark,
                )
    return canvas


@lru_cache(maxsize=64)
def _draw(scene: Scene, size: int) -> Image.Image:
    side = size * SUPERSAMPLING
    canvas = _background(scene.background, side).copy()
    for placed in scene.objects:
        radius = placed.radius * side // 256
        mask = _mask(placed.thing.shape, radius, placed.angle)
        corner = (placed.x * side // 256 - mask.width // 2, placed.y * side // 256 - mask.height // 2)
        canvas.paste(PALETTE[placed.thing.color], corner, mask)
    return canvas.reduce(SUPERSAMPLING)


def draw(scene: Scene, size: int = PICTURE_SIZE) -> Image.Image:
    """An RGB picture of the scene, `size` x `size` pixels."""
    return _draw(scene, size).copy()


def draw_crop(scene: Scene, index: int) -> Image.Image:
    """The part of the large picture around object `index`, `CROP_SIZE` x `CROP_SIZE` pixels, moved into the frame at
    its borders.
    """
    placed, limit = scene.objects[index], LARGE_PICTURE_SIZE - CROP_SIZE
    left, top = (min(max(v * LARGE_PICTURE_SIZE // 256 - CROP_SIZE // 2, 0), limit) for v in (placed.x, placed.y))
    return _draw(scene, LARGE_PICTURE_SIZE).crop((left, top, left + CROP_SIZE, top + CROP_SIZE))
