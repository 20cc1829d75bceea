"""A model that makes numbers of some inputs that are not finite: the others are found, and these are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import spoil, tiny_model
from search_helpers import ColourEncoder

from llave_hf import cli
from llave_hf.search.embedder import Embedder

pytest.importorskip("lancedb", reason="pip install 'llave-hf[search]'")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    model, processor = tiny_model()
    spoil(model, processor, "z")
    for part in (model, processor):
        part.save_pretrained(tmp_path / "model")
    (tmp_path / "texts").mkdir()
    for name, text in (("dog", "a dog in the snow"), ("zoo", "a zoo"), ("house", "an old house")):
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    return tmp_path


def test_the_others_are_indexed_and_found(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["index", str(root / "texts"), "--model", str(root / "model")])
    printed = capsys.readouterr().out
    assert "2 added" in printed and "zoo.txt" in printed and "are not finite" in printed
    cli.main(["search", "a dog", "--collection", str(root / "texts")])
    assert {line.split("/")[-1] for line in capsys.readouterr().out.splitlines()[::2]} == {"dog.txt", "house.txt"}
    with pytest.raises(SystemExit):
        cli.main(["search", "a zebra", "--collection", str(root / "texts")])
    assert capsys.readouterr().err.count("not finite") == 1


def test_of_any_encoder() -> None:
    class Broken(ColourEncoder):
        def _vector(self, entry: object) -> np.ndarray:
            spoilt = {"odd": np.nan, "unknown": 0.0}.get(str(entry), 1.0)
            return super()._vector(entry) * spoilt

    embedder = Embedder(Broken())
    vectors, reasons = embedder.usable(["red", "odd", "blue", "unknown"])
    assert [vector is None for vector in vectors] == [False, True, False, True]
    assert "not finite" in reasons[1] and "zeros" in reasons[3]
    with pytest.raises(ValueError, match="input 1: the model gives it a vector of zeros"):
        embedder.vectors(["red", "unknown"])
