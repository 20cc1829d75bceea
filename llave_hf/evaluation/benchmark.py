"""A benchmark is data: a YAML file that names subsets, what they measure and where their rows lie.

    name: my-benchmark
    source: eval                  # a Hub id, or a folder with one folder or file a subset, relative to this file
    revision: 0f3c…               # Hub only: a commit, branch or tag; the commit used is recorded in the results
    media: .                      # what picture paths are relative to, relative to this file
    split: test
    metric: precision_at_1        # or recall_at_K, ndcg_at_K
    tasks:
      MySubset: {meta_task: retrieval, distribution: in}          # in- or out-of-distribution
      MyVideos: {meta_task: video, distribution: out, metric: recall_at_5, pool: global}

`pool: local` (the default) ranks a query's own candidates; `pool: global` ranks the distinct candidates of the whole
subset. Files of this package under `benchmarks/` are found by name (`mmeb`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from llave_hf.errors import UserError

from .metrics import per_query_metric

BENCHMARK_KEYS = ("name", "source", "revision", "media", "split", "metric", "tasks")
TASK_KEYS = ("meta_task", "distribution", "metric", "pool")
DISTRIBUTIONS = ("in", "out")
POOLS = ("local", "global")
# names that `results.json` uses for means beside the meta-tasks
RESERVED_META_TASKS = ("in", "out", "overall")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class BenchmarkError(UserError):
    """A benchmark file, or the data it points to, cannot be used as it is."""


@dataclass(frozen=True, slots=True)
class Task:
    """One subset of a benchmark."""

    name: str
    meta_task: str
    distribution: str
    metric: str = "precision_at_1"
    pool: str = "local"


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark file, with its places resolved.

    Attributes:
        source: a Hub id, or the folder that holds the subsets' rows.
        media_root: what picture paths are relative to; None where it must be given as `data`.
        data: the folder given as `data`; it may hold the rows of a Hub source.
        revision: of the Hub data set; None: whatever is newest when it is read.
    """

    name: str
    source: str | Path
    tasks: tuple[Task, ...]
    media_root: Path | None = None
    data: Path | None = None
    split: str = "test"
    revision: str | None = None

    def select(self, subsets: Iterable[str] | None) -> Benchmark:
        """The benchmark with only these subsets, in the file's order; None keeps all.

        Raises:
            BenchmarkError: a name is none of the subsets.
        """
        if subsets is None:
            return self
        wanted = list(dict.fromkeys(subsets))
        names = [task.name for task in self.tasks]
        for name in wanted:
            if name not in names:
                raise BenchmarkError(f"Benchmark {self.name} has no subset {name!r}.{_nearest(name, names)}")
        if not wanted:
            raise BenchmarkError(f"No subset of benchmark {self.name} was chosen: name at least one of {names}.")
        return replace(self, tasks=tuple(task for task in self.tasks if task.name in wanted))

    def check(self, subsets: Iterable[str] | None = None) -> None:
        """Read all rows and look for all files, as an evaluation would, but encode nothing: for use before a training.

        Raises:
            BenchmarkError: what :func:`evaluate_benchmark` would raise about the data.
        """
        from .collection import collect_inputs
        from .rows import RowReader

        selected = self.select(subsets)
        collect_inputs(selected, RowReader(selected))


def bundled_benchmarks() -> list[str]:
    """Names of the benchmark files that come with the package."""
    folder = resources.files("llave_hf.evaluation") / "benchmarks"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def load_benchmark(name_or_path: str | Path, data: str | Path | None = None) -> Benchmark:
    """Read and check a benchmark file.

    Args:
        name_or_path: a YAML file, or the name of a bundled benchmark.
        data: folder that stands in for the file's own folder: `source` and `media` are looked for there. A Hub
            `source` is read from `data` where its subsets lie there, and downloaded otherwise; without `media`,
            pictures lie in `data`.

    Raises:
        BenchmarkError: there is no such file, folder or bundled name, or the file is not as described above; the
            message names the file and the field.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise BenchmarkError(f"There is no benchmark file {path}: check the path.")
        text, where, folder = path.read_text(encoding="utf-8"), str(path), path.resolve().parent
    else:
        names = bundled_benchmarks()
        if str(name_or_path) not in names:
            hint = _nearest(str(name_or_path), names) or f" Bundled are: {', '.join(names)}."
            raise BenchmarkError(f"There is no benchmark file or bundled benchmark {str(name_or_path)!r}.{hint}")
        file = resources.files("llave_hf.evaluation") / "benchmarks" / f"{name_or_path}.yaml"
        text, where, folder = file.read_text(encoding="utf-8"), f"{name_or_path}.yaml", None
    if data is not None:
        folder = Path(data).resolve()
        if not folder.is_dir():
            raise BenchmarkError(f"The data folder {data} does not exist: check --data.")
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BenchmarkError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from error
    return _build(content, where, folder, data_given=data is not None)


def _build(content: Any, where: str, folder: Path | None, *, data_given: bool) -> Benchmark:
    fields = _mapping(content, where, BENCHMARK_KEYS, required=("name", "source", "tasks"))
    text = {key: _text(fields.get(key), f"{where}: {key}") for key in BENCHMARK_KEYS if key != "tasks"}
    metric = _metric(text["metric"] or "precision_at_1", f"{where}: metric")
    tasks = _mapping(fields["tasks"], f"{where}: tasks")
    source = _source(text["source"] or "", folder, where)
    return Benchmark(
        name=text["name"] or "",
        source=source,
        tasks=tuple(_task(name, value, metric, f"{where}: tasks: {name}") for name, value in tasks.items()),
        media_root=_media_root(text["media"], source, folder, where, data_given=data_given),
        data=folder if data_given else None,
        split=text["split"] or "test",
        revision=text["revision"],
    )


def _task(name: str, value: Any, metric: str, where: str) -> Task:
    fields = _mapping(value, where, TASK_KEYS, required=("meta_task", "distribution"))
    text = {key: _text(fields.get(key), f"{where}: {key}") for key in TASK_KEYS}
    if text["meta_task"] in RESERVED_META_TASKS:
        raise BenchmarkError(f"{where}: meta_task {text['meta_task']!r} is the name of a mean: choose another.")
    return Task(
        name=name,
        meta_task=text["meta_task"] or "",
        distribution=_choice(text["distribution"] or "", DISTRIBUTIONS, f"{where}: distribution"),
        metric=_metric(text["metric"] or metric, f"{where}: metric"),
        pool=_choice(text["pool"] or "local", POOLS, f"{where}: pool"),
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


def _mapping(
    value: Any, where: str, allowed: Iterable[str] | None = None, required: Iterable[str] = ()
) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        raise BenchmarkError(f"{where} must be a mapping (key: value) with at least one entry, not {value!r}.")
    for key in value:
        if not isinstance(key, str):
            raise BenchmarkError(f"{where}: the key {key!r} must be text: put it in quotes.")
        if allowed is not None and key not in allowed:
            raise BenchmarkError(f"{where}: there is no key {key!r}.{_nearest(key, allowed)}")
    for key in required:
        if value.get(key) is None:
            raise BenchmarkError(f"{where} lacks {key!r}: add it.")
    return dict(value)


def _text(value: Any, where: str) -> str | None:
    if value is None or (isinstance(value, str) and value):
        return value
    raise BenchmarkError(f"{where} must be text, not {value!r}: put it in quotes, or leave it out.")


def _choice(value: str, choices: tuple[str, ...], where: str) -> str:
    if value not in choices:
        raise BenchmarkError(f"{where} must be {' or '.join(choices)}, not {value!r}.")
    return value


def _metric(name: str, where: str) -> str:
    try:
        per_query_metric(name)
    except ValueError as error:
        raise BenchmarkError(f"{where}: {error}") from error
    return name


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known are: {', '.join(known)}."
