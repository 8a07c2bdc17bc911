"""The served descriptions match the types."""

from __future__ import annotations

import html
import re
import shlex
import subprocess
import sys

import msgspec
import pytest

from descriptions.__main__ import FOLDER, descriptions
from ptn_api.rest.pages import PLACEHOLDER_ADDRESS
from ptn_api.rest.routes import ROUTES
from ptn_api.wire.examples import HOTKEY
from tests.factories import MINER
from tests.rest.serving import serving
from tests.system.api import ROOT

PAGES = {
    "/openapi.json": "openapi.json",
    "/asyncapi.json": "asyncapi.json",
    "/docs": "docs.html",
    "/docs/stream": "stream_docs.html",
}


LOCKED = f"msgspec=={msgspec.__version__}" in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.skipif(not LOCKED, reason="another msgspec than constraints.txt's orders schemas differently")
def test_the_files_are_up_to_date() -> None:
    """After a change of a route, response or frame: `make descriptions`."""
    made = descriptions()
    assert {path.name for path in FOLDER.iterdir()} == set(made)
    assert [name for name in made if (FOLDER / name).read_bytes() != made[name]] == []


@pytest.mark.parametrize(("path", "name"), PAGES.items())
async def test_the_server_hands_out_the_files(path: str, name: str) -> None:
    """Without a key, compressed on request, with an ETag."""
    async with serving() as served:
        response = await served.get(path, None, accept_encoding="gzip")
        page = (FOLDER / name).read_text().replace(PLACEHOLDER_ADDRESS, served.url)
        assert response.text == page
        expected = "application/json" if name.endswith("json") else "text/html; charset=utf-8"
        assert response.headers["content-type"] == expected
        again = await served.get(path, None, accept_encoding="gzip", if_none_match=response.headers["etag"])
        assert again.status_code == 304


async def test_every_example_of_the_page_can_be_run() -> None:
    """As it stands, with the server's own address; only the key and the miner's hotkey are placeholders."""
    async with serving() as served:
        page = (await served.get("/docs", None)).text
        examples = [html.unescape(text) for text in re.findall(r'<pre class="run">(.*?)</pre>', page)]
        assert len(examples) == len(ROUTES)
        for example in examples:
            command, *options, url = shlex.split(example)
            assert command == "curl"
            assert url.startswith(served.url)
            key = "k200" if options[-1:] == ["Authorization: Bearer YOUR_API_KEY"] else None
            path = url.removeprefix(served.url).replace(HOTKEY, MINER)
            async with served.client.stream(
                "GET", path, headers={"Authorization": f"Bearer {key}"} if key else {}
            ) as response:
                assert response.status_code == 200, example


@pytest.mark.parametrize(
    ("host", "forwarded", "shown"),
    [
        ("api.example.com", "", "http://api.example.com"),
        ("api.example.com", "https", "https://api.example.com"),
        ("[::1]:48888", "", "http://[::1]:48888"),
        ("x.example:443", "gopher", "http://x.example:443"),
        ("a$(b)", "", PLACEHOLDER_ADDRESS),
        ("a" * 300, "", PLACEHOLDER_ADDRESS),
        ("a;reboot", "", PLACEHOLDER_ADDRESS),
    ],
)
async def test_the_page_shows_the_clients_own_address(host: str, forwarded: str, shown: str) -> None:
    """An address that could be anything but a host name is not repeated. Every form has its own ETag."""
    async with serving() as served:
        headers = {"host": host} | ({"x_forwarded_proto": forwarded} if forwarded else {})
        response = await served.get("/docs", None, **headers)
        assert f"'{shown}/miner-positions?" in html.unescape(response.text)
        packed = await served.get("/docs", None, accept_encoding="gzip", **headers)
        assert packed.text == response.text
        plain = await served.get("/docs", None)
        assert (plain.headers["etag"] == response.headers["etag"]) == (plain.text == response.text)


def test_the_server_imports_no_generator() -> None:
    """The generators are not in the wheel."""
    code = "import sys, ptn_api.rest.run; sys.exit('descriptions' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
