"""What a look at data has to tell: what training would refuse, and what is worth knowing."""

from __future__ import annotations

from dataclasses import dataclass

NOTE, PROBLEM = "note", "PROBLEM"


@dataclass(frozen=True)
class Remark:
    """One finding.

    Attributes:
        level: `"note"` (worth knowing) or `"PROBLEM"` (training would refuse the data, or is misled by them).
        where: The task or the source.
    """

    level: str
    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.level:<8}{self.where}: {self.text}" if self.where else f"{self.level:<8}{self.text}"
