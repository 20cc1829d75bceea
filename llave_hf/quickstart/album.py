"""An album of drawn pictures for a few questions: some that answer them, some that nearly do, and others."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from random import Random

from llave_hf.data.scenes import Description, Scene, draw, random_description
from llave_hf.data.scenes.grammar import Thing
from llave_hf.data.scenes.near_misses import is_sound, slots
from llave_hf.data.scenes.writer import picture_file

RIGHT, OTHERS = 5, 150  # pictures that answer each question, and pictures made without looking at the questions

QUESTIONS = (
    Description(Thing("circle", "red", "large"), "white", position="middle"),
    Description(Thing("star", "blue", "small"), "black", relation="left of", second=Thing("heart", "yellow", "large")),
    Description(Thing("square", "green", "small"), "striped", count=3),
    Description(Thing("heart", "pink", "large"), "checked", position="top right"),
    Description(Thing("cross", "purple", "large"), "gray", count=2),
    Description(Thing("diamond", "purple", "large"), "white", position="middle"),  # no purple diamond was trained on
)


def album_scenes(
    questions: Sequence[Description] = QUESTIONS, *, seen: Collection[bytes] = (), seed: int = 0
) -> list[Scene]:
    """Different scenes in random order.

    For each question `RIGHT` that show it, and one for each attribute that shows everything else of it: a star instead
    of the heart, blue instead of yellow. Then `OTHERS` at random.

    Args:
        questions: With their backgrounds.
        seen: Contents of files whose pictures are left out, as [`picture_file`] gives them.
        seed: Of everything.
    """
    rng = Random(f"album/{seed}")
    wanted = [question for question in questions for _ in range(RIGHT)]
    for question in questions:
        for slot in slots(question):
            changed = [slot.put(question, value) for value in slot.values() if value != slot.get(question)]
            wanted.append(rng.choice([near for near in changed if is_sound(near, held_out=True)]))
    wanted += [random_description(rng) for _ in range(OTHERS)]
    found: dict[Scene, None] = {}
    for description in wanted:
        scene = description.place(rng)
        while scene in found or picture_file(draw(scene)) in seen:
            scene = description.place(rng)
        found[scene] = None
    scenes = list(found)
    rng.shuffle(scenes)
    return scenes


def draw_album(folder: Path, scenes: Sequence[Scene]) -> list[Path]:
    """The pictures, in the order of the scenes; what stands there already is drawn over."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03d}.png" for number in range(len(scenes))]
    for path, scene in zip(paths, scenes, strict=True):
        path.write_bytes(picture_file(draw(scene)))
    return paths
