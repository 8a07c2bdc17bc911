"""A certificate authority for tests, with the files that servers and clients need."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import NamedTuple

import trustme


class Files(NamedTuple):
    """PEM files: the authority, the server's certificate chain and its key."""

    authority: Path
    certificate: Path
    key: Path


def certificates(folder: Path) -> Files:
    """A new authority and its certificate for localhost and 127.0.0.1; replaces earlier files."""
    folder.mkdir(exist_ok=True)
    files = Files(folder / "ca.pem", folder / "fullchain.pem", folder / "privkey.pem")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(files.authority)
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    files.key.touch(0o600)
    issued.private_key_pem.write_to_path(files.key)
    return files


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's context and a server's, which it trusts."""
    files = certificates(folder)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(files.certificate, files.key)
    return ssl.create_default_context(cafile=str(files.authority)), server
