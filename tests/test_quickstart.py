"""The quickstart's album, its answers, and the commands that it names; the run itself is `make quickstart`."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny_model
from PIL import Image

from llave_hf.data.scenes import write_scenes
from llave_hf.quickstart.__main__ import RECIPE, next_commands
from llave_hf.quickstart.album import QUESTIONS, RIGHT, album_scenes, draw_album
from llave_hf.quickstart.answers import NEAREST, Answer, Found, answer, draw_answers
from llave_hf.train import main as train_main
from llave_hf.training.recipe.recipe import load_recipe


def test_an_album_holds_right_pictures_near_misses_and_others_and_none_that_was_seen(tmp_path: Path) -> None:
    scenes = album_scenes()
    assert len(set(scenes)) == len(scenes)
    for question in QUESTIONS:
        judged = [question.judge(scene) for scene in scenes]
        assert None not in judged
        assert judged.count(True) >= RIGHT
    assert album_scenes() == scenes
    files = draw_album(tmp_path, scenes)
    seen = {path.read_bytes() for path in files[:20]}
    others = draw_album(tmp_path / "others", album_scenes(seen=seen))
    assert not seen & {path.read_bytes() for path in others}
    assert seen & {path.read_bytes() for path in files}


def test_one_question_is_about_a_pair_that_training_never_shows() -> None:
    assert [question.first.held_out for question in QUESTIONS].count(True) == 1


def test_answers_are_what_the_cosines_say(tmp_path: Path) -> None:
    model, processor = tiny_model()
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    pictures = draw_album(tmp_path / "album", album_scenes()[:12])
    is_right = [[index in (0, 3, 5) for index in range(12)], [False] * 12]
    given = answer(tmp_path / "model", ["a red circle", "a ring"], pictures, is_right)
    assert [one.question for one in given] == ["a red circle", "a ring"]
    assert [one.there_are for one in given] == [3, 0]
    for one, right in zip(given, is_right, strict=True):
        cosines = [found.cosine for found in one.found]
        assert len(cosines) == NEAREST and cosines == sorted(cosines, reverse=True)
        assert all(found.is_right == right[pictures.index(found.path)] for found in one.found)


def test_right_answers_are_framed(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "white.png")

    def greens(*right: bool) -> int:
        found = tuple(Found(tmp_path / "white.png", 0.5, is_right) for is_right in right)
        made = Answer("a white square", found, 2)
        assert made.line == f"{sum(right)} of 2 right  a white square"
        draw_answers([made, made], tmp_path / "answers.png")
        colours = Image.open(tmp_path / "answers.png").convert("RGB").getcolors(1 << 24)
        return sum(count for count, colour in colours or () if colour == (0x1A, 0x98, 0x50))  # type: ignore[comparison-overlap]

    none, one, two = greens(False, False), greens(True, False), greens(True, True)
    assert none == 0 < one
    assert two == pytest.approx(2 * one, rel=0.05)


def test_the_recipe_trains_on_the_scenes(tmp_path: Path) -> None:
    """Two steps of it, as one process."""
    scenes = write_scenes(tmp_path / "scenes", train_pairs=320, eval_queries=14)
    options = ["--media_root", str(scenes), "--eval_benchmark", str(scenes / "benchmark.yaml")]
    options += ["--output_dir", str(tmp_path / "model"), "--max_steps", "2", "--telemetry_every", "0"]
    train_main([str(RECIPE), "--train_data", str(scenes / "train"), *options])
    assert (tmp_path / "model" / "eval" / "results.json").exists()


def test_the_commands_to_go_on_with_run_where_they_stand(tmp_path: Path) -> None:
    """The training's own keys are checked by reading its recipe, without training it."""
    index, app, train = next_commands(tmp_path)
    assert f"llave index {tmp_path}/album --model {tmp_path}/model && " in index
    assert app.split()[1:] == ["app", f"{tmp_path}/album"]
    words = train.split()
    assert (words[1], words[5]) == ("launch", "llave_hf.train") and Path(words[3]).is_file()
    assert load_recipe(words[6], words[7:]).training.max_steps == 2000
