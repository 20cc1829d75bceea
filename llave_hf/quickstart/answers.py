"""Questions, the pictures nearest to them, and which of those are right: on the screen and as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

NEAREST = 5
RIGHT, WRONG = "#1a9850", "#c8ccd2"  # frames


@dataclass(frozen=True)
class Found:
    """A picture among the nearest to a question.

    Attributes:
        path: Of the picture.
        cosine: Of its vector with the question's.
        is_right: Whether it shows what the question says.
    """

    path: Path
    cosine: float
    is_right: bool


@dataclass(frozen=True)
class Answer:
    """A question and the pictures nearest to it, nearest first; `there_are` right ones among all."""

    question: str
    found: tuple[Found, ...]
    there_are: int

    @property
    def line(self) -> str:
        """`4 of 5 right  a large red circle …`."""
        right = sum(found.is_right for found in self.found)
        return f"{right} of {min(len(self.found), self.there_are)} right  {self.question}"


def answer(
    model: Path, questions: Sequence[str], pictures: Sequence[Path], is_right: Sequence[Sequence[bool]]
) -> list[Answer]:
    """Asks a model, through stock sentence-transformers, as anybody would.

    Args:
        model: Its folder.
        questions: n captions.
        pictures: m files.
        is_right: `(n, m)`, whether the picture shows what the question says.
    """
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(model), device="cpu")
    documents = encoder.encode(
        [{"image": str(path), "text": "\nRepresent the given image.\n"} for path in pictures], show_progress_bar=False
    )
    asked = [f"Find an image that matches the given caption: {question}\n" for question in questions]
    cosines = encoder.similarity(encoder.encode(asked, show_progress_bar=False), documents)
    answers = []
    for question, row, right in zip(questions, cosines, is_right, strict=True):
        nearest = row.topk(min(NEAREST, len(pictures))).indices.tolist()
        found = tuple(Found(pictures[index], float(row[index]), right[index]) for index in nearest)
        answers.append(Answer(question, found, sum(right)))
    return answers


def draw_answers(answers: Sequence[Answer], path: Path) -> None:
    """One picture: a row a question, its nearest pictures with their cosines, the right ones framed in green."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.45 * NEAREST, 1.95 * len(answers) + 0.5), layout="constrained")
    parts = figure.subfigures(len(answers), 1, squeeze=False)[:, 0]
    for part, given in zip(parts, answers, strict=True):
        part.suptitle(given.question, fontsize=11, x=0.01, ha="left")
        for axes, found in zip(part.subplots(1, NEAREST, squeeze=False)[0], given.found, strict=False):
            axes.imshow(Image.open(found.path).convert("RGB"))
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(f"{found.cosine:.2f}" + (", right" if found.is_right else ""), fontsize=9)
            for spine in axes.spines.values():
                spine.set(color=RIGHT if found.is_right else WRONG, linewidth=4 if found.is_right else 1)
    FigureCanvasAgg(figure).print_png(path)
