"""`llave mine`: rows with hard negatives, written in MMEB's layout, task by task."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from llave_hf.data.described.names import NEGATIVE_SCORE
from llave_hf.data.pairs import TaskRows, open_tasks
from llave_hf.data.rows.columns import SideColumns
from llave_hf.data.sources.indexed import Subset
from llave_hf.data.sources.specs import TrainData, parse_specs
from llave_hf.data.vectors.embedding_cache import EmbeddingCache, model_identity
from llave_hf.model.media_pictures_llave import is_data_uri
from llave_hf.runtime.places import check_model, check_output_folder

from .judging import Judge, load_judge
from .mining import MiningOptions, mine_task
from .names import CACHE_FOLDER, REPORT_FILE
from .picture_files import PictureFiles
from .written import write_task


def mine(
    train_data: TrainData,
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    options: MiningOptions | None = None,
    *,
    media_root: str | None = None,
    subsets: Sequence[str] | None = None,
    split: str | None = None,
    batch_size: int | None = None,
    dtype: str | None = None,
    judge: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Writes `output/<task>/original.jsonl`: each row as it was, with negatives beside its own.

    With `group_size`, rows stand in the order of their groups, whose numbers are column `batch_group`; rows in no
    group come last, and have null. Pictures that stand in the rows themselves are written to `output/pictures`, each
    distinct one once, and `output` is their `media_root`.

    A stopped run goes on: finished tasks are kept, and vectors lie in `output/.embeddings` piece by piece.

    Args:
        train_data, media_root, subsets, split: As [`load_pairs`] takes them.
        model: A folder or Hub id of anything that embeds.
        output: A folder that `train_data` of a recipe can name, with the same `media_root`.
        options: What counts as a hard negative.
        batch_size: Inputs a forward pass; None leaves it to the encoder.
        dtype: What the model computes in; None: see [`load_encoder`].
        judge: A folder or Hub id of a model that scores positives and negatives: a `CrossEncoder` of
            sentence-transformers, or anything that embeds, see `judging.py`. None: nothing is scored.
        report: Is given what was found and left out, task by task.

    Returns:
        The folder.

    Raises:
        ValueError: The data cannot be used, or `output` was mined with other settings, data or another model, or
            holds the data themselves; or some pictures stand in the rows, and others in files.
    """
    from llave_hf.encoding.sentence_transformer import load_encoder

    root, chosen = Path(output), options or MiningOptions()
    check_model(model)
    check_model(judge)
    check_output_folder(root, "The output folder")
    opened = {} if dtype is None else {"dtype": dtype}
    identity = model_identity(model) + (f" {dtype}" if dtype else "")
    of_judge = "" if judge is None else model_identity(judge) + (f" {dtype}" if dtype else "")
    tasks = open_tasks(parse_specs(train_data, media_root=media_root, subsets=subsets, split=split))
    _refuse_own_folder(root, tasks)
    _refuse_two_roots(tasks)
    if judge is None and chosen.num_negatives:
        _refuse_scores_of_some(tasks)
    pictures = PictureFiles(root)
    cache: EmbeddingCache | None = None
    asked: Judge | None = None
    for subset, task in tasks:
        mark = _mark(subset, task, identity + of_judge, chosen)
        folder = root / task.name
        if _is_finished(folder, mark):
            report(f"{task.name}: already mined, kept")
            continue
        if cache is None:  # no model is loaded where every task is finished
            cache = EmbeddingCache(load_encoder(model, **opened), root / CACHE_FOLDER, identity, batch_size)
            if judge is not None:
                kept = EmbeddingCache(None, root / CACHE_FOLDER, of_judge, batch_size)
                asked = load_judge(judge, kept, batch_size, **opened)
        mined = mine_task(task, cache, chosen, asked)
        left_out = write_task(folder, subset, task, mined, mark, chosen, pictures.path)
        report("\n".join([mined.report(chosen.num_negatives), *left_out]))
    return root


def _refuse_own_folder(root: Path, tasks: Sequence[tuple[Subset, TaskRows]]) -> None:
    own = {(root / task.name).resolve() for _, task in tasks}
    for subset, _ in tasks:
        for name, _ in subset.files:
            if Path(name).exists() and {Path(name).resolve(), Path(name).resolve().parent} & own:
                raise ValueError(f"{name} would be replaced by its mined rows; name another --output than {root}.")


def _refuse_two_roots(tasks: Sequence[tuple[Subset, TaskRows]]) -> None:
    """Pictures of tables become files below the output folder, which is not where other rows' files lie."""
    holding = [subset.where() for subset, task in tasks if any(map(_stands_in_rows, _sides(task)))]
    if not holding:
        return
    naming = [subset.where() for subset, task in tasks if any(map(_names_files, _sides(task)))]
    if not naming:
        return
    both = [where for where in holding if where in naming]
    if both:
        raise ValueError(
            f"{both[0]} holds some pictures itself and names files of others, and mined rows name all of them "
            "below one media_root; write its pictures to files, and their paths in the column."
        )
    raise ValueError(
        f"{holding[0]} holds its pictures itself, which are written to files below --output, and {naming[0]} names "
        "files below its media_root; mine them one by one (--subsets), each into an --output of its own."
    )


def _sides(task: TaskRows) -> list[SideColumns]:
    return [side for side in (task.query, task.positive, task.negatives) if side is not None]


def _stands_in_rows(side: SideColumns) -> bool:
    return len(side.files()[0]) < len(side.paths()[0])


def _names_files(side: SideColumns) -> bool:
    return not all(is_data_uri(path) for path in side.files()[0].to_pylist())


def _refuse_scores_of_some(tasks: Sequence[tuple[Subset, TaskRows]]) -> None:
    for subset, _ in tasks:
        if NEGATIVE_SCORE in subset.table.column_names:
            raise ValueError(
                f"{subset.where()} has the column {NEGATIVE_SCORE!r}, one number a negative, which the negatives that "
                "are found would not have; give --judge MODEL, which scores all of them, or take the column out."
            )


def _mark(subset: Subset, task: TaskRows, identity: str, options: MiningOptions) -> str:
    """A hash of everything that the rows of a task depend on."""
    digest = hashlib.sha256(f"{identity}\n{asdict(options)}\n{task.media_root}".encode())
    for name, rows in subset.files:
        digest.update(f"{name} {rows}".encode())
        if Path(name).is_file():
            digest.update(str(Path(name).stat().st_mtime_ns).encode())
    digest.update(task.rows.tobytes())
    return digest.hexdigest()


def _is_finished(folder: Path, mark: str) -> bool:
    if not (folder / REPORT_FILE).exists():
        return False
    try:
        found = json.loads((folder / REPORT_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{folder / REPORT_FILE} is no JSON ({error}); remove it, and the task is mined anew."
        ) from error
    if found["mark"] != mark:
        raise ValueError(
            f"{folder} was mined from other data, with another model or other settings; name another --output, or "
            "remove it."
        )
    return True
