"""The servers' TLS certificate: loaded, checked, and reloaded without a restart."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

from ptn_api.errors import SettingsError
from ptn_api.file_version import is_settled, version_of

__all__ = ["Certificate"]


class Certificate:
    """A certificate chain and its key, from PEM files. Raises SettingsError if they cannot be used.

    `context` is for listening sockets and stays the same; new connections get the latest certificate.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self._files = (certificate, key)
        self._versions = self._current_versions()
        self.context = self._current = _load(certificate, key)

        def use_latest(connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
            connection.context = self._current

        # OpenSSL calls this at every handshake, also without a server name from the client.
        self.context.sni_callback = use_latest

    def refresh(self) -> bool:
        """Reloads the files if they changed; returns whether they did.

        Files that have changed just now, and may be changing still, are left to the next call. Raises
        SettingsError, once per change, for files that cannot be used, and keeps the last good ones.
        """
        versions = self._current_versions()
        if versions is None or versions == self._versions:
            return False
        self._versions = versions
        self._current = _load(*self._files)
        return True

    def _current_versions(self) -> list[str] | None:
        """Returns the files' versions, empty for a missing file; None until all of them are settled."""
        versions = []
        for file in self._files:
            try:
                status = file.stat()
            except OSError:
                versions.append("")
                continue
            if not is_settled(status.st_ctime_ns):
                return None
            versions.append(version_of(status))
        return versions


def _load(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["http/1.1"])

    def refuse_passphrase() -> str:
        raise SettingsError("--tls-key is encrypted: give a key without a passphrase")

    for flag, file in (("--tls-cert", certificate), ("--tls-key", key)):
        try:
            # Non-blocking: opening a FIFO must not block the server.
            descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
            try:
                is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
            finally:
                os.close(descriptor)
            if not is_file:
                raise SettingsError(f"{flag} {str(file)!r} is not a regular file")
        except OSError as error:
            raise SettingsError(f"{flag} {str(file)!r} cannot be read: {error.strerror}") from None
    try:
        context.load_cert_chain(certificate, key, password=refuse_passphrase)
    except OSError as error:  # of TLS, or a file that has just been removed
        reason = (getattr(error, "reason", "") or str(error)).lower().replace("_", " ")
        raise SettingsError(
            f"--tls-cert and --tls-key are not a PEM certificate chain and its key: {reason}"
        ) from None
    return context
