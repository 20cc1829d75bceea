"""What a run of `llave embed` says at its end."""

from __future__ import annotations

import os

from .ranks import Ranks
from .run import EmbedReport
from .shards import ERROR


def summary_lines(report: EmbedReport, ranks: Ranks, output: str | os.PathLike[str]) -> list[str]:
    """Rows, errors, rates and time of this process; of the first one, the whole folder beside them."""
    who = f"Process {ranks.rank} of {ranks.world_size}: " if ranks.world_size > 1 else ""
    lines = []
    if report.rows:
        lines.append(f"{who}{report.rows:,} rows in {report.seconds:.1f} s ({report.rates}), {report.errors:,} errors")
        lines += [f"  {reason}" for reason in report.reasons]
        if report.errors > len(report.reasons):
            lines.append(f"  ... all of them in the column {ERROR!r}")
        if report.cut:
            lines.append(f"  {report.cut:,} texts are longer than the model takes, and their ends were left out")
    else:
        lines.append(f"{who}nothing to do: every row has been embedded.")
    if ranks.rank == 0:
        if report.left_out:
            others = ", ".join(f"{count:,} {reason}" for reason, count in report.left_out.items())
            lines.append(f"Left out: {others}")
        lines.append(
            f"{os.fspath(output)}: {report.total_rows:,} rows in {report.shards:,} files of vectors, "
            f"{report.total_errors:,} of them without a vector"
        )
    return lines
