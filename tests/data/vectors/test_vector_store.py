from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers import picture

from llave_hf.data.samples import Sample
from llave_hf.data.vectors.content_digests import ContentDigests
from llave_hf.data.vectors.store import VectorStore
from llave_hf.errors import UserError


def keys(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**63, size=(count, 2), dtype=np.uint64)


def read(store: VectorStore, places: np.ndarray) -> np.ndarray:
    found = np.full((len(places), 3), np.nan, dtype=np.float32)
    for positions, vectors in store.read(places):
        found[positions] = vectors
    return found


def test_vectors_are_found_by_key_over_pieces_and_later_ones_after_refresh(tmp_path: Path) -> None:
    known, vectors = keys(50), np.random.default_rng(1).standard_normal((50, 3)).astype(np.float32)
    store = VectorStore(tmp_path / "cache", "model")
    assert store.find(known).tolist() == [-1] * 50
    for start in range(0, 50, 20):
        VectorStore(tmp_path / "cache", "model").add(known[start : start + 20], vectors[start : start + 20])
    assert store.find(known).tolist() == [-1] * 50
    store.refresh()
    order = np.random.default_rng(2).permutation(50)
    before = store.find(known)
    np.testing.assert_array_equal(read(store, store.find(known[order])), vectors[order])
    store.add(keys(4, seed=9), np.ones((4, 3), dtype=np.float32))
    store.refresh()
    assert len(store) == 54
    np.testing.assert_array_equal(store.find(known), before)
    np.testing.assert_array_equal(read(store, store.find(known)), vectors)


def test_another_model_and_another_key_with_the_same_half_find_nothing(tmp_path: Path) -> None:
    known = keys(3)
    VectorStore(tmp_path, "model").add(known, np.ones((3, 3), dtype=np.float32))
    assert VectorStore(tmp_path, "other model").find(known).tolist() == [-1] * 3
    half = known + np.array([0, 1], dtype=np.uint64)
    assert VectorStore(tmp_path, "model").find(half).tolist() == [-1] * 3


def test_broken_piece_is_named_and_unfinished_ones_are_not_read(tmp_path: Path) -> None:
    store = VectorStore(tmp_path, "model")
    store.add(keys(3), np.ones((3, 3), dtype=np.float32))
    (piece,) = tmp_path.iterdir()
    (tmp_path / f"{piece.stem[:16]}-half.12.tmp").write_bytes(b"begun")
    assert len(VectorStore(tmp_path, "model")) == 3
    piece.write_bytes(piece.read_bytes()[:40])
    with pytest.raises(UserError, match=rf"{piece.name} cannot be read as cached vectors.*Delete the file"):
        VectorStore(tmp_path, "model")


def test_keys_are_of_content(tmp_path: Path) -> None:
    for folder in ("a", "b", "other"):
        (tmp_path / folder / "clip").mkdir(parents=True)
        for name in ("p.png", "clip/0.png", "clip/1.png"):
            picture(seed=int(folder == "other")).save(tmp_path / folder / name)
    digests = ContentDigests("8 frames")

    def key(*arguments: object, root: str = "a", of: ContentDigests = digests) -> tuple[int, ...]:
        return tuple(of.keys([Sample(*arguments, media_root=str(tmp_path / root))])[0].tolist())  # type: ignore[arg-type]

    samples = [("text",), ("", ("p.png",)), ("text", ("p.png",)), ("", (), "clip"), ("text", ("p.png", "p.png"))]
    assert len({key(*sample) for sample in samples}) == len(samples)
    for sample in samples:
        assert key(*sample) == key(*sample, root="b")
        assert (key(*sample) == key(*sample, root="other")) == (sample == ("text",))
    assert key("", (), "clip") != key("", (), "clip", of=ContentDigests("16 frames"))
    (tmp_path / "b" / "clip" / "1.png").rename(tmp_path / "b" / "clip" / "2.png")
    assert key("", (), "clip") != key("", (), "clip", root="b", of=ContentDigests("8 frames"))
