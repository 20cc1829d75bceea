"""Builds a checked `Benchmark` from the content of a YAML file; every message names file and field."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llave_hf.evaluation.scoring.metrics import per_query_metric
from llave_hf.model.media_llave import MAX_FRAMES

from .benchmark import DISTRIBUTIONS, Benchmark, Task
from .fields import BenchmarkError, Settings, choice, mapping, text
from .formats import FORMATS

TEXT_KEYS = ("name", "source", "revision", "media", "split", "metric")
BENCHMARK_KEYS = (*TEXT_KEYS, "num_frames", "leaderboard", "kinds", "tasks")
TASK_KEYS = (
    *("meta_task", "distribution", "modality", "metric", "pool", "kind"),
    *("format", "source", "revision", "split", "subset", "media", "limit"),
)
FORMAT_KEYS = tuple(dict.fromkeys(key for known in FORMATS.values() for key in known.keys))
POOLS = ("local", "global")
# names that `results.json` uses for means beside the meta-tasks
RESERVED_GROUPS = (*DISTRIBUTIONS, "overall")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def build_benchmark(content: Any, where: str, folder: Path | None, beside: Path, *, data_given: bool) -> Benchmark:
    """Check what a file says.

    Args:
        where: the file, for messages.
        folder: what `source` and `media` are relative to; None: a bundled file, and no `data`.
        beside: the file's own folder, for files of labels.
        data_given: whether `folder` is the user's `data`.

    Raises:
        BenchmarkError: a key is unknown or missing, or a value cannot be used.
    """
    fields = mapping(content, where, BENCHMARK_KEYS, required=("name", "source", "tasks"))
    texts = {key: text(fields.get(key), f"{where}: {key}") for key in TEXT_KEYS}
    defaults = {"metric": _metric(texts["metric"] or "precision_at_1", f"{where}: metric")}
    kinds = {} if fields.get("kinds") is None else mapping(fields["kinds"], f"{where}: kinds")
    tasks = mapping(fields["tasks"], f"{where}: tasks")
    merged = {
        name: defaults | _with_kind(value, kinds, f"{where}: tasks: {name}", f"{where}: kinds")
        for name, value in tasks.items()
    }
    source = _source(texts["source"] or "", folder, where)
    built = tuple(_task(name, values, f"{where}: tasks: {name}", folder, beside) for name, values in merged.items())
    _check_groups(built, where)
    return Benchmark(
        name=texts["name"] or "",
        source=source,
        tasks=built,
        media_root=_media_root(texts["media"], source, folder, where, data_given=data_given),
        data=folder if data_given else None,
        split=texts["split"] or "test",
        revision=texts["revision"],
        num_frames=_number(fields.get("num_frames"), f"{where}: num_frames", MAX_FRAMES),
        leaderboard=_flag(fields.get("leaderboard", False), f"{where}: leaderboard"),
    )


def _with_kind(value: Any, kinds: Mapping[str, Any], where: str, kinds_where: str) -> dict[str, Any]:
    """A task's keys, and those of its kind that it does not have itself."""
    fields = mapping(value, where, (*TASK_KEYS, *FORMAT_KEYS))
    kind = text(fields.pop("kind", None), f"{where}: kind")
    if kind is None:
        return fields
    choice(kind, kinds, f"{where}: kind")
    allowed = [key for key in (*TASK_KEYS, *FORMAT_KEYS) if key != "kind"]
    return mapping(kinds[kind], f"{kinds_where}: {kind}", allowed) | fields


def _task(name: str, values: Mapping[str, Any], where: str, folder: Path | None, beside: Path) -> Task:
    settings = Settings(values, where, beside)
    format_name = settings.choice("format", FORMATS, "mmeb")
    layout = FORMATS[format_name]
    mapping(values, where, (*TASK_KEYS, *layout.keys), required=("meta_task", "distribution", *layout.required))
    source = settings.text("source")
    return Task(
        name=name,
        meta_task=settings.text("meta_task") or "",
        distribution=settings.choice("distribution", (*DISTRIBUTIONS, "none"), ""),
        metric=_metric(settings.text("metric") or "", f"{where}: metric"),
        pool=settings.choice("pool", [pool for pool in POOLS if pool in layout.pools], layout.pools[0]),
        format=layout.from_settings(settings),
        modality=settings.text("modality"),
        source=None if source is None else _source(source, folder, where),
        revision=settings.text("revision"),
        split=settings.text("split"),
        subset=settings.texts("subset"),
        media=(settings.text("media") or "").strip("/"),
        limit=_number(values.get("limit"), f"{where}: limit"),
    )


def _check_groups(tasks: tuple[Task, ...], where: str) -> None:
    """No two means of the results have the same name."""
    meta_tasks = {task.meta_task for task in tasks}
    for task in tasks:
        for key, group, taken in (
            ("meta_task", task.meta_task, RESERVED_GROUPS),
            ("modality", task.modality, (*RESERVED_GROUPS, *meta_tasks)),
        ):
            if group in taken:
                raise BenchmarkError(
                    f"{where}: tasks: {task.name}: {key} {group!r} is the name of a mean already: choose another."
                )


def _source(source: str, folder: Path | None, where: str) -> str | Path:
    """The folder of that name, else a Hub id."""
    candidate = (folder or Path()) / Path(source).expanduser()
    if (folder is not None or candidate.is_absolute()) and candidate.is_dir():
        return candidate
    if HUB_ID.fullmatch(source):
        return source
    raise BenchmarkError(
        f"{where}: source {source!r} is neither an existing folder ({candidate}) nor a Hub id (owner/name): "
        "correct it, or say with --data which folder to look in."
    )


def _media_root(
    media: str | None, source: str | Path, folder: Path | None, where: str, *, data_given: bool
) -> Path | None:
    if media is None:
        # pictures of a Hub data set lie where the user put them; those of a folder lie in it
        return folder if data_given or isinstance(source, str) else source
    root = (folder or Path()) / Path(media).expanduser()
    if not root.is_dir():
        raise BenchmarkError(f"{where}: media: the folder {root} does not exist: correct it, or give --data.")
    return root.resolve()


def _metric(name: str, where: str) -> str:
    try:
        per_query_metric(name)
    except ValueError as error:
        raise BenchmarkError(f"{where}: {error}") from error
    return name


def _number(value: Any, where: str, most: int | None = None) -> int | None:
    if value is None or (type(value) is int and value >= 1 and (most is None or value <= most)):
        return value
    allowed = "of at least 1" if most is None else f"from 1 to {most}"
    raise BenchmarkError(f"{where} must be a whole number {allowed}, not {value!r}.")


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise BenchmarkError(f"{where} must be true or false, not {value!r}.")
    return value
