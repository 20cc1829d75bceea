"""Queries with one answer and its near-misses, for each of MMEB's meta-tasks; that only one is right is checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from .grammar import (
    ALONE,
    BACKGROUNDS,
    COLORS,
    NUMBERS,
    POSITIONS,
    RELATIONS,
    SHAPES,
    SIZES,
    Description,
    Placed,
    Scene,
    Thing,
    grid_spots,
    place,
    random_background,
    random_description,
    random_thing,
    with_article,
)
from .near_misses import Cube, change_text, random_cube


@dataclass(frozen=True)
class Picture:
    """A picture to be drawn: a scene, the part of a large scene around one object, or the frames of a clip."""

    frames: tuple[Scene, ...]
    crop: int | None = None
    large: bool = False


@dataclass(frozen=True)
class Side:
    """A query or a candidate."""

    text: str
    picture: Picture | None = None


@dataclass(frozen=True)
class Case:
    """A query, its answer, and candidates that are wrong, near-misses first."""

    query: Side
    answer: Side
    wrong: tuple[Side, ...]


@dataclass(frozen=True)
class Task:
    """A subset of the data set. `make(rng)` draws a case, `make(rng, plain=…)` one for a training row, None: again."""

    name: str
    meta_task: str
    make: Callable[..., Case | None]
    trained: bool = True
    distribution: str = "in"

    def make_training(self, rng: Random) -> Case | None:
        """A case of which more is plain: on patterned and dark backgrounds alone, a small model from random weights
        takes thousands of steps before it tells the first shape from another.
        """
        return self.make(rng, plain=PLAIN)


PLAIN = 1 / 3  # so many training pictures more are on white
IMAGE = "<|image_1|>\n"
GIVEN_IMAGE = IMAGE + "Represent the given image.\n"
GIVEN_CROP = IMAGE + "Represent the given cropped image of the object.\n"
GIVEN_VIDEO = IMAGE + "Represent the given video.\n"
QUESTION = IMAGE + "Represent the given image with the following question: "

# Where a thing is, from the middle, at the first and the last frame; and how many times its size it has.
MOVES = {
    "moving from left to right": ((-70, 0), (70, 0)),
    "moving from right to left": ((70, 0), (-70, 0)),
    "moving from top to bottom": ((0, -70), (0, 70)),
    "moving from bottom to top": ((0, 70), (0, -70)),
}
GROWTHS = {"growing": (0.5, 1.4), "shrinking": (1.4, 0.5)}
MOTIONS = (*MOVES, *GROWTHS)
FRAMES = 8
TURN = 30  # degrees in all: a square turned by 45 is a diamond
SIDES = {"left of": "on the left", "right of": "on the right", "above": "at the top", "below": "at the bottom"}
CHANGES = ("moving", "growing", "turning")


def _one_scene(scene: Scene) -> Picture:
    return Picture((scene,))


def _texts(answer: str, values: Sequence[str], rng: Random) -> tuple[Side, ...]:
    others = [value for value in values if value != answer]
    return tuple(Side(value) for value in rng.sample(others, len(others)))


def shape(rng: Random, *, plain: float = 0.0) -> Case:
    """Image -> the name of its shape. Half of the training rows show a large one on white."""
    thing, scene_background = random_thing(rng), random_background(rng)
    if plain and rng.random() < 0.5:
        thing, scene_background = replace(thing, size="large"), "white"
    scene = Description(thing, scene_background, position="middle").place(rng)
    query = Side(IMAGE + "Identify the shape in the image.\n", _one_scene(scene))
    return Case(query, Side(thing.shape), _texts(thing.shape, SHAPES, rng))


def background(rng: Random, *, plain: float = 0.0) -> Case:  # all backgrounds as often
    """Image -> the name of its background."""
    scene = random_description(rng).place(rng)
    query = Side(IMAGE + "Identify the background of the image.\n", _one_scene(scene))
    return Case(query, Side(scene.background), _texts(scene.background, BACKGROUNDS, rng))


def count(rng: Random, *, plain: float = 0.0) -> Case:
    """Image -> how many shapes it shows."""
    number = rng.randint(1, len(NUMBERS))
    scene = Description(random_thing(rng), random_background(rng, plain), count=number).place(rng)
    query = Side(QUESTION + "How many shapes are there?\n", _one_scene(scene))
    return Case(query, Side(NUMBERS[number - 1]), _texts(NUMBERS[number - 1], NUMBERS, rng))


def question(rng: Random, *, held_out: bool = False, plain: float = 0.0) -> Case:
    """Image and a question about one of its two things -> a word. Three fifths of the training rows are easier: see
    [`_of_one`] and [`_without_shapes`].
    """
    first, second = random_thing(rng, held_out=held_out), random_thing(rng)
    while second.shape == first.shape:
        second = random_thing(rng)
    relation = rng.choice(tuple(RELATIONS))
    shown = Description(first, random_background(rng, plain), relation=relation, second=second)
    asked = [
        (f"What color is the {first.shape}?", first.color, second.color),
        (f"What size is the {first.shape}?", first.size, second.size),
        (f"Which shape is {relation} the {second.shape}?", first.shape, second.shape),
    ]
    kind = rng.random() if plain else 1.0
    if kind < 0.4:
        shown, asked = Description(first, shown.background, position=rng.choice(tuple(POSITIONS))), _of_one(first)
    elif kind < 0.6:
        asked = _without_shapes(first, second, relation)
    scene = shown.place(rng)
    text, answer, near = rng.choice(asked)
    near = near if near != answer else rng.choice([v for v in _kin(answer) if v != answer])
    wrong = [Side(near), *(side for side in _texts(answer, (*COLORS, *SIZES, *SHAPES), rng) if side.text != near)]
    return Case(Side(f"{QUESTION}{text}\n", _one_scene(scene)), Side(answer), tuple(wrong))


Asked = list[tuple[str, str, str]]  # questions with their answer and what another thing would give


def _of_one(thing: Thing) -> Asked:
    """Where nothing else is shown: what a small model from random weights learns first of a question is the attribute
    that it asks for, and colors are asked for nowhere else.
    """
    color = (f"What color is the {thing.shape}?", thing.color, thing.color)
    return [color, color, color, (f"What size is the {thing.shape}?", thing.size, thing.size)]


def _without_shapes(first: Thing, second: Thing, relation: str) -> Asked:
    """Where a thing is found by its color or its side: next, that an answer belongs to one of two things."""
    side = SIDES[relation]
    asked = [
        (f"Which shape is {side}?", first.shape, second.shape),
        (f"What color is the shape {side}?", first.color, second.color),
    ]
    if first.color != second.color:
        asked.append((f"Which shape is {first.color}?", first.shape, second.shape))
    return asked


def _kin(value: str) -> Sequence[str]:
    return next(values for values in (COLORS, SIZES, SHAPES) if value in values)


def _sound_cube(rng: Random, held_out: bool = False, plain: float = 0.0) -> tuple[Cube, list[Scene]] | None:
    """Eight descriptions and a scene of each, where each scene shows its own description and no other."""
    cube = random_cube(rng, random_description(rng, held_out=held_out, plain=plain), 3, held_out=held_out)
    if cube is None:
        return None
    scenes = [corner.place(rng) for corner in cube.corners]
    for index, corner in enumerate(cube.corners):
        if any(corner.judge(scene) is not (index == other) for other, scene in enumerate(scenes)):
            return None
    return cube, scenes


def _near_first(cube: Cube, index: int, rng: Random) -> list[int]:
    """The other corners, those that differ in one attribute in front."""
    near = cube.neighbours(index)
    far = [other for other in range(len(cube.corners)) if other != index and other not in near]
    return [*rng.sample(near, len(near)), *rng.sample(far, len(far))]


def caption_to_image(rng: Random, *, held_out: bool = False, plain: float = 0.0) -> Case | None:
    """Caption -> the picture that shows it, among seven that differ in one to three attributes."""
    made = _sound_cube(rng, held_out, plain)
    if made is None:
        return None
    cube, scenes = made
    sides = [Side(GIVEN_IMAGE, _one_scene(scene)) for scene in scenes]
    query = Side(f"Find an image that matches the given caption: {cube.corners[0].text()}\n")
    return Case(query, sides[0], tuple(sides[i] for i in _near_first(cube, 0, rng)))


def image_to_caption(rng: Random, *, plain: float = 0.0) -> Case | None:
    """Picture -> its caption, among seven that differ in one to three attributes."""
    made = _sound_cube(rng, plain=plain)
    if made is None:
        return None
    cube, scenes = made
    sides = [Side(corner.text()) for corner in cube.corners]
    query = Side(IMAGE + "Find an image caption describing the given image.\n", _one_scene(scenes[0]))
    return Case(query, sides[0], tuple(sides[i] for i in _near_first(cube, 0, rng)))


def composed(rng: Random, *, plain: float = 0.0) -> Case | None:
    """Picture and a change -> the changed picture, among the unchanged one and others."""
    made = _sound_cube(rng, plain=plain)
    if made is None:
        return None
    cube, scenes = made
    slot, after = cube.slots[0], cube.neighbours(0)[0]
    change = change_text(cube.corners[0], slot, cube.corners[after])
    before = cube.corners[0].place(rng)
    sides = [Side(GIVEN_IMAGE, _one_scene(scene)) for scene in scenes]
    text = f"{IMAGE}Given an image, find a similar image with the described changes: {change}\n"
    wrong = tuple(sides[i] for i in _near_first(cube, after, rng))
    return Case(Side(text, _one_scene(before)), sides[after], wrong)


def grounding(rng: Random, *, plain: float = 0.0) -> Case:
    """Picture of six things and the name of one -> the part that shows it, among the parts that show the others."""
    things: list[Thing] = []
    while len(things) < 6:
        thing = random_thing(rng)
        if thing not in things:
            things.append(thing)
    spots = grid_spots(rng, 6, jitter=4)
    objects: tuple[Placed, ...] = tuple(place(thing, *spot) for thing, spot in zip(things, spots, strict=True))
    scene = Scene(objects, random_background(rng, plain))
    sides = [Side(GIVEN_CROP, Picture((scene,), crop=index, large=True)) for index in range(6)]
    text = f'{IMAGE}Select the portion of the image that shows: "{things[0].phrase()}"\n'
    return Case(Side(text, Picture((scene,), large=True)), sides[0], tuple(sides[1:]))


def clip(thing: Thing, motion: str, scene_background: str) -> Picture:
    """Eight frames of one thing that moves or changes its size."""
    frames = []
    for number in range(FRAMES):
        part = number / (FRAMES - 1)
        if motion in MOVES:
            (x0, y0), (x1, y1) = MOVES[motion]
            x, y = (round(128 + a + (b - a) * part) for a, b in ((x0, x1), (y0, y1)))
            placed = place(thing, x, y, ALONE)
        else:
            first, last = GROWTHS[motion]
            placed = place(thing, 128, 128, ALONE)
            placed = replace(placed, radius=round(placed.radius * (first + (last - first) * part)))
        frames.append(Scene((placed,), scene_background))
    return Picture(tuple(frames))


def _clips(rng: Random) -> tuple[list[str], list[Picture]]:
    """Captions and clips of two things in every motion, the answer first."""
    first, second = random_thing(rng), random_thing(rng)
    while second.shape == first.shape:
        second = random_thing(rng)
    scene_background = rng.choice(BACKGROUNDS)
    motions = rng.sample(MOTIONS, len(MOTIONS))
    pairs = [(thing, motion) for thing in (first, second) for motion in motions]
    captions = [f"a {thing.color} {thing.shape} {motion}" for thing, motion in pairs]
    return captions, [clip(thing, motion, scene_background) for thing, motion in pairs]


def caption_to_video(rng: Random) -> Case:
    """Caption -> the clip that shows it, among other motions of the same thing and the same motions of another."""
    return _find_video("Find a video that shows the following", *_clips(rng))


def video_to_caption(rng: Random) -> Case:
    """Clip -> its caption."""
    return _find_caption("Find a caption describing the given video", *_clips(rng))


def _find_video(instruction: str, captions: list[str], clips: list[Picture]) -> Case:
    """The first caption and its clip among the others."""
    answer, *wrong = (Side(GIVEN_VIDEO, picture) for picture in clips)
    return Case(Side(f"{instruction}: {captions[0]}\n"), answer, tuple(wrong))


def _find_caption(instruction: str, captions: list[str], clips: list[Picture]) -> Case:
    """The first clip and its caption among the others."""
    answer, *wrong = map(Side, captions)
    return Case(Side(f"{IMAGE}{instruction}.\n", clips[0]), answer, tuple(wrong))


def short_clip(rng: Random) -> Callable[[Description], Picture]:
    """Two to four frames of whatever is given, which moves, grows or turns in the same random way."""
    change, number, side = rng.choice(CHANGES), rng.randint(2, 4), rng.choice((-1, 1))
    steps = [side * (index / (number - 1) - 0.5) for index in range(number)]  # from -0.5 to 0.5, or back
    x, y = rng.randint(108, 148), rng.randint(108, 148)
    dx, dy = rng.choice(((70, 0), (0, 70), (50, 50), (50, -50)))

    def shown(description: Description, step: float) -> Scene:
        still = place(description.first, x, y, ALONE)
        if change == "moving":
            placed = place(description.first, round(x + dx * step), round(y + dy * step), ALONE)
        elif change == "growing":
            placed = replace(still, radius=round(still.radius * (1 + 0.6 * step)))
        else:
            placed = replace(still, angle=round(TURN * step))
        return Scene((placed,), str(description.background))

    return lambda description: Picture(tuple(shown(description, step) for step in steps))


def _things_in_clips(rng: Random) -> tuple[list[str], list[Picture]]:
    """Captions and short clips of one thing in all combinations of two shapes, two colors and two backgrounds, which
    change alike: only what is shown tells them apart. The answer first, then those that differ in one attribute.
    """
    while True:
        described = Description(random_thing(rng), rng.choice(BACKGROUNDS))
        cube = random_cube(rng, described, 3, fixed=("size", "position"))
        if cube is not None:
            break
    make = short_clip(rng)
    chosen = [cube.corners[index] for index in (0, *_near_first(cube, 0, rng))]
    captions = [
        f"{with_article(f'{corner.first.color} {corner.first.shape}')} on a {corner.background} background"
        for corner in chosen
    ]
    return captions, [make(corner) for corner in chosen]


def caption_to_clip(rng: Random) -> Case:
    """Caption of what is shown -> the short clip that shows it."""
    return _find_video("Find a video that matches the given caption", *_things_in_clips(rng))


def clip_to_caption(rng: Random) -> Case:
    """Short clip -> the caption of what it shows."""
    return _find_caption("Find a video caption describing the given video", *_things_in_clips(rng))


TASKS = (
    Task("SceneShape", "classification", shape),
    Task("SceneBackground", "classification", background),
    Task("SceneQA", "vqa", question),
    Task("SceneCount", "vqa", count),
    Task("SceneCaption_t2i", "retrieval", caption_to_image),
    Task("SceneCaption_i2t", "retrieval", image_to_caption),
    Task("SceneCIR", "retrieval", composed),
    Task("SceneRef", "grounding", grounding),
    Task("SceneQAOOD", "vqa", lambda rng: question(rng, held_out=True), trained=False, distribution="out"),
    Task(
        "SceneCaption_t2iOOD",
        "retrieval",
        lambda rng: caption_to_image(rng, held_out=True),
        trained=False,
        distribution="out",
    ),
    Task("SceneVideo_t2v", "video", caption_to_video, trained=False, distribution="out"),
    Task("SceneVideo_v2t", "video", video_to_caption, trained=False, distribution="out"),
    Task("SceneVideoWhat_t2v", "video", caption_to_clip, trained=False, distribution="out"),
    Task("SceneVideoWhat_v2t", "video", clip_to_caption, trained=False, distribution="out"),
)
