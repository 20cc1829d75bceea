"""What goes wrong on the way to a server, or in its answers, ends in one clear line."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from local_model import Local
from planted_server import MODEL, Asked, serving

from llave_hf import cli
from llave_hf.errors import UserError
from llave_hf.hub.fingerprint.fingerprint import FILE
from llave_hf.serving_check.client import Client, api_key
from llave_hf.serving_check.forms import FORMS
from llave_hf.serving_check.offers import discover
from llave_hf.serving_check.probes import KINDS
from llave_hf.serving_check.reference import open_reference

Change = Callable[[str, dict[str, Any], Any], tuple[int, Any]]


def test_no_server(local: Local) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UserError, match=f"{url} cannot be reached .*; is the server running"):
        discover(Client(url), None)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000", "is no address; give http://HOST:PORT"),
        ("ftp://host", "is no address"),
        ("http://", "is no address"),
        ("http://host:no", "is no address"),
        ("http://user:word@host", "a key goes into the environment"),
        ("http://host/?key=1", "takes an address alone"),
    ],
)
def test_an_address_that_is_none(url: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Client(url)


def test_paths_of_addresses() -> None:
    assert Client("http://host:1/v1/").url == Client("http://host:1").url == "http://host:1"
    assert Client("https://host/models/v1").url == "https://host/models"


def test_the_key_comes_from_the_environment(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LLAVE_API_KEY", "OPENAI_API_KEY", "OTHER"):
        monkeypatch.delenv(name, raising=False)
    assert api_key(None) is None
    with pytest.raises(UserError, match="--api_key_env names OTHER, which is not set"):
        api_key("OTHER")
    planted = local.planted(key="secret")
    with pytest.raises(UserError, match=r"wants another API key \(HTTP 401: Unauthorized\); put it .* --api_key_env"):
        local.check(planted, ("text",))
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with pytest.raises(UserError, match="HTTP 401") as caught:
        local.check(planted, ("text",), key=api_key(None))
    assert "wrong" not in str(caught.value)
    monkeypatch.setenv("LLAVE_API_KEY", "secret")
    assert local.check(planted, ("text",), key=api_key(None)).agrees


def test_names_of_models(local: Local) -> None:
    with pytest.raises(UserError, match="serves several models \\(a, b\\); name one with --model"):
        local.check(local.planted(models=("a", "b")), ("text",))
    with pytest.raises(UserError, match="serves no model 'c' but a, b; name one"):
        local.check(local.planted(models=("a", "b")), ("text",), served="c")
    planted = local.planted(models=("a", "b"))
    assert local.check(planted, ("text",), served="b").agrees
    assert {body["model"] for _, body in planted.seen} == {"b"}
    unlisted = local.planted(models=None)
    assert local.check(unlisted, ("text",)).agrees and all("model" not in body for _, body in unlisted.seen)
    message = {"error": {"message": "The model `c` does not exist.", "code": 404}}
    with pytest.raises(UserError, match=r"does not know the model 'c' \(HTTP 404: The model `c` does not exist"):
        local.check(local.planted(models=None, change=lambda *_: (404, message)), ("text",), served="c")


def test_a_server_that_redirects_gets_no_key(local: Local) -> None:
    with pytest.raises(UserError, match=r"redirects to http://elsewhere\.invalid/: give that server's own address"):
        local.check(local.planted(change=lambda *_: (307, b"")), ("text",), key="secret")


def nan(answer: Any) -> Any:
    answer["data"][0]["embedding"][3] = float("nan")
    return answer


def renumbered(*numbers: Any) -> Callable[[Any], Any]:
    def change(answer: Any) -> Any:
        return {"data": [{**entry, "index": n} for entry, n in zip(answer["data"], numbers, strict=True)]}

    return change


def embeddings(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda answer: {"data": [{**one, "embedding": change(one["embedding"])} for one in answer["data"]]}


BROKEN: dict[str, Callable[[Any], Any]] = {
    "the answer is no JSON but begins '<html><body>Welcome'": lambda _: b"<html><body>Welcome",
    "the answer has no list `data` of objects, as OpenAI's has: {'vectors': []}": lambda _: {"vectors": []},
    "the answer has no list `data` of objects, as OpenAI's has: [1]": lambda _: [1],
    "2 vectors for 3 inputs": lambda answer: {"data": answer["data"][:2]},
    "`index` of the 3 vectors is [0, 0, 1], where each number below 3 must be once": renumbered(0, 0, 1),
    "`index` of the 3 vectors is [None, 1, 2], where each number below 3 must be once": renumbered(None, 1, 2),
    "vector 0 holds NaN or infinity (or null)": nan,
    "vector 0 is no list of numbers: None": embeddings(lambda _: None),
    "vector 0 is no list of numbers: []": embeddings(lambda _: []),
    "vector 0 is no list of numbers: !": embeddings(lambda _: "!"),
    "vector 0 is no list of numbers: [[1.0]]": embeddings(lambda _: [[1.0]]),
    "the vector has 48 numbers, and the model's have 24": embeddings(lambda vector: vector * 2),
    "a vector is all zeros": embeddings(lambda vector: [0.0] * len(vector)),
}


@pytest.mark.parametrize("message", BROKEN)
def test_broken_answers(message: str, local: Local) -> None:
    planted = local.planted(change=lambda path, body, answer: (200, BROKEN[message](answer)))
    report = local.check(planted, ("text",), ("input-list",))
    assert not report.agrees and f"FAILED: {message}" in report.lines
    assert [outcome.verdict for outcome in report.asked.outcomes] == ["failed"] * 3
    assert report.lines[-1].endswith("OFF: input-list")


def test_vectors_of_different_widths(local: Local) -> None:
    def change(path: str, body: Any, answer: Any) -> tuple[int, Any]:
        answer["data"][1]["embedding"].pop()
        return 200, answer

    report = local.check(local.planted(change=change), ("text",), ("input-list",))
    assert "FAILED: vectors of different widths: 23, 24" in report.lines


@pytest.mark.parametrize(("status", "count"), [(500, 1), (503, 4), (429, 4)])
def test_a_server_that_fails_or_is_busy(
    status: int, count: int, local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr("llave_hf.serving_check.client.time.sleep", waited.append)
    planted = local.planted(change=lambda *_: (status, {"detail": "out of\n memory"}))
    report = local.check(planted, ("text",), ("input-list",))
    assert f"FAILED: HTTP {status}: out of memory" in report.lines and not report.agrees
    assert len(planted.seen) == count and waited == [1.0, 2.0, 4.0][: count - 1]


def test_a_server_that_is_busy_for_a_while(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llave_hf.serving_check.client.time.sleep", lambda _: None)
    answers = iter([429, 503, 200])
    planted = local.planted(change=lambda path, body, answer: (next(answers), answer))
    assert local.check(planted, ("text",), ("input-list",)).agrees


def test_a_server_that_does_not_answer_in_time(local: Local) -> None:
    def slow(asked: Asked) -> np.ndarray:
        time.sleep(1.0)
        return local.right(asked)

    report = local.check(local.planted(slow), ("text",), ("input-list",), timeout=0.2)
    assert "FAILED: no answer within 0.2 seconds (--timeout)" in report.lines
    with pytest.raises(UserError, match=r"gave no answer within 0.2 seconds .*, 3 times in a row"):
        local.check(local.planted(slow), ("text",), ("input",), timeout=0.2)


def test_forms_that_are_not_offered_are_no_failure(local: Local) -> None:
    def input_only(path: str, body: dict[str, Any], answer: Any) -> tuple[int, Any]:
        if "messages" in body:
            fault = {"loc": ["body", "input"], "msg": "Field required"}
            return 422, {"detail": [fault]}
        return 200, answer

    planted = local.planted(change=input_only, paths=("/v1/embeddings", "/v1/models"))
    report = local.check(planted, ("text", "marks"), tuple(FORMS))
    missing = {"messages", "v2-texts", "v2-texts-typed", "v2-inputs"}  # no picture was sent, so no v2-images
    assert report.agrees and set(report.asked.not_offered) == missing
    assert report.asked.not_offered["messages"] == "HTTP 422: body.input: Field required"
    assert report.asked.not_offered["v2-texts"] == "its openapi.json has no /v2/embed"
    assert not [path for path, _ in planted.seen if path == "/v2/embed"]
    with pytest.raises(UserError, match=r"offers none of the request forms .*is it an embedding server"):
        local.check(local.planted(change=lambda *_: (404, {"detail": "Not Found"})), ("text",), tuple(FORMS))


def test_forms_of_cohere(local: Local) -> None:
    forms = ("v2-texts", "v2-texts-typed", "v2-inputs", "v2-images")
    planted = local.planted()
    report = local.check(planted, [kind for kind in KINDS if kind != "clip"], forms)
    assert report.agrees and {outcome.form.name for outcome in report.asked.outcomes} == set(forms)
    types = {body.get("input_type") for path, body in planted.seen}
    assert types == {None, "query", "classification_query"}  # none, an empty one, and the instruction


def test_unknown_forms_and_kinds(local: Local) -> None:
    with pytest.raises(UserError, match="--forms has no 'chat'; choose from input, input-list"):
        local.check(local.planted(), ("text",), ("chat",))


def test_a_folder_that_is_not_what_it_was(local: Local, tmp_path: Path) -> None:
    for file in local.folder.iterdir():
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    fingerprint = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))
    fingerprint["samples"]["text"]["vector"][0] += 0.5
    (tmp_path / FILE).write_text(json.dumps(fingerprint), encoding="utf-8")
    other = Local(tmp_path, local.model, local.processor, open_reference(tmp_path, "float32", "cpu"))
    with pytest.raises(
        UserError, match=r"does not give the vectors of its own fingerprint.json here \('text' differs"
    ):
        other.check(local.planted(), ("text",))


# ------------------------------------------------------------------------------------------------------- the command


def test_the_command(local: Local, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["verify", str(local.folder), "--forms", "messages", "input", "--skip", *KINDS]
    words = [word for word in words if word not in ("text", "marks")]
    with serving(local.planted()) as url:
        cli.main([*words, "--url", url, "--json", str(tmp_path / "new" / "report.json")])
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith(f"{url}, model {MODEL}, beside {local.folder} (float32, cpu): vectors of 24 numbers")
    assert printed[-2] == "right: input, messages" and printed[-1].startswith("Written to ")
    report = json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8"))
    assert report["agrees"] and report["tolerance"] == 1e-7 and set(report["forms"]) == {"input", "messages"}
    assert len(report["forms"]["messages"]["inputs"]) == 6
    assert all(entry["verdict"] == "right" for entry in report["forms"]["messages"]["inputs"])


def test_the_command_ends_with_1_where_something_is_off(
    local: Local, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    words = ["--forms", "input-list", "--skip", *(kind for kind in KINDS if kind != "text"), "--json", str(file)]
    with (
        serving(local.planted(finish=lambda vector, _: vector)) as url,
        pytest.raises(SystemExit) as ended,
    ):
        cli.main(["verify", str(local.folder), "--url", url, *words])
    assert ended.value.code == 1 and "OFF: not normalised" in capsys.readouterr().out
    report = json.loads(file.read_text(encoding="utf-8"))
    assert not report["agrees"]
    causes = [entry["cause"]["fault"] for entry in report["forms"]["input-list"]["inputs"]]
    assert causes == ["not normalised"] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--forms", "input"], "--forms needs --url"),
        (["--model", "name"], "--model needs --url"),
        (["--url", "http://127.0.0.1:9", "--backend", "auto"], "--backend has no meaning with --url"),
        (["--url", "http://127.0.0.1:9", "--forms", "chat"], "--forms has no 'chat'"),
        (["--url", "http://127.0.0.1:9"], "cannot be reached"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str], message: str, local: Local, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LLAVE_DEBUG", raising=False)
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", str(local.folder), *words])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.count("\n") == 1 and message in error


def test_the_last_line_says_what_each_form_is_good_for(local: Local) -> None:
    def embed(asked: Asked) -> np.ndarray:
        if asked.form == "texts" or "<" in asked.text:
            return local.right(Asked("something else"))
        return local.right(asked)

    report = local.check(local.planted(embed), ("text", "marks"), ("input", "input-base64", "v2-texts"))
    assert report.lines[-1] == "right: input-base64; right in part: input (off: literal marks); OFF: v2-texts"


def test_a_connection_that_breaks_off(local: Local) -> None:
    def embed(asked: Asked) -> np.ndarray:
        if asked.text.startswith("Count"):
            raise ConnectionAbortedError
        return local.right(asked)

    report = local.check(local.planted(embed), ("text",), ("input",))
    assert any(line.startswith("FAILED: the connection broke off (RemoteDisconnected") for line in report.lines)
    assert [outcome.verdict for outcome in report.asked.outcomes] == ["right", "failed", "right"]
