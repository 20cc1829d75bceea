from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from evaluation_helpers import constant_encoder, make_row, write_benchmark
from PIL import Image
from report_helpers import HOSTILE, content_encoder, scored, write_example, write_report_benchmark

from llave_hf.data.samples import Sample
from llave_hf.data.thumbnails import SIDE, Thumbnails
from llave_hf.evaluation.report import page as report_page
from llave_hf.evaluation.report.charts import HIGH, WIDE, common_axis, histogram
from llave_hf.evaluation.report.page import PageOptions, render_page
from llave_hf.evaluation.report.training_weights import TrainingWeights
from llave_hf.evaluation.scoring.nearest import Nearest
from llave_hf.evaluation.scoring.similarities import Similarities


class Page(HTMLParser):
    """Elements with attributes, and the text outside of scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._silent = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._silent = tag in ("script", "style")

    def handle_endtag(self, tag: str) -> None:
        self._silent = False

    def handle_data(self, data: str) -> None:
        self.text += "" if self._silent else data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(tmp_path: Path, model: Any = None, **options: Any) -> Page:
    results, inputs = scored(write_report_benchmark(tmp_path), model or content_encoder())
    return Page(render_page(results, inputs, PageOptions(**options)))


def test_texts_of_the_data_are_text(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert HOSTILE in page.text
    assert len(page.all("script")) == 1
    assert all((image["src"] or "").startswith("data:image/jpeg;base64,") for image in page.all("img"))
    assert all(image["alt"] for image in page.all("img"))


def test_nothing_is_asked_of_the_network(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/jpeg"))
    (policy,) = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None and "default-src 'none'" in policy and "script-src 'sha256-" in policy


def test_findings_ties_and_provenance_are_told(tmp_path: Path) -> None:
    page = page_of(tmp_path, constant_encoder(), command="llave evaluate 'my model'")
    assert "it is counted once: Words (row 0)." in page.text
    assert "encoded as an empty text: Words (row 0)." in page.text
    assert "both count: Words (row 1)." in page.text
    assert "counted once: Words (1)." in page.text
    assert "Ties, scored by expectation" in page.text
    assert "llave evaluate 'my model'" in page.text and "v1" in page.text
    assert "Pictures: 8 of 8 missed" in page.text and "tied, rank 1 to 8" in page.text


def test_published_numbers_stand_beside_ours(tmp_path: Path) -> None:
    mmeb, mine = tmp_path / "mmeb", tmp_path / "mine"
    rows = {"RefCOCO": [make_row("a", ["b", "c"])]}
    options = {"RefCOCO": {"meta_task": "grounding", "distribution": "out"}}
    for folder, name in ((mmeb, "mmeb"), (mine, "mine")):
        results, inputs = scored(write_benchmark(folder, rows, options, name=name), content_encoder())
        page = Page(render_page(results, inputs))
        row = re.search(r"RefCOCO[\d.\s]+to [\d.\s]+95\.4\s*92\.3\s*89\.8", page.text)
        assert ("Qwen3-VL-Embedding-8B" in page.text, row is not None) == (name == "mmeb",) * 2


def test_weights_are_those_of_the_training(tmp_path: Path) -> None:
    page = page_of(tmp_path, weights=TrainingWeights(0.0, 0.5, None, "As the run was."))
    assert "As the run was." in page.text
    assert set(re.findall(r"weight\s*([\d.,]+)", page.text)) == {"1"}
    pulls = [int(pull) for pull in re.findall(r"pull\s*(\d+) %", page.text)]
    assert max(pulls) == 100 and min(pulls) < 100


def test_misses_are_as_many_as_asked_for(tmp_path: Path) -> None:
    def count(folder: str, **options: Any) -> int:
        page = page_of(tmp_path / folder, constant_encoder(), **options)
        return sum(part.get("class") == "miss" for part in page.all("details"))

    assert count("all") == 12
    assert count("one", misses=1) == 3
    assert count("none", misses=0) == 0


def test_without_pictures_their_paths_are_shown(tmp_path: Path) -> None:
    page = page_of(tmp_path, pictures=False)
    assert page.all("img") == []
    assert "Pictures are off" in page.text and "picture 3.png: pictures are off" in page.text


def test_pictures_keep_to_their_limit_and_the_page_says_what_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_page, "PICTURE_BYTES", 12_000)
    page = page_of(tmp_path)
    used = sum(len(image["src"] or "") for image in page.all("img"))
    assert 0 < used <= 12_000
    assert "were left out for that" in page.text
    assert "left out, the page would be too large" in page.text


def test_later_subsets_have_their_share_of_pictures(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 80).convert("RGB").save(tmp_path / "a.png")
    sample = Sample(images=("a.png",), media_root=str(tmp_path))
    (copy,) = Thumbnails(1 << 20).of(sample)
    assert copy.address is not None
    thumbnails = Thumbnails(4 * len(copy.address))
    thumbnails.allow(0.5)
    first = [thumbnails.of(sample)[0].address is not None for _ in range(3)]
    thumbnails.allow(1.0)
    second = [thumbnails.of(sample)[0].address is not None for _ in range(3)]
    assert (first, second) == ([True, True, False], [True, True, False])
    assert thumbnails.left_out == 2


def test_copies_are_small_upright_jpegs_and_broken_files_are_named(tmp_path: Path) -> None:
    Image.new("RGBA", (400, 100), (255, 0, 0, 0)).save(tmp_path / "wide.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    sample = Sample(images=("wide.png", "broken.png"), media_root=str(tmp_path))
    wide, broken = Thumbnails(1 << 20).of(sample)
    assert wide.address is not None and (wide.width, wide.height) == (SIDE, SIDE // 4)
    opened = Image.open(io.BytesIO(base64.b64decode(wide.address.split(",")[1])))
    assert opened.size == (SIDE, SIDE // 4) and opened.getpixel((5, 5))[0] > 240  # as the model sees it, red
    assert broken.address is None and "broken.png" in broken.why


def test_the_same_evaluation_gives_the_same_page(tmp_path: Path) -> None:
    pages = [write_example(tmp_path / name, content_encoder(), model_name="m").read_bytes() for name in ("a", "b")]
    assert pages[0] == pages[1]


def similarities(answers: list[float], hardest: list[float]) -> Similarities:
    nearest = Nearest.empty(len(hardest), len(answers))
    nearest.answers[:] = answers
    nearest.cosines[:, 0] = hardest
    return Similarities.of(nearest)


def test_histograms_are_densities_on_one_axis() -> None:
    parts = [similarities([0.401, 0.401, 0.401, 0.599], [0.201, 0.401]), similarities([0.001], [0.001])]
    axis = common_axis(parts)
    assert 0 < axis.x(0.0) < 0.08 * WIDE < 0.92 * WIDE < axis.x(0.6) < WIDE
    drawn = histogram(parts[0], axis)
    tops = [HIGH - float(height) for height in re.findall(r"V([\d.]+)H", drawn.positives)]
    assert sorted(tops)[-2:] == [pytest.approx(HIGH / 3, abs=0.1), pytest.approx(HIGH, abs=0.1)]
    others = [HIGH - float(height) for height in re.findall(r"V([\d.]+)H", drawn.hardest)]
    assert sorted(others)[-2:] == [pytest.approx(HIGH * 2 / 3, abs=0.1)] * 2
    assert [label for _, label in axis.ticks()] == ["0.0", "0.2", "0.4", "0.6"]


def test_axis_of_one_cosine_has_a_margin_and_no_tick_above_one() -> None:
    axis = common_axis([similarities([1.0], [1.0])])
    assert 0.5 * WIDE < axis.x(0.999) < WIDE
    assert [label for _, label in axis.ticks()] == ["0.980", "0.985", "0.990", "0.995", "1.000"]


def test_subset_without_negatives_has_one_histogram() -> None:
    only = Nearest.empty(1, 1)
    only.answers[:] = 0.5
    part = Similarities.of(only)
    drawn = histogram(part, common_axis([part]))
    assert drawn.hardest == "" and drawn.positives.startswith("M0,")
