"""A benchmark is data: a YAML file that names subsets, what they measure and where their rows lie.

    name: my-benchmark
    source: eval                  # a Hub id, or a folder with one folder or file a subset, relative to this file
    revision: 0f3c…               # Hub only: a commit, branch or tag; the commit used is recorded in the results
    media: .                      # what picture paths are relative to, relative to this file
    split: test
    metric: precision_at_1        # or recall_at_K, ndcg_at_K
    num_frames: 8                 # of every video, uniformly over its length; without it at most 32
    leaderboard: true             # writes MMEB-V2's leaderboard file beside the results
    kinds:                        # what several tasks have in common
      video: {meta_task: video, distribution: out, metric: recall_at_5, pool: global}
    tasks:
      MySubset: {meta_task: retrieval, distribution: in}          # in- or out-of-distribution, or none
      MyVideos: {kind: video, format: pairs, query: "Find: {caption}", target: {video: "videos/{id}"}}

`pool: local` ranks a query's own candidates; `pool: global` ranks the distinct candidates of the whole subset. A task
may further have `modality` (one more mean); its own `source`, `revision`, `split` and `subset` (Hub configurations);
`limit`, how many first rows count; `media`, a folder within the file's; and `format`, the layout of its rows
(:mod:`.formats`; `mmeb` without it), which has keys of its own. Files of this package under `benchmarks/` are found by
name (`mmeb`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import yaml

from .fields import BenchmarkError, nearest
from .formats import Format, MmebFormat

MMEB = MmebFormat()
# of `distribution`; the means that results have besides those of meta-tasks and modalities
DISTRIBUTIONS = ("in", "out")


@dataclass(frozen=True, slots=True)
class Task:
    """One subset of a benchmark.

    Attributes:
        distribution: in, out or none.
        format: the layout of its rows.
        modality: a group of subsets with a mean of its own, or None.
        source: a Hub id or a folder that holds this subset alone; None: the benchmark's.
        revision: of its own source.
        split: None: the benchmark's.
        subset: configurations of a Hub data set; none: the subset's name, or the only one of its own source.
        media: the folder of its pictures and videos within the benchmark's, "" for that itself.
        limit: how many of its first rows count; None: all.
    """

    name: str
    meta_task: str
    distribution: str
    metric: str = "precision_at_1"
    pool: str = "local"
    format: Format = MMEB
    modality: str | None = None
    source: str | Path | None = None
    revision: str | None = None
    split: str | None = None
    subset: tuple[str, ...] = ()
    media: str = ""
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark file, with its places resolved.

    Attributes:
        source: a Hub id, or the folder that holds the subsets' rows.
        media_root: what picture paths are relative to; None where it must be given as `data`.
        data: the folder given as `data`; it may hold the rows of a Hub source.
        revision: of the Hub data set; None: whatever is newest when it is read.
        num_frames: how many frames of a video are looked at; None: as many as without a benchmark.
        leaderboard: whether results are also written in MMEB-V2's form.
    """

    name: str
    source: str | Path
    tasks: tuple[Task, ...]
    media_root: Path | None = None
    data: Path | None = None
    split: str = "test"
    revision: str | None = None
    num_frames: int | None = None
    leaderboard: bool = False

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
                raise BenchmarkError(f"Benchmark {self.name} has no subset {name!r}.{nearest(name, names)}")
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
    return sorted(file.stem for file in bundled_folder().glob("*.yaml"))


def bundled_folder() -> Path:
    """Where they lie."""
    return Path(str(resources.files("llave_hf.evaluation"))) / "benchmarks"


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
    from .file import build_benchmark

    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise BenchmarkError(f"There is no benchmark file {path}: check the path.")
        file, where, folder = path, str(path), path.resolve().parent
    else:
        names = bundled_benchmarks()
        if str(name_or_path) not in names:
            hint = nearest(str(name_or_path), names) or f" Bundled are: {', '.join(names)}."
            raise BenchmarkError(f"There is no benchmark file or bundled benchmark {str(name_or_path)!r}.{hint}")
        file, where, folder = bundled_folder() / f"{name_or_path}.yaml", f"{name_or_path}.yaml", None
    if data is not None:
        folder = Path(data).resolve()
        if not folder.is_dir():
            raise BenchmarkError(f"The data folder {data} does not exist: check --data.")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{where} is not valid YAML: {' '.join(str(error).split())}.") from error
    return build_benchmark(content, where, folder, file.parent, data_given=data is not None)
