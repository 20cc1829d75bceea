"""The language of the scenes: what can be in a picture, what can be said about it, and whether that is true.

Two levels. A [`Scene`] is concrete: which thing lies where, on which background. A [`Description`] is what a caption
says; it can be put into words (`text`), made into a scene (`place`), and compared with any scene (`judge`). Judging
looks at the geometry only, never at how the scene was made, so it can check every row of the data.

Lengths are in units of 1/256 of the side of the picture, x to the right, y downwards. Judgements are `True`, `False`,
or `None` where people could disagree; a row of the data may hold no doubtful candidate.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from random import Random

SHAPES = ("circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring")
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown")
RADII = {"small": 23, "large": 39}
ALONE, IN_PAIR = 1.45, 1.25  # times these radii where a picture shows one or two things, so that they fill it
SIZES = tuple(RADII)
BACKGROUNDS = ("white", "gray", "black", "striped", "dotted", "checked")
NUMBERS = ("one", "two", "three", "four", "five", "six")
POSITIONS = {
    "top left": (66, 66),
    "top right": (190, 66),
    "bottom left": (66, 190),
    "bottom right": (190, 190),
    "middle": (128, 128),
}
# Unit vector that points from the anchor to the thing that is "left of" (…) the anchor.
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}

# Each shape is never seen in one color during training, and each color never in one shape: 8 of the 64 pairs.
HELD_OUT = frozenset((shape, COLORS[(3 * i + 1) % len(COLORS)]) for i, shape in enumerate(SHAPES))

GRID = (43, 128, 213)  # centres of the columns and rows of a 3 x 3 layout


def plural(shape: str) -> str:
    """`"cross"` → `"crosses"`."""
    return shape + ("es" if shape.endswith("s") else "s")


def with_article(phrase: str) -> str:
    """`"orange star"` → `"an orange star"`."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


@dataclass(frozen=True)
class Thing:
    """A shape of one color and size."""

    shape: str
    color: str
    size: str

    @property
    def held_out(self) -> bool:
        """Whether training never shows this shape in this color."""
        return (self.shape, self.color) in HELD_OUT

    def phrase(self, count: int = 1) -> str:
        """`"small red circle"`, or for several `"small red circles"`."""
        return f"{self.size} {self.color} {self.shape if count == 1 else plural(self.shape)}"


@dataclass(frozen=True)
class Placed:
    """A thing at a place; `radius` is half the side of the square around it, `angle` in degrees, clockwise."""

    thing: Thing
    x: int
    y: int
    radius: int
    angle: int = 0


@dataclass(frozen=True)
class Scene:
    """What one picture shows. The order of the objects is the order in which its caption names them."""

    objects: tuple[Placed, ...]
    background: str

    @property
    def things(self) -> tuple[Thing, ...]:
        """The things without their places."""
        return tuple(placed.thing for placed in self.objects)

    def caption(self) -> str:
        """The full caption, read off the geometry."""
        return caption(self)


def place(thing: Thing, x: int, y: int, scale: float = 1.0) -> Placed:
    """Puts a thing at (x, y), moved into the frame if it would stick out; `scale` times the radius of its size."""
    radius = round(RADII[thing.size] * scale)
    low, high = radius + 2, 254 - radius
    return Placed(thing, min(max(x, low), high), min(max(y, low), high), radius)


def position_of(placed: Placed) -> str | None:
    """The name of the part of the picture where the centre lies, or None between the parts."""
    for name, (x, y) in POSITIONS.items():
        if abs(placed.x - x) <= 28 and abs(placed.y - y) <= 28:
            return name
    return None


def judge_relation(relation: str, placed: Placed, anchor: Placed) -> bool | None:
    """Whether `placed` is (directly) left of, right of, above or below `anchor`; diagonals are not, nearly diagonal is
    doubtful.
    """
    ux, uy = RELATIONS[relation]
    dx, dy = placed.x - anchor.x, placed.y - anchor.y
    along, across = dx * ux + dy * uy, abs(dx * uy) + abs(dy * ux)
    if along >= 48 and 3 * across <= along:
        return True
    if along <= 16 or 10 * across >= 7 * along:
        return False
    return None


@dataclass(frozen=True)
class Description:
    """What a caption says about everything in the picture: one thing and its position, several equal things, or two
    things and their relation; and the background, which `None` leaves open.
    """

    first: Thing
    background: str | None
    count: int = 1
    position: str | None = None
    relation: str | None = None
    second: Thing | None = None

    @property
    def things(self) -> tuple[Thing, ...]:
        """All things said to be there."""
        return (self.first,) * self.count + (() if self.second is None else (self.second,))

    def text(self) -> str:
        """The caption."""
        if self.second is not None:
            what = f"{with_article(self.first.phrase())} {self.relation} {with_article(self.second.phrase())}"
        elif self.count > 1:
            what = f"{NUMBERS[self.count - 1]} {self.first.phrase(self.count)}"
        else:
            what = with_article(self.first.phrase()) + (f" in the {self.position}" if self.position else "")
        return what if self.background is None else f"{what} on a {self.background} background"

    def judge(self, scene: Scene) -> bool | None:
        """Whether the scene shows exactly this."""
        if self.background not in (None, scene.background) or Counter(self.things) != Counter(scene.things):
            return False
        if self.position is not None:
            found = position_of(scene.objects[0])
            return None if found is None else found == self.position
        if self.relation is not None:
            ours, other = sorted(scene.objects, key=lambda placed: placed.thing != self.first)
            return judge_relation(self.relation, ours, other)
        return True

    def place(self, rng: Random) -> Scene:
        """A random scene that shows this.

        Raises:
            ValueError: The background is open.
        """
        if self.background is None:
            raise ValueError(f"The description {self.text()!r} names no background: set one before placing it.")
        scale = IN_PAIR if self.second is not None else ALONE if self.count == 1 else 1.0
        spots = zip(self.things, self._spots(rng), strict=True)
        return Scene(tuple(place(thing, x, y, scale) for thing, (x, y) in spots), self.background)

    def _spots(self, rng: Random) -> list[tuple[int, int]]:
        if self.second is not None and self.relation is not None:
            along, across = RELATIONS[self.relation], rng.randint(60, 196)
            spots = []
            for side in (58, -58):
                a, c = 128 + side * sum(along) + rng.randint(-8, 8), across + rng.randint(-8, 8)
                spots.append((a, c) if along[0] else (c, a))
            return spots
        if self.position is not None:
            x, y = POSITIONS[self.position]
            return [(x + rng.randint(-14, 14), y + rng.randint(-14, 14))]
        return grid_spots(rng, self.count, jitter=2 if self.first.size == "large" else 10)


def grid_spots(rng: Random, count: int, jitter: int) -> list[tuple[int, int]]:
    """`count` different cells of a 3 x 3 layout, each centre moved by up to `jitter`."""
    cells = rng.sample([(x, y) for y in GRID for x in GRID], count)
    return [(x + rng.randint(-jitter, jitter), y + rng.randint(-jitter, jitter)) for x, y in cells]


def caption(scene: Scene) -> str:
    """Describes the scene from its geometry; scenes that no `Description` fits are listed thing by thing."""
    things, count = scene.things, len(scene.objects)
    if count == 1:
        return Description(things[0], scene.background, position=position_of(scene.objects[0])).text()
    if count <= len(NUMBERS) and len(set(things)) == 1:
        return Description(things[0], scene.background, count=count).text()
    if count == 2:
        for relation in RELATIONS:
            if judge_relation(relation, *scene.objects):
                return Description(things[0], scene.background, relation=relation, second=things[1]).text()
    phrases = [with_article(thing.phrase()) for thing in things]
    listed = f"{', '.join(phrases[:-1])} and {phrases[-1]}" if phrases else "nothing"
    return f"{listed} on a {scene.background} background"


def random_thing(rng: Random, *, held_out: bool = False) -> Thing:
    """A thing of a color and shape that training shows, or with `held_out` of a pair that it never shows."""
    while True:
        thing = Thing(rng.choice(SHAPES), rng.choice(COLORS), rng.choice(SIZES))
        if thing.held_out == held_out:
            return thing


def random_background(rng: Random, plain: float = 0.0) -> str:
    """One of all with equal chances, but white more often by the chance `plain`."""
    return "white" if plain and rng.random() < plain else rng.choice(BACKGROUNDS)


def random_description(rng: Random, *, held_out: bool = False, plain: float = 0.0) -> Description:
    """One thing, two things, or several equal things; with `held_out` the first thing is a pair that training never
    shows. `plain`: see [`random_background`].
    """
    first, background = random_thing(rng, held_out=held_out), random_background(rng, plain)
    kind = rng.choice(("single", "pair", "pair", "group"))
    if kind == "single":
        return Description(first, background, position=rng.choice(tuple(POSITIONS)))
    if kind == "group":
        return Description(first, background, count=rng.randint(2, len(NUMBERS)))
    while True:
        second = random_thing(rng)
        if second.shape != first.shape:  # so that "the circle" names one of the two
            return Description(first, background, relation=rng.choice(tuple(RELATIONS)), second=second)


def random_scene(rng: Random, *, held_out: bool = False) -> Scene:
    """A random picture with a caption of the grammar; the same `rng` state gives the same scene everywhere."""
    return random_description(rng, held_out=held_out).place(rng)
