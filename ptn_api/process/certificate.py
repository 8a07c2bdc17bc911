"""The servers' TLS certificate: loaded, checked, and reloaded without a restart."""

from __future__ import annotations

import ssl
from pathlib import Path

from ptn_api.errors import SettingsError

__all__ = ["Certificate"]


class Certificate:
    """A certificate chain and its key, from PEM files. Raises SettingsError if they cannot be used.

    `context` is for listening sockets and stays the same; new connections get the latest certificate.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._stamp = self._look()
        self.context = self._current = _load(certificate, key)

        def use_latest(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self._current

        # OpenSSL calls this at every handshake, also without a server name from the client.
        self.context.sni_callback = use_latest

    def refresh(self) -> bool:
        """Reloads the files if they changed; returns whether they did.

        Raises SettingsError, once per change, for files that cannot be used, and keeps the last good ones.
        """
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        self._current = _load(*self._files)
        return True

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_stamp(file) for file in self._files]


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])

    def refuse_passphrase() -> str:
        raise SettingsError("--tls-key is encrypted: give a key without a passphrase")

    for flag, file in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            file.open("rb").close()
        except OSError as error:
            raise SettingsError(f"{flag} {str(file)!r} cannot be read: {error.strerror}") from None
    try:
        context.load_cert_chain(certificate, key, password=refuse_passphrase)
    except ssl.SSLError as error:
        reason = (error.reason or str(error)).lower().replace("_", " ")
        raise SettingsError(
            f"--tls-cert and --tls-key are not a PEM certificate chain and its key: {reason}"
        ) from None
    return context
