"""Near-misses: descriptions that differ in exactly one attribute, arranged so that being the answer leaves no trace.

If the wrong candidates were all made by changing the right one, the right one would be the candidate that is most like
the others, and a model could find it without looking at the query. So candidates are the corners of a cube: k
attributes, two values each, all 2^k combinations. Every corner then has k neighbours one attribute away, and no corner
is special.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from .grammar import BACKGROUNDS, COLORS, NUMBERS, POSITIONS, RELATIONS, SHAPES, SIZES, Description, Thing, plural

_THING_VALUES: dict[str, tuple[str, ...]] = {"shape": SHAPES, "color": COLORS, "size": SIZES}


@dataclass(frozen=True)
class Slot:
    """One attribute of a description: its own (`part=None`) or one of its first or second thing."""

    part: str | None
    attribute: str

    def get(self, description: Description) -> str | int:
        """The present value."""
        value: str | int = getattr(getattr(description, self.part) if self.part else description, self.attribute)
        return value

    def put(self, description: Description, value: str | int) -> Description:
        """The description with another value."""
        if self.part is None:
            return replace(description, **{self.attribute: value})  # type: ignore[arg-type]
        thing: Thing = getattr(description, self.part)
        return replace(description, **{self.part: replace(thing, **{self.attribute: value})})  # type: ignore[arg-type]

    def values(self) -> Sequence[str | int]:
        """All values that the attribute can take."""
        if self.part is not None:
            return _THING_VALUES[self.attribute]
        own: dict[str, Sequence[str | int]] = {
            "background": BACKGROUNDS,
            "position": tuple(POSITIONS),
            "relation": tuple(RELATIONS),
            "count": range(2, len(NUMBERS) + 1),
        }
        return own[self.attribute]


def slots(description: Description) -> list[Slot]:
    """The attributes that a description has."""
    found = [Slot("first", attribute) for attribute in _THING_VALUES]
    if description.second is not None:
        found += [Slot("second", attribute) for attribute in _THING_VALUES] + [Slot(None, "relation")]
    elif description.count > 1:
        found.append(Slot(None, "count"))
    else:
        found.append(Slot(None, "position"))
    if description.background is not None:
        found.append(Slot(None, "background"))
    return found


def is_sound(description: Description, *, held_out: bool) -> bool:
    """Whether two things differ in shape, and pairs that training never shows occur only where they may."""
    if description.second is not None and description.second.shape == description.first.shape:
        return False
    return held_out or not any(thing.held_out for thing in description.things)


@dataclass(frozen=True)
class Cube:
    """2^k descriptions; bit b of a corner's index says which of the two values `slots[b]` has."""

    slots: tuple[Slot, ...]
    corners: tuple[Description, ...]

    def neighbours(self, index: int) -> list[int]:
        """The corners that differ in one attribute, in the order of the slots."""
        return [index ^ (1 << bit) for bit in range(len(self.slots))]


def random_cube(
    rng: Random, description: Description, dims: int, *, held_out: bool = False, fixed: Sequence[str] = ()
) -> Cube | None:
    """Changes `dims` random attributes of `description` (corner 0), but none named in `fixed`.

    Returns:
        The cube, or None if a corner would be unsound: draw again.
    """
    chosen = rng.sample([slot for slot in slots(description) if slot.attribute not in fixed], dims)
    corners = [description]
    for slot in chosen:
        value = rng.choice([value for value in slot.values() if value != slot.get(description)])
        corners += [slot.put(corner, value) for corner in corners]
    if not all(is_sound(corner, held_out=held_out) for corner in corners):
        return None
    return Cube(tuple(chosen), tuple(corners))


def change_text(before: Description, slot: Slot, after: Description) -> str:
    """The request that turns one description into the other, as a user would put it: "make the circle blue"."""
    value = slot.get(after)
    if slot.attribute == "background":
        return f"put everything on a {value} background"
    if slot.attribute == "count":
        return f"show {NUMBERS[int(value) - 1]} instead of {NUMBERS[before.count - 1]}"
    several = before.count > 1
    thing = before.second if slot.part == "second" and before.second is not None else before.first
    the = f"the {plural(thing.shape) if several else thing.shape}"
    if slot.attribute == "shape":
        return f"turn {the} into {plural(str(value)) if several else 'a ' + str(value)}"
    if slot.attribute == "position":
        return f"move {the} to the {value}"
    if slot.attribute == "relation" and before.second is not None:
        side = {"left of": "to the left of", "right of": "to the right of"}.get(str(value), value)
        return f"move {the} {side} the {before.second.shape}"
    return f"make {the} {value}"
