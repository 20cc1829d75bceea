"""An export may stand for the model that a server is compared with; where its tiling was changed, it alone may."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import tiny_model

from llave_hf.checkpoints.export import export
from llave_hf.errors import UserError
from llave_hf.serving_check.check import probes_of
from llave_hf.serving_check.reference import open_reference


def test_an_export_gives_the_models_vectors_and_with_another_tiling_its_own(tmp_path: Path) -> None:
    for name, tiling in (("tiled", "anyres"), ("squares", "none")):
        model, processor = tiny_model(processor={"image_tiling": tiling})
        model.save_pretrained(tmp_path / name)
        processor.save_pretrained(tmp_path / name)
        export(tmp_path / name, tmp_path / f"{name} stock", image_tiling="anyres")
    opened = {path.name: open_reference(path, "float32", "cpu") for path in tmp_path.iterdir()}
    probes = {probe.name: probe for probe in probes_of(opened["tiled"], 256)}
    for name in ("text", "two images", "prompt classification_query"):
        vectors = {folder: reference.vector(probes[name]) for folder, reference in opened.items()}
        assert np.abs(vectors["tiled stock"] - vectors["tiled"]).max() <= 1e-7
        assert np.abs(vectors["squares stock"] - vectors["tiled"]).max() <= 1e-7
    assert float(vectors["squares"] @ vectors["squares stock"]) == pytest.approx(1)  # texts have no tiles
    images = {folder: reference.vector(probes["two images"]) for folder, reference in opened.items()}
    assert float(images["squares"] @ images["squares stock"]) < 0.999


def test_what_is_no_model_of_the_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(UserError, match="is no LLaVE model, nor the export of one"):
        open_reference(tmp_path, "float32", "cpu")
