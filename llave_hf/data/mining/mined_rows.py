"""`llave mine`: rows with hard negatives, written in MMEB's layout, task by task."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from llave_hf.data.described.names import GROUP
from llave_hf.data.pairs import TaskRows, open_tasks
from llave_hf.data.sources.indexed import Subset
from llave_hf.data.sources.specs import TrainData, parse_specs
from llave_hf.data.vectors.embedding_cache import EmbeddingCache, model_identity
from llave_hf.runtime.places import check_model, check_output_folder

from .judging import Judge, load_judge
from .mining import MinedTask, MiningOptions, known_columns, mine_task, mined_columns

ROWS_FILE = "original.jsonl"
REPORT_FILE = "mining.json"
CACHE_FOLDER = ".embeddings"


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
    group come last, and have null.

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
            holds the data themselves.
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
    _refuse_pictures_in_tables(tasks)
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
        _write(folder, subset, task, mined, mark, chosen)
        report(mined.report(chosen.num_negatives))
    return root


def _refuse_own_folder(root: Path, tasks: Sequence[tuple[Subset, TaskRows]]) -> None:
    own = {(root / task.name).resolve() for _, task in tasks}
    for subset, _ in tasks:
        for name, _ in subset.files:
            if Path(name).exists() and {Path(name).resolve(), Path(name).resolve().parent} & own:
                raise ValueError(f"{name} would be replaced by its mined rows; name another --output than {root}.")


def _refuse_pictures_in_tables(tasks: Sequence[tuple[Subset, TaskRows]]) -> None:
    for subset, task in tasks:
        for side in (task.query, task.positive, task.negatives):
            if side is not None and len(side.files()[0]) < len(side.paths()[0]):
                raise ValueError(
                    f"{subset.where()} holds its pictures itself, and mined rows are lines of JSON, which hold none; "
                    "write the pictures to files, and their paths in the column."
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


def _write(folder: Path, subset: Subset, task: TaskRows, mined: MinedTask, mark: str, options: MiningOptions) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    originals = subset.table.take(task.rows)
    described = subset.spec.description() is not None  # mined rows have MMEB's names, whatever theirs were
    unfinished = folder / f"{ROWS_FILE}.tmp"
    with unfinished.open("w", encoding="utf-8") as file:
        made = mined_columns(task, mined.negatives, mined.scores, mined.judged)
        for index, group in _in_order(mined):
            columns = made[index] | ({} if mined.grouping is None else {GROUP: group})
            own = known_columns(task, index) if described else originals.slice(index, 1).to_pylist()[0]
            row = {**own, **columns}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    unfinished.rename(folder / ROWS_FILE)
    summary = {
        "mark": mark,
        "options": asdict(options),
        "rows": len(mined.negatives),
        "negatives": sum(map(len, mined.negatives)),
        "left_out": dict(mined.dropped),
    }
    if mined.judged is not None:
        summary["judged_right"] = {"candidates": mined.dropped["judge"], "own_negatives": mined.judged.own_right}
    if mined.grouping is not None:
        told = mined.grouping
        summary["groups"] = {
            "groups": len(told.rows),
            "hard_share": told.hard_share,
            "random_share": told.random_share,
            "repeating": told.repeating,
            "rows_in_none": told.left,
        }
    # Last, so that a folder with it is whole.
    (folder / REPORT_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _in_order(mined: MinedTask) -> list[tuple[int, int | None]]:
    """The rows as they are written, each with its group."""
    if mined.grouping is None:
        return [(row, None) for row in range(len(mined.negatives))]
    groups = mined.grouping.numbers(len(mined.negatives))
    order = np.argsort(np.where(groups < 0, len(groups), groups), kind="stable").tolist()
    return [(row, int(groups[row]) if groups[row] >= 0 else None) for row in order]
