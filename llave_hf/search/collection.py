"""A collection: folders that were indexed, and the search in them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llave_hf.corpus.manifest import Manifest
from llave_hf.encoding.prompts import check_prompts, default_prompts, query_input
from llave_hf.errors import UserError
from llave_hf.model.media_llave import load_image
from llave_hf.runtime.places import check_possible_folder

from .embedder import Embedder
from .filters import Moment, condition
from .indexing import Indexer, IndexReport
from .store import Store
from .vectors import add_vectors

FOLDER_NAME = ".llave_index"  # of a folder's collection, inside it
ANN_FROM = 100_000  # rows


@dataclass(frozen=True)
class Hit:
    """Something that was found.

    Attributes:
        path: The file.
        name: Its path within its indexed folder.
        kind: `text`, `image` or `video`.
        score: Cosine of query and document.
        modified: When the file was last changed, as it was indexed.
        text, start, end: Of a passage: what it says and where it stands in the file, in characters.
    """

    path: Path
    name: str
    kind: str
    score: float
    modified: datetime
    text: str | None = None
    start: int | None = None
    end: int | None = None

    @property
    def is_there(self) -> bool:
        """Whether the file is still where it was, or the file of rows that `rows.parquet#17` stands in."""
        return self.path.is_file() or Path(str(self.path).rpartition("#")[0]).is_file()


class Collection:
    """Vectors of the files of one or several folders; see [`open`][Collection.open]."""

    def __init__(self, store: Store, model: Any, dtype: str | None = None) -> None:
        self.store = store
        self._model = model
        self._dtype = dtype

    @classmethod
    def open(
        cls,
        uri: str | os.PathLike[str],
        model: Any = None,
        *,
        dtype: str | None = None,
        prompts: Mapping[str, str] | None = None,
        rebuild: bool = False,
        create: bool = True,
    ) -> Collection:
        """A collection, made where there is none.

        Args:
            uri: A folder, a folder with a collection in its `.llave_index`, or an address such as `s3://bucket/name`.
            model: A folder, Hub id or encoder. None: what the collection was made with.
            dtype: What the model computes in; None: see [`load_encoder`].
            prompts: Of a new collection, what to change of the model's instructions: `{"query": "Find: {text}"}`.
            rebuild: Start anew, with another model or other prompts.
            create: Whether one may be made.

        Raises:
            UserError: There is no collection and none may be made, or no model to make it with; or it was made with
                another model or other prompts.
        """
        place, makes = _place(uri), create and model is not None
        missing = UserError(
            f"there is no collection at {place}; make one: llave index FOLDER --model MODEL, which says "
            "first how long it will take."
        )
        if not makes and "://" not in place and not os.path.isdir(place):
            raise missing  # LanceDB would make the folder
        store = Store(place)
        if store.exists and not rebuild:
            collection = cls(store, model, dtype)
            collection._check_prompts(prompts)
            if model is not None and not collection._is_recorded(model):
                _ = collection.embedder  # another name is looked into at once, the same when it is used
            return collection
        if not makes:
            raise missing
        embedder = Embedder(model, dtype)
        probe = embedder.probe()
        chosen = {**default_prompts(embedder.encoder), **check_prompts(prompts or {})}
        settings = {"model": embedder.name, "prompts": chosen, "probe": probe.tolist()}
        with store.writing():
            store.create(settings, dimension=probe.shape[1])
        collection = cls(store, model, dtype)
        collection.embedder = embedder
        return collection

    def add(
        self,
        folder: str | os.PathLike[str],
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        ann_from: int = ANN_FROM,
        progress: bool = False,
    ) -> IndexReport:
        """Brings the collection up to date with a folder: afterwards it holds what is there and nothing else of it.

        Files of the same size and time are taken for unchanged. Of the others those with a known content keep its
        vector, wherever it lay; the rest is encoded. A stopped run goes on where it stopped.

        Args:
            folder: Its texts (.txt, .md), pictures and videos are taken, at every depth.
            include, exclude: Globs; see [`list_files`].
            ann_from: Rows from which on searches use an approximate index.
            progress: Show a bar with the remaining time.

        Raises:
            UserError: The folder is none, or another process writes to the collection.
        """
        root = Path(folder).absolute()
        with self.store.writing():
            indexer = Indexer(self.store, lambda: self.embedder, root, self._stored(root), progress)
            return indexer.run(include, exclude, ann_from)

    def add_vectors(
        self, folder: str | os.PathLike[str], manifest: Manifest, *, ann_from: int = ANN_FROM
    ) -> IndexReport:
        """Takes in a folder of vectors that `llave embed` wrote; see [`vectors_manifest`] and [`add_vectors`].

        Raises:
            UserError: The collection is another model's, or another process writes to it.
        """
        _ = self.embedder  # compares its vectors of fixed inputs with the collection's
        with self.store.writing():
            return add_vectors(self.store, Path(folder).absolute(), manifest, ann_from)

    def search(
        self,
        text: str | None = None,
        image: str | os.PathLike[str] | Image.Image | None = None,
        *,
        k: int = 10,
        kind: str | Iterable[str] | None = None,
        folder: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        exact: bool = False,
        progress: bool = False,
    ) -> list[Hit]:
        """The `k` nearest to a text, a picture, or a picture with a text, best first.

        Args:
            text, image: One of them or both.
            k: How many.
            kind, folder, since, until: Only those; see [`condition`].
            exact: Compare with every vector, whatever index there is.
            progress: Show a bar where the query takes long; not from several threads at once.

        Raises:
            UserError: Nothing is asked, or a filter is wrong. [`MediaError`]: the picture cannot be used.
        """
        if not (text and text.strip()) and image is None:
            raise UserError("nothing is asked; give a text, an image, or both.")
        if k < 1:
            raise UserError(f"k is {k}; ask for at least 1.")
        where = condition([kind] if isinstance(kind, str) else kind, folder, since, until)
        picture = None if image is None else load_image(image)
        vector = self.embedder.vectors([query_input(self.prompts, text, picture)], progress=progress)[0]
        return [self._hit(row) for row in self.store.nearest(vector, k, where, exact)]

    @cached_property
    def embedder(self) -> Embedder:
        """The model; loaded when it is first needed.

        Raises:
            UserError: It is another than that of the collection.
        """
        embedder = Embedder(self.model_name if self._model is None else self._model, self._dtype)
        recorded = np.asarray(self.store.settings["probe"], dtype=np.float32)
        embedder.expect(recorded, self.model_name, self.uri)
        return embedder

    @property
    def model_name(self) -> str:
        """The folder or Hub id that the collection was made with."""
        name = self.store.settings["model"]
        beside = os.path.join(self.uri, name)  # a Space has its model beside the collection
        return os.path.normpath(beside) if os.path.isdir(beside) else name

    @property
    def prompts(self) -> dict[str, str]:
        return self.store.settings["prompts"]

    @property
    def uri(self) -> str:
        return self.store.uri

    def counts(self) -> dict[str, int]:
        """How many pictures, videos and passages there are, by kind."""
        return self.store.counts("kind")

    def folders(self) -> list[str]:
        """The topmost folders that hold files, within the indexed ones."""
        paths = self.store.read(["path"])["path"].to_pylist()
        return sorted({path.partition("/")[0] for path in paths if "/" in path})

    def files(self) -> dict[str, list[str]]:
        """The paths of all files, by indexed folder as the tables name it; see [`resolve`][Collection.resolve]."""
        found: dict[str, set[str]] = {}
        for row in self.store.read(["root", "path"]).to_pylist():
            found.setdefault(row["root"], set()).add(row["path"])
        return {root: sorted(paths) for root, paths in sorted(found.items())}

    def resolve(self, root: str) -> Path:
        """The folder that the tables name `root`."""
        return Path(os.path.normpath(os.path.join(self.uri, root))) if self.store.is_local else Path(root)

    def _stored(self, root: Path) -> str:
        """Relative where the collection lies inside the folder, so that they can be moved together."""
        if self.store.is_local and Path(self.uri).is_relative_to(root):
            return os.path.relpath(root, self.uri)
        return str(root)

    def _hit(self, row: Mapping[str, Any]) -> Hit:
        score = float(np.clip(1 - row["_distance"], -1, 1))
        modified = datetime.fromtimestamp(row["modified"] / 1e9).astimezone()
        path, place = self.resolve(row["root"]) / row["path"], {name: row[name] for name in ("text", "start", "end")}
        return Hit(path, row["path"], row["kind"], score, modified, **place)

    def _is_recorded(self, model: Any) -> bool:
        return isinstance(model, (str, os.PathLike)) and self.model_name in (os.fspath(model), os.path.abspath(model))

    def _check_prompts(self, prompts: Mapping[str, str] | None) -> None:
        for name, prompt in check_prompts(prompts or {}).items():
            if self.prompts[name] != prompt:
                raise UserError(
                    f"{self.uri} was made with the prompt {name}={self.prompts[name]!r}, not {prompt!r}; leave it "
                    "out, or make the collection anew with --rebuild."
                )


def _place(uri: str | os.PathLike[str]) -> str:
    name = os.fspath(uri)
    if "://" in name:
        return name
    path = Path(name).absolute()
    check_possible_folder(path, "The collection")
    inner = path / FOLDER_NAME
    return str(inner if inner.is_dir() else path)
