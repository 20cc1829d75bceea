from __future__ import annotations

from pathlib import Path

import pytest

from llave_hf.data.pairs import load_pairs


def test_one_source_may_be_read_twice_under_two_names(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": "cat", "b": "dog"}\n')
    entry = {"path": str(tmp_path / "rows.jsonl"), "query": "{a}", "positive": "{b}"}
    back = {**entry, "query": "{b}", "positive": "{a}", "name": "back"}
    pairs = load_pairs([{**entry, "name": "there"}, back])
    assert [source.name for source in pairs.sources] == ["there", "back"]
    assert [pairs[row].query.text for row in range(2)] == ["cat", "dog"]
    assert pairs[1].source == "back"
    with pytest.raises(ValueError, match=r"'there' twice; .* give the entries a `name` each"):
        load_pairs([{**entry, "name": "there"}] * 2)
