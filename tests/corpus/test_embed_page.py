"""What model_cards/embed.md shows: faiss and LanceDB read the vectors, by the page's own lines."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from helpers import picture

from llave_hf import cli

pytest.importorskip("lancedb", reason="pip install 'llave-hf[search]'")
pytest.importorskip("faiss", reason="pip install faiss-cpu")
PAGE = Path(__file__).parents[2] / "model_cards" / "embed.md"


def test_faiss_and_lancedb_read_the_vectors(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quickstart" / "album").mkdir(parents=True)
    for number in range(5):
        picture(seed=number).save(tmp_path / "quickstart" / "album" / f"{number}.png")
    (tmp_path / "quickstart" / "album" / "broken.png").write_bytes(b"none")
    (tmp_path / "quickstart" / "model").symlink_to(model)
    monkeypatch.chdir(tmp_path)
    page = PAGE.read_text(encoding="utf-8")
    (command,) = re.findall(r"```bash\nllave (embed quickstart/album .*?)  +#", page)
    cli.main(command.split())
    snippets = [code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "quickstart/vectors" in code]
    assert len(snippets) == 2
    for snippet in snippets:
        capsys.readouterr()
        exec(compile(snippet, "embed.md", "exec"), {})
        found = eval(capsys.readouterr().out)
        assert found[0] == "0.png" and len(found) == len(set(found)) == 3 and "broken.png" not in found
