"""Opens a benchmark: a YAML file, or the name of one that comes with the package.

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

from importlib import resources
from pathlib import Path

import yaml

from .benchmark import Benchmark
from .fields import BenchmarkError, nearest
from .file import build_benchmark


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
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise BenchmarkError(f"There is no benchmark file {path}: check the path.")
        file, where, folder = path, str(path), path.absolute().parent  # beside a link, not its target
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
