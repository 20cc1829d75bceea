"""Results of finished runs in one small file, which can be committed: any machine goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llave_hf.errors import UserError
from llave_hf.evaluation.results import package_versions
from llave_hf.runtime.places import check_output_file

_NUMBERS = ("scores", "chance", "metrics", "steps", "seconds", "telemetry")


@dataclass(frozen=True)
class Recorded:
    """A file of JSON lines, one a finished run: its whole recipe, its numbers, and the versions that gave them.

    Attributes:
        file: Where they stand; it need not be there yet.
        entries: The numbers, by what was run, see [`key`].
    """

    file: Path
    entries: Mapping[str, dict[str, Any]] = field(default_factory=dict)

    def get(self, recipe: Mapping[str, Any], processes: int) -> dict[str, Any] | None:
        """The numbers of a run with this very recipe, wherever it ran."""
        return self.entries.get(key(recipe, processes))

    def add(self, recipe: Mapping[str, Any], processes: int, numbers: Mapping[str, Any]) -> None:
        """Appends a run that has just finished, and is on the disk when this returns."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        entry = {"recipe": dict(recipe), "processes": processes, **numbers, "versions": package_versions()}
        with self.file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, ensure_ascii=False) + "\n")
            stream.flush()
            os.fsync(stream.fileno())


def key(recipe: Mapping[str, Any], processes: int) -> str:
    """The same text for the same run: 9 is 9.0, and the order of keys does not count."""
    return json.dumps(json.loads(json.dumps([recipe, processes]), parse_int=float), sort_keys=True)


def read_recorded(path: str | Path) -> Recorded:
    """Reads such a file; one that is not there has no entries.

    Raises:
        UserError: It cannot be such a file, or a line is no run's; names it.
    """
    check_output_file(path, "The file of results")
    file = Path(path)
    entries: dict[str, dict[str, Any]] = {}
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            entries[key(entry["recipe"], entry["processes"])] = {name: entry[name] for name in _NUMBERS}
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{file}, line {number} is no result of a run ({error!r}); remove the line, then the run is repeated."
            ) from error
    return Recorded(file, entries)
