"""The served descriptions match the types."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from descriptions.__main__ import FOLDER, descriptions
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
        assert response.content == (FOLDER / name).read_bytes()
        expected = "application/json" if name.endswith("json") else "text/html; charset=utf-8"
        assert response.headers["content-type"] == expected
        again = await served.get(path, None, accept_encoding="gzip", if_none_match=response.headers["etag"])
        assert again.status_code == 304


def test_the_server_imports_no_generator() -> None:
    """The generators are not in the wheel."""
    code = "import sys, ptn_api.rest.run; sys.exit('descriptions' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
