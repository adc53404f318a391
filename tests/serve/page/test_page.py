"""The page's files as they go out: headers, policy, nothing from elsewhere, and colours that can be read."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from vesalius.serve.page.page import STATIC, add_page

FILES = sorted(path.name for path in STATIC.iterdir())
ADDRESSES = ["/", *(f"/page/{name}" for name in FILES if name != "index.html")]


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    add_page(app)
    return TestClient(app)


def policy(client: TestClient) -> dict[str, str]:
    directives = client.get("/").headers["Content-Security-Policy"].split("; ")
    return dict(directive.split(" ", 1) for directive in directives)


def test_policy_allows_this_server_and_nothing_else(client: TestClient) -> None:
    assert policy(client) == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "connect-src": "'self'",
        "img-src": "'self' data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_file_goes_out_guarded_and_with_its_type(client: TestClient, address: str) -> None:
    response = client.get(address)
    suffix = Path(address).suffix
    types = {"": "text/html", ".css": "text/css", ".js": "text/javascript"}
    assert response.status_code == 200
    assert response.headers["Content-Type"] == f"{types[suffix]}; charset=utf-8"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Referrer-Policy"] == "no-referrer"
    assert response.headers["Cache-Control"] == "no-cache"
    assert "default-src 'none'" in response.headers["Content-Security-Policy"]


def test_known_version_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/page/app.js")
    again = client.get("/page/app.js", headers={"If-None-Match": f'"other", W/{first.headers["ETag"]}'})
    other = client.get("/page/app.js", headers={"If-None-Match": client.get("/").headers["ETag"]})
    assert again.status_code == 304
    assert again.content == b""
    assert again.headers["ETag"] == first.headers["ETag"]
    assert other.status_code == 200


def test_head_is_answered_without_the_file(client: TestClient) -> None:
    response = client.head("/")
    assert response.status_code == 200
    assert response.content == b""
    assert int(response.headers["Content-Length"]) == len(client.get("/").content)


@pytest.mark.parametrize("name", ["nothing.js", "index.html", "..%2Fpage.py", "%2e%2e/page.py", "page.py"])
def test_no_other_file_goes_out(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_page_is_no_part_of_the_api_description(client: TestClient) -> None:
    assert client.get("/openapi.json").json()["paths"] == {}


def test_page_names_only_files_that_exist(client: TestClient) -> None:
    named = re.findall(r'(?:href|src)="(?!#|data:)([^"]+)"', client.get("/").text)
    assert len(named) > 6
    assert all(client.get(f"/{name}").status_code == 200 for name in named)
    scripts = [path.read_text("utf-8") for path in STATIC.glob("*.js")]
    imported = {name for script in scripts for name in re.findall(r'(?:from|import\()\s*"\./([^"]+)"', script)}
    assert imported <= set(FILES)
    assert {path.name for path in STATIC.glob("*.js")} == imported | {"app.js", "early.js"}


@pytest.mark.parametrize("name", FILES)
def test_files_ask_nobody_else_and_make_nothing_from_text(name: str) -> None:
    text = (STATIC / name).read_text("utf-8")
    bare = text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert re.findall(r"https?://[a-z0-9]|url\(|@import|//cdn", bare) == []
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\sstyle=|\son\w+=\""
    assert re.findall(forbidden, text) == []


def colours() -> dict[str, tuple[str, str]]:
    found = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", (STATIC / "base.css").read_text("utf-8"))
    return {name: (light, dark) for name, light, dark in found}


def channels(colour: str) -> list[float]:
    return [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]


def over(colour: str, share: float, ground: str) -> list[float]:
    """`colour` mixed with so much transparency, lying on `ground`."""
    return [share * c + (1 - share) * g for c, g in zip(channels(colour), channels(ground), strict=True)]


def luminance(rgb: list[float]) -> float:
    """WCAG 2.2, relative luminance."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: list[float], other: list[float]) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast(channels("#000000"), channels("#ffffff")) == pytest.approx(21)
    assert contrast(channels("#777777"), channels("#ffffff")) == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("ground", ["paper", "raised"])
@pytest.mark.parametrize("letters", ["ink", "muted", "accent"])
def test_letters_reach_aa(theme: int, ground: str, letters: str) -> None:
    assert contrast(channels(colours()[letters][theme]), channels(colours()[ground][theme])) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_edges_of_fields_and_the_button_reach_aa(theme: int) -> None:
    palette = {name: channels(pair[theme]) for name, pair in colours().items()}
    assert contrast(palette["edge"], palette["paper"]) >= 3
    assert contrast(palette["edge"], palette["raised"]) >= 3
    assert contrast(palette["paper"], palette["accent"]) >= 4.5


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_letters_on_shaded_tokens_reach_aa(theme: int) -> None:
    style = (STATIC / "dissection.css").read_text("utf-8")
    depths = [int(depth) / 100 for depth in re.findall(r"--depth: (\d+)%", style)]
    palette = {name: pair[theme] for name, pair in colours().items()}
    assert len(depths) == 5
    for depth in depths:
        assert contrast(channels(palette["ink"]), over(palette["accent"], depth, palette["paper"])) >= 4.5
    special = over(palette["accent"], 0.12, palette["raised"])  # dialogs.css, special tokens of a prompt
    assert contrast(channels(palette["accent"]), special) >= 4.5
