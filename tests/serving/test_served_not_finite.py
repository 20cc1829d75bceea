"""An input of which the model makes no numbers fails alone: what shares its batch has its vectors."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import openai
import pytest
from helpers import spoil, tiny_model
from running import gated, running, wait_until

from llave_hf import LlaveSentenceTransformer
from llave_hf.encoding.lean_decoding import LeanDecoding


def test_requests_of_the_same_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts of unlike lengths are packed into one sequence there, in which 0 times no number is no number."""
    model, processor = tiny_model()
    spoil(model, processor, "z")
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    packed: list[int] = []
    run = LeanDecoding._run

    def noted(self: LeanDecoding, rows: list, **ways: bool) -> object:  # type: ignore[type-arg]
        packed.extend([len(rows)] * ways.get("packs", False))
        return run(self, rows, **ways)

    monkeypatch.setattr(LeanDecoding, "_run", noted)
    texts = ["a dog", "a dog in the snow near an old house, and so on " * 4, "a zoo", "the red circle " * 9, "a cat"]
    with running(tmp_path) as server, ThreadPoolExecutor(8) as pool:
        with gated(server) as gate:
            first = pool.submit(server.embed, input="first")
            assert gate.reached.wait(30)
            others = [pool.submit(server.embed, input=text) for text in texts]
            wait_until(lambda: len(server.state.batcher._ready) == len(texts))
        assert np.isfinite(first.result()).all()
        with pytest.raises(openai.InternalServerError, match="not finite"):
            others[2].result()
        found = np.concatenate([others[place].result() for place in (0, 1, 3, 4)])
    assert 5 in packed
    wanted = LlaveSentenceTransformer(str(tmp_path), device="cpu").encode([texts[place] for place in (0, 1, 3, 4)])
    assert np.abs(found - wanted).max() < 1e-5
