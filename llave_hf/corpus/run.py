"""`llave embed`: the vectors of a corpus, part by part, alone or beside other processes on the same folder."""

from __future__ import annotations

import functools
import os
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from llave_hf.encoding.meter import Meter
from llave_hf.encoding.model_identity import package_versions
from llave_hf.errors import UserError
from llave_hf.runtime.places import check_folder, check_model, check_output_folder

from .cut_texts import CutTexts
from .inputs import columns_of, side_of
from .manifest import (
    WORK,
    Manifest,
    changed_files,
    find_changes,
    read_manifest,
    refuse_changes,
    with_parts,
    write_manifest,
)
from .model import CorpusModel
from .parts import Part, first_part, parts_of
from .progress import Progress
from .quantizing import check_dimensions, ranges_of, shortened
from .ranks import Ranks, locked
from .reading import Reader
from .settings import EmbedSettings
from .shards import ShardWriter, counts_of, kept_columns
from .sources import MEDIA, open_source
from .vectors import VectorMaker

CALIBRATION_ROWS = 1024  # whose vectors give the ranges of int8
_CALIBRATION_PARTS = 16
_LOOKS = 1.0  # seconds between two looks at what other processes do
_NAMED = 3  # rows that a summary names
_MOST_FAILED = 10  # files of vectors that cannot be made; then something is wrong with more than files
# What a file of vectors says of itself.
_TOLD = ("model", "model_revision", "dtype", "prompt", "input", "dimensions", "precision")


@dataclass
class EmbedReport:
    """What a run did.

    Attributes:
        rows, errors: That this process embedded, and those of them that have no vector.
        cut: How many texts were longer than the model takes, and were cut as `encode` cuts them.
        seconds, processor_seconds: It took for that, opening the model left out.
        rates: Of this process, in words.
        total_rows, total_errors, shards: Rows, rows without a vector and files of vectors of the whole folder; other
            processes than the first know only of their own errors.
        reasons: Of the first rows without a vector: file, row and what is wrong.
        left_out: Of a folder of media, how many files are no candidates, by reason.
    """

    rows: int = 0
    errors: int = 0
    cut: int = 0
    seconds: float = 0.0
    processor_seconds: float = 0.0
    rates: str = ""
    total_rows: int = 0
    total_errors: int = 0
    shards: int = 0
    reasons: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def embed_corpus(settings: EmbedSettings, *, ranks: Ranks | None = None, progress: bool = False) -> EmbedReport:
    """Embeds what of a corpus is not embedded yet; returns when all of it is, by this process or another.

    Args:
        settings: What, with which model, and where to.
        ranks: Which process this is of several; None: as the environment says.
        progress: Whether the first of them shows a bar.

    Raises:
        UserError: Something is not there; or the folder holds vectors of another kind, or of rows that have changed.
        ValueError: A file cannot be read.
    """
    return _Run(settings, Ranks.from_environment() if ranks is None else ranks, progress).run()


class _Run:
    def __init__(self, settings: EmbedSettings, ranks: Ranks, progress: bool) -> None:
        self.settings, self.ranks = settings, ranks
        self.shows = progress and ranks.rank == 0
        self.folder = Path(settings.output)
        self.report = EmbedReport()
        self._failed: dict[str, str] = {}  # files of vectors that cannot be made, and why

    def run(self) -> EmbedReport:
        settings = self.settings
        check_model(settings.model)
        check_output_folder(self.folder, "The folder of vectors")
        if os.path.isdir(settings.source) and self.folder.resolve().is_relative_to(Path(settings.source).resolve()):
            raise UserError(f"--output {self.folder} lies in the source, of which it would be a part: choose another.")
        if settings.media_root is not None:
            check_folder(settings.media_root, "media_root")
        self.source = open_source(
            settings.source,
            split=settings.split,
            subsets=settings.subsets,
            revision=settings.revision,
            media_root=settings.media_root,
        )
        self.report.left_out = dict(self.source.left_out)
        self.shared = settings.shared()
        manifest = read_manifest(self.folder)
        if manifest is not None:
            manifest.check_settings(self.shared, self.folder)
        (self.folder / WORK).mkdir(parents=True, exist_ok=True)
        self.model: CorpusModel | None = None
        if manifest is None:
            _ = self._columns  # mistakes are said before a large model is opened
        if manifest is None or self._missing(manifest):
            self._open()  # before anybody waits for the lock: several processes do it at once
        with locked(self.folder / WORK / "manifest.lock"):
            self.manifest = self._up_to_date(read_manifest(self.folder))
        self._embed()
        if self._failed:
            first, reason = next(iter(self._failed.items()))
            raise UserError(
                f"{len(self._failed)} of {len(self.manifest.parts)} files of vectors could not be made, all others are"
                f" there. {first}: {reason} Run the command again when that is mended."
            )
        self._count()
        return self.report

    def _open(self) -> CorpusModel:
        if self.model is None:
            settings = self.settings
            if settings.threads is not None:
                import torch

                torch.set_num_threads(settings.threads)
            self.model = CorpusModel(
                settings.model,
                device=settings.device or self.ranks.device(),
                dtype=settings.dtype,
                prompt=self.shared["prompt"],
                max_tokens=settings.max_tokens,
                num_workers=settings.num_workers,
            )
        return self.model

    def _up_to_date(self, manifest: Manifest | None) -> Manifest:
        """The manifest for the source as it is now; only one process at a time gets here."""
        if manifest is None:
            made = self._new_manifest()
            write_manifest(made, self.folder)
            return made
        manifest.check_settings(self.shared, self.folder)
        names = None if self.source.kind == MEDIA else changed_files(manifest, self.source)
        planned = parts_of(self.source, manifest.settings["rows_per_shard"], names)
        changes = find_changes(manifest, planned, self.source)
        if changes.stale and not self.settings.refresh:
            refuse_changes(changes, self.folder)
        for part in changes.stale:  # before the manifest: what it does not name must not be taken for finished
            (self.folder / part.name).unlink(missing_ok=True)
        if changes.stale or changes.fresh:
            manifest = with_parts(manifest, changes)
            write_manifest(manifest, self.folder)
        return manifest

    def _new_manifest(self) -> Manifest:
        settings = self.settings
        names, kept = self._columns
        parts = parts_of(self.source, settings.rows)
        model = self._open()
        dimensions = check_dimensions(settings.dimensions, settings.precision, model.dimensions)
        shared = {**self.shared, "dimensions": dimensions, "dtype": model.dtype, "rows_per_shard": settings.rows}
        shared |= {"model_dimensions": model.dimensions, "kind": self.source.kind, "root": self._root()}
        made = Manifest.new(shared, names, kept, parts)
        if settings.precision == "int8":
            made = replace(made, ranges=self._calibrated(made, dimensions).tolist())
        return made

    @functools.cached_property
    def _columns(self) -> tuple[list[str], pa.Schema]:
        """All columns of the first rows, and those that are kept; those that are embedded are looked for."""
        part = first_part(self.source, self.settings.rows)
        if part is None:
            raise UserError(f"{self.settings.source} holds no rows: check the path.")
        first = next(Reader(self.source, None).chunks(part)).table
        side_of(self.settings.input, first.column_names, self.settings.source)
        return first.column_names, kept_columns(first, self.settings.id, self.settings.source)

    def _root(self) -> str | None:
        root = self.source.media_root
        return None if root is None else os.path.abspath(root)

    def _calibrated(self, manifest: Manifest, dimensions: int) -> np.ndarray:
        """The ranges of int8, from the first rows of parts that are spread over the corpus."""
        parts = manifest.parts[:: max(1, -(-len(manifest.parts) // _CALIBRATION_PARTS))]
        rows = -(-CALIBRATION_ROWS // len(parts))
        maker = self._maker(manifest)
        made = [vector for part in parts for piece in maker.first(part, rows) for vector in piece.vectors]
        found = [shortened(vector[None], dimensions) for vector in made if vector is not None]
        return ranges_of(np.concatenate(found) if found else np.empty((0, dimensions), np.float32))

    def _maker(self, manifest: Manifest) -> VectorMaker:
        side = side_of(self.settings.input, manifest.columns, self.settings.source)
        needed = columns_of(side)
        reader = Reader(self.source, list(dict.fromkeys([*needed, *manifest.kept])), needed)
        is_plain = self.settings.input is None and self.shared["prompt"] is None
        return VectorMaker(self._open(), reader, side, self.source.media_root, is_plain)

    def _missing(self, manifest: Manifest) -> list[Part]:
        return [part for part in manifest.parts if not (self.folder / part.name).exists()]

    def _embed(self) -> None:
        """Takes up parts until there is none left that nobody has finished."""
        missing = self._missing(self.manifest)
        if not missing:
            return
        model, maker = self._open(), self._maker(self.manifest)
        self.manifest.check_settings({"model": self.shared["model"], "dtype": model.dtype}, self.folder)
        model.meter = Meter()
        total = sum(part.rows for part in missing)
        with CutTexts() as cut, Progress(total, model.meter, shown=self.shows) as bar:
            while missing:
                missing = [part for part in self.ranks.order(missing) if not self._is_finished(part, maker, bar)]
                if missing:  # others work on them; where one dies, its part is taken up here
                    time.sleep(_LOOKS)
            self.report.rows, self.report.errors, self.report.cut = bar.rows, bar.errors, cut.count
            self.report.seconds, self.report.processor_seconds = bar.seconds, bar.processor_seconds
            self.report.rates = bar.rates()

    def _is_finished(self, part: Part, maker: VectorMaker, bar: Progress) -> bool:
        """Whether the vectors of a part are there; they are made where no other process does so."""
        place, lock = self.folder / part.name, self.folder / WORK / f"{part.name}.lock"
        if not place.exists():
            with locked(lock, timeout=0) as is_mine:
                if not is_mine:
                    return False
                if not place.exists():
                    self._try_part(part, maker, bar)
                    lock.unlink(missing_ok=True)  # whoever locks it from now on finds the part finished
                    return True
        bar.others(part.rows)
        return True

    def _try_part(self, part: Part, maker: VectorMaker, bar: Progress) -> None:
        """A file that cannot be read keeps no other from being embedded."""
        try:
            self._embed_part(part, maker, bar)
        except ValueError as error:
            self._failed[part.name] = str(error)
            if len(self._failed) >= _MOST_FAILED:
                raise

    def _embed_part(self, part: Part, maker: VectorMaker, bar: Progress) -> None:
        settings, ranges = self.manifest.settings, self.manifest.ranges
        about = {name: settings[name] for name in _TOLD}
        about |= {"source": self.settings.source, "ranges": ranges, "versions": package_versions()}
        shape = (settings["dimensions"], settings["precision"], None if ranges is None else np.asarray(ranges, "f4"))
        writer = ShardWriter(self.folder, part, self.manifest.kept_fields(), *shape, about)
        try:
            for piece in maker.all(part):
                for place, reason in piece.errors.items():
                    if len(self.report.reasons) < _NAMED:
                        row = f"{part.file}, row {writer.next_row + place}"
                        is_media = self.source.kind == MEDIA
                        where = f"{part.file}/{piece.table['path'][place]}" if is_media else row
                        self.report.reasons.append(f"{where}: {reason}")
                writer.add(piece.table, piece.vectors, piece.errors)
                bar.add(len(piece.table), len(piece.errors))
        except BaseException:
            writer.abandon()
            raise
        writer.finish()

    def _count(self) -> None:
        if self.ranks.rank > 0:  # the first says it of the whole folder
            self.report.total_errors = self.report.errors
            return
        counts = [counts_of(self.folder, part) for part in self.manifest.parts]
        self.report.total_rows = sum(rows for rows, _ in counts)
        self.report.total_errors = sum(errors for _, errors in counts)
        self.report.shards = len(counts)
