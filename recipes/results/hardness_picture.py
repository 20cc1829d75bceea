"""Draws results/hardness.png: what a query's nearest negatives count, by weight and by batch.

python recipes/results/hardness_picture.py MODEL GROUPED --media_root DIR --output hardness.png

GROUPED is a folder that `llave mine --group_size` wrote. The batches are two of its subset: rows at random, and whole
groups, the query's own among them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.patches import Rectangle
from PIL import Image

from llave_hf import LlaveSentenceTransformer

TAU, ALPHA = 0.02, 9.0
NEAREST, BATCH = 10, 128
METHODS = [
    ("random", 0.0, False),
    ("random, \u03b1 = 9", ALPHA, False),
    ("groups", 0.0, True),
    ("groups, \u03b1 = 9", ALPHA, True),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("model")
    parser.add_argument("grouped", type=Path)
    parser.add_argument("--media_root", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--subset", default="SceneCaption_t2i")
    parser.add_argument("--rows", type=int, nargs="+", default=[0, 1, 2], help="of the queries (default: the first)")
    options = parser.parse_args()
    rows = [
        json.loads(line) for line in (options.grouped / options.subset / "original.jsonl").read_text().splitlines()
    ]
    queries, paths = [row["qry"] for row in rows], [row["pos_image_path"] for row in rows]
    groups = np.array([-1 if row["batch_group"] is None else row["batch_group"] for row in rows])
    asked = options.rows
    model = LlaveSentenceTransformer(options.model, device="cpu")
    documents = [{"image": str(options.media_root / path), "text": "\nRepresent the given image.\n"} for path in paths]
    cosines = model.encode([queries[row] for row in asked]) @ model.encode(documents, show_progress_bar=True).T
    figure = Figure(figsize=(13, 3.4 * len(asked) + 0.5), layout="constrained")
    figure.suptitle(
        "What a query learns from: its answer, its ten nearest negatives, and what each of them counts "
        "(\u2013: it is not in the batch)",
        fontsize=12,
    )
    for part, row, scores in zip(figure.subfigures(len(asked), 1, squeeze=False)[:, 0], asked, cosines, strict=True):
        draw(part, queries[row], row, scores, groups, [options.media_root / path for path in paths])
    FigureCanvasAgg(figure).print_png(options.output)


def batches(row: int, groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two batches of a row: others at random, and its own group with others at random."""
    random = np.random.default_rng(row)
    others = np.setdiff1d(np.arange(len(groups)), [row])
    drawn = np.append(random.choice(others, BATCH - 1, replace=False), row)
    own = np.flatnonzero(groups == groups[row])
    numbers = np.setdiff1d(np.unique(groups[groups >= 0]), [groups[row]])
    chosen = random.choice(numbers, BATCH // len(own) - 1, replace=False)
    return drawn, np.append(np.flatnonzero(np.isin(groups, chosen)), own)


def pull(row: int, scores: np.ndarray, batch: np.ndarray, alpha: float) -> np.ndarray:
    """The query's gradient on each document of a batch, 0 for others, in parts of 1/τ: softmax of s/τ + α·s."""
    logits = np.full(len(scores), -np.inf)
    logits[batch] = scores[batch].astype(float) * (1 / TAU + alpha)
    logits[row] = scores[row] / TAU  # the positive has no weight
    parts = np.exp(logits - logits.max())
    return parts / parts.sum()


def draw(part: SubFigure, query: str, row: int, scores: np.ndarray, groups: np.ndarray, paths: list[Path]) -> None:
    nearest = np.array([index for index in np.argsort(-scores, kind="stable") if index != row][:NEAREST])
    axes = part.subplots(2, NEAREST + 2, height_ratios=[1, 1.15])
    part.suptitle(query.partition(":")[2].strip() or query.strip(), fontsize=13, x=0.01, ha="left")
    grid = axes[0, 0].get_gridspec()
    for below in axes[1]:
        below.remove()
    for column, index in enumerate([row, *nearest]):
        shown = axes[0, column]
        shown.imshow(Image.open(paths[index]).convert("RGB"))
        shown.set(xticks=[], yticks=[])
        cosine = float(scores[index])
        told = "cosine {:.2f}\nthe answer" if index == row else "{:.2f}\n\u00d7 {:,.0f}"
        shown.set_xlabel(told.format(cosine, np.exp(ALPHA * cosine)), fontsize=11)
        for spine in shown.spines.values():
            spine.set(color="#1a9850" if index == row else "#c8ccd2", linewidth=4 if index == row else 1)
    axes[0, -1].imshow(np.full((1, 1, 3), 255, np.uint8))  # as high as the pictures
    axes[0, -1].set(xticks=[], yticks=[])
    axes[0, -1].spines[:].set_visible(False)
    axes[0, -1].set_xlabel("cosine s\n\u00d7 weight e$^{9s}$", fontsize=11)
    drawn, grouped = batches(row, groups)
    values = [pull(row, scores, grouped if whole else drawn, alpha) for _, alpha, whole in METHODS]
    cells = part.add_subplot(grid[1, :])
    width = NEAREST + 2
    cells.set(xlim=(-0.5, width - 0.5), ylim=(len(METHODS) - 0.5, -1.4), xticks=[], yticks=[])
    cells.text(
        -0.5,
        -0.95,
        "share of the query's gradient in a batch of 128 rows, drawn at random or made of groups of hard ones:",
        ha="left",
        va="center",
        fontsize=11,
    )
    cells.axis("off")
    for line, ((name, _, whole), parts) in enumerate(zip(METHODS, values, strict=True)):
        cells.text(-0.5, line, name, ha="left", va="center", fontsize=10.5)
        there = set((grouped if whole else drawn).tolist())
        for column, index in enumerate(nearest, start=1):
            part_of = parts[index]
            if index not in there:
                cells.text(column, line, "\u2013", ha="center", va="center", color="#9aa0a8", fontsize=11)
                continue
            cells.add_patch(rectangle(column, line, matplotlib.colormaps["Oranges"](0.1 + 0.6 * min(1, 2 * part_of))))
            cells.text(column, line, percent(part_of), ha="center", va="center", fontsize=11)
        total = 1 - parts[row]
        cells.text(width - 1, line, percent(total), ha="center", va="center", fontsize=12, weight="bold")
    cells.text(width - 1, -0.95, "all 127", ha="center", va="center", fontsize=11, weight="bold")


def rectangle(column: int, line: int, color: tuple[float, ...]) -> Rectangle:
    return Rectangle((column - 0.48, line - 0.46), 0.96, 0.92, color=color)


def percent(value: float) -> str:
    return "< 0.1 %" if value < 0.001 else f"{100 * value:.1f} %" if value < 0.1 else f"{100 * value:.0f} %"


if __name__ == "__main__":
    main()
