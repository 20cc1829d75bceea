"""What model_cards/serve.md says of serving: its requests are answered, and its numbers are the defaults."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from helpers import picture
from running import running

from llave_hf.cli import build_parser
from llave_hf.serving.fetch import MAX_REDIRECTS, SECONDS
from llave_hf.serving.limits import BODIES_AT_ONCE, CLIP_TIMES_PIXELS, Limits, parse_size
from llave_hf.serving.server import HEAD

PAGE = (Path(__file__).parents[2] / "model_cards" / "serve.md").read_text(encoding="utf-8")
SECTION = PAGE[PAGE.index("## Serve it yourself") :].partition("\n## ")[0]
ADDRESS = "http://127.0.0.1:8000"


def test_its_requests_are_answered(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    picture().save(tmp_path / "dog.jpg")
    monkeypatch.chdir(tmp_path)
    (path, kind, body) = re.findall(rf"curl {ADDRESS}(\S+) -H '([^']+)' \\\n  -d '([^']+)'", SECTION)[0]
    (snippet,) = re.findall(r"^```python\n(.*?)^```", SECTION, re.DOTALL | re.MULTILINE)
    with running(folder, name="quickstart/model") as server:
        name, _, value = kind.partition(": ")
        asked = json.loads(body) | {"dimensions": 16}  # the tiny model has no 64
        answer = server.raw("POST", path, json.dumps(asked).encode(), **{name: value})
        assert answer.status == 200 and len(json.loads(answer.content)["data"]) == len(asked["input"])
        assert snippet.count(ADDRESS) == 1
        exec(compile(snippet.replace(ADDRESS, server.address), "serve.md", "exec"), {})
    assert re.fullmatch(r"24 24 \d+\n", capsys.readouterr().out)


def test_its_limits_are_the_defaults() -> None:
    limits = Limits()
    rows = re.findall(r"^\|([^|]+)\|([^|]+)\|([^|]*)\| \d{3}", SECTION, re.MULTILINE)
    said = {re.split("[,;]", what)[0].strip(): default.strip() for what, default, _ in rows}
    assert said == {
        "bytes of a request": f"{limits.body >> 20} MiB",
        "inputs of a request": str(limits.inputs),
        "tokens of an input": "the model's `max_length`",
        "pictures of an input": str(limits.pictures),
        "pixels of an input's pictures": f"{limits.pixels:,}",
        "pixels of all frames of a video's file": f"{CLIP_TIMES_PIXELS} times that",
        "inputs that wait": str(limits.queue),
        "bytes of all requests under way": f"{BODIES_AT_ONCE} bodies",
        "bytes of a request's head": f"{HEAD >> 10} KiB",
        "seconds for a body to arrive": f"{limits.body_seconds:g}",
        "a fetch: bytes": f"a body, {SECONDS:g}, {MAX_REDIRECTS}",
    }
    defaults = vars(build_parser().parse_args(["serve", "M"]))
    names = {name: f"max_{name}" for name in ("inputs", "pictures", "pixels", "queue")}
    assert {name: defaults[option] for name, option in names.items()} == {
        name: getattr(limits, name) for name in names
    }
    assert parse_size(defaults["max_body"]) == limits.body
    options = {option for _, _, option in rows if option.strip()}
    assert {option.strip("` ").removeprefix("--") for option in options} == {*names.values(), "max_body"}
