"""How often a model that learned the scenes names a shape, by where it stands: shapes_by_place.py quickstart/model

Fresh pictures, none of the benchmark's. What a question about one of two things (SceneQA) needs first is the shape of
a thing that does not stand in the middle.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from llave_hf.data.scenes.drawing import PICTURE_SIZE, draw
from llave_hf.data.scenes.grammar import IN_PAIR, SHAPES, Placed, Scene, place, random_background, random_thing
from llave_hf.data.scenes.tasks import IMAGE, Case, Picture, Side, question, shape

PICTURES = 900
Kinds = Mapping[str, Callable[[Case], bool]]


def elsewhere(rng: Random) -> Case:
    """As SceneShape, but anywhere in the picture, and as large as one of two things."""
    thing = random_thing(rng)
    spot = place(thing, rng.randint(58, 198), rng.randint(58, 198), IN_PAIR)
    query = Side(IMAGE + "Identify the shape in the image.\n", Picture((Scene((spot,), random_background(rng)),)))
    return Case(query, Side(thing.shape), tuple(Side(name) for name in SHAPES if name != thing.shape))


def shown(case: Case) -> Scene:
    assert case.query.picture is not None
    return case.query.picture.frames[0]


def is_right(model: Any, cases: Sequence[Case]) -> list[bool]:
    """Whether the answer is the candidate nearest to the query, for each."""
    queries = [
        {"text": case.query.text.removeprefix(IMAGE), "image": draw(shown(case), PICTURE_SIZE)} for case in cases
    ]
    words = sorted({side.text for case in cases for side in (case.answer, *case.wrong)})
    cosines = model.encode(queries) @ model.encode(words).T  # (cases, words)
    found = []
    for row, case in zip(cosines, cases, strict=True):
        candidates = [words.index(side.text) for side in (case.answer, *case.wrong)]
        found.append(bool(row[candidates].argmax() == 0))
    return found


def table(model: Any, make: Callable[[Random], Case], kinds: Kinds, label: str) -> str:
    """A line of Markdown: percent of all cases, then of each kind."""
    rng = Random(label)
    cases = [make(rng) for _ in range(PICTURES)]
    right = is_right(model, cases)
    cells = []
    for has in ((lambda case: True), *kinds.values()):
        of = [correct for correct, case in zip(right, cases, strict=True) if has(case)]
        cells.append(f"{100 * sum(of) / len(of):.0f}")
    return f"| {label} | {' | '.join(cells)} |"


def main() -> None:
    from llave_hf import LlaveSentenceTransformer

    (folder,) = sys.argv[1:]
    model = LlaveSentenceTransformer(folder, device="cpu")

    def first(case: Case) -> Placed:
        return shown(case).objects[0]

    single: Kinds = {
        "large": lambda case: first(case).thing.size == "large",
        "small": lambda case: first(case).thing.size == "small",
        "on black": lambda case: shown(case).background == "black",
    }
    asked: Kinds = {
        "for a size": lambda case: "What size" in case.query.text,
        "for a color": lambda case: "What color" in case.query.text,
        "for a shape": lambda case: "Which shape" in case.query.text,
    }
    lines = [
        *head(single),
        table(model, shape, single, "a thing's shape, in the middle"),
        table(model, elsewhere, single, "a thing's shape, anywhere"),
        "",
        *head(asked),
        table(model, question, asked, "a question about one of two things"),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def head(kinds: Kinds) -> list[str]:
    return [f"| % of {PICTURES} right | all | {' | '.join(kinds)} |", f"|---|{'---:|' * (1 + len(kinds))}"]


if __name__ == "__main__":
    main()
