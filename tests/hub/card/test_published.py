"""The cards in model_cards/ are what the code renders, and say whose numbers they give."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from llave_hf.hub.published import render_published_cards, write_published_cards

CARDS = Path(__file__).parents[3] / "model_cards"
NAMES = ("LLaVE-0.5B", "LLaVE-2B", "LLaVE-7B")


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_what_the_code_renders(name: str, tmp_path: Path) -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in write_published_cards(tmp_path / "cards")}
    assert sorted(written) == [f"{name}.md" for name in NAMES]
    found = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert found == written[f"{name}.md"], "run python -m llave_hf.hub.published model_cards"


@pytest.mark.parametrize(("name", "overall"), [*zip(NAMES, (0.591, 0.652, 0.703), strict=True)])
def test_the_numbers_are_the_papers_and_said_to_be(name: str, overall: float) -> None:
    text = render_published_cards()[name]
    data = ModelCard(text).data
    assert data.eval_results is not None
    assert (data.eval_results[-1].dataset_config, data.eval_results[-1].metric_value) == ("overall (36)", overall)
    assert {result.source_url for result in data.eval_results} == {"https://arxiv.org/abs/2503.04812"}
    assert "llave_hf has not measured it" in text
    assert f"| {100 * overall:.1f} |\n| VLM2Vec" in text
