"""The OpenAPI page works where nothing but the server can be reached."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from headless import headless_chromium
from running import Running, wait_until


class _Addresses(HTMLParser):
    """What a page loads."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_loads_everything_from_the_server(server: Running) -> None:
    page = server.raw("GET", "/docs").content.decode()
    assert "//" not in re.sub(r"<!--.*?-->|^\s*//.*$", "", page, flags=re.MULTILINE), "an external address"
    addresses = _Addresses()
    addresses.feed(page)
    assert {address.rpartition(".")[2] for address in addresses.found} == {"js", "css", "png"}
    for address in addresses.found:
        answer = server.raw("GET", address)
        assert answer.status == 200 and len(answer.content) > 1000, address
    assert '"validatorUrl": null' in page and "url: '/openapi.json'" in page
    schema = json.loads(server.raw("GET", "/openapi.json").content)
    assert set(schema["paths"]) >= {"/v1/embeddings", "/v1/models", "/health", "/metrics"}
    assert not any(path.startswith("/docs") for path in schema["paths"])


@pytest.mark.slow
def test_a_browser_shows_it_and_asks_nobody_else(server: Running) -> None:
    with headless_chromium() as browser:
        browser.get(f"{server.address}/docs")
        wait_until(lambda: "/v1/embeddings" in browser.find_element("tag name", "body").text)
        logged = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        sent = [found["params"] for found in logged if found["method"] == "Network.requestWillBeSent"]
        asked = {found["request"]["url"] for found in sent if found["request"]["url"].startswith("http")}
        assert f"{server.address}/openapi.json" in asked
        assert {url for url in asked if not url.startswith(server.address)} == set()
        assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
