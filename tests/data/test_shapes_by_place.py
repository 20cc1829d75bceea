"""The table of shapes by place tells how often a model is right, of which cases."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
from helpers import results_script

from llave_hf.data.scenes.drawing import PICTURE_SIZE, draw
from llave_hf.data.scenes.tasks import shape


class Oracle:
    """Knows the answer to each picture that it has been told, as a word's axis; to the others it says "star"."""

    def __init__(self, answers: dict[bytes, str]) -> None:
        self.answers = answers
        self.axes: dict[str, int] = {}

    def encode(self, inputs: Sequence[Any]) -> np.ndarray:
        found = np.zeros((len(inputs), 32))
        for row, given in zip(found, inputs, strict=True):
            word = given if isinstance(given, str) else self.answers.get(given["image"].tobytes(), "star")
            row[self.axes.setdefault(word, len(self.axes))] = 1
        return found


def test_what_is_right_is_counted_by_kind() -> None:
    script = results_script("shapes_by_place")
    script.PICTURES = 60
    rng = Random("label")
    cases = [shape(rng) for _ in range(60)]
    scenes = [script.shown(case) for case in cases]
    known = [scene.objects[0].thing.size == "large" for scene in scenes]
    answers = {
        draw(scene, PICTURE_SIZE).tobytes(): case.answer.text
        for case, scene, knows in zip(cases, scenes, known, strict=True)
        if knows
    }
    small = [case.answer.text == "star" for case, knows in zip(cases, known, strict=True) if not knows]
    kinds = {
        "large": lambda case: script.shown(case).objects[0].thing.size == "large",
        "small": lambda case: script.shown(case).objects[0].thing.size == "small",
    }
    assert 0 < sum(small) < len(small)
    right = (sum(known) + sum(small)) / 60
    expected = f"| label | {100 * right:.0f} | 100 | {100 * sum(small) / len(small):.0f} |"
    assert script.table(Oracle(answers), shape, kinds, "label") == expected
