"""A renewed certificate is loaded once its files no longer change."""

from __future__ import annotations

import asyncio
import os
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptn_api.errors import SettingsError
from ptn_api.problems import ProblemRegister
from ptn_api.process import certificate as module
from ptn_api.process.background import reload_certificate
from ptn_api.process.certificate import Certificate
from tests.system.certificates import certificates
from tests.waiting import PATIENCE_S, until_async


def test_files_that_have_just_changed_are_left_to_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second change within a tick of the file's clock would look like the first."""
    settled = True
    monkeypatch.setattr(module, "is_settled", lambda _: settled)
    files, renewed = certificates(tmp_path / "tls"), certificates(tmp_path / "renewed")
    certificate = Certificate(files.certificate, files.key)
    assert certificate.refresh() is False
    settled = False
    os.replace(renewed.certificate, files.certificate)
    assert certificate.refresh() is False
    os.replace(renewed.key, files.key)
    settled = True
    assert [certificate.refresh(), certificate.refresh()] == [True, False]


def test_files_that_had_just_changed_at_the_start_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may have changed again without another version."""
    settled = False
    monkeypatch.setattr(module, "is_settled", lambda _: settled)
    files = certificates(tmp_path)
    certificate = Certificate(files.certificate, files.key)
    settled = True
    assert [certificate.refresh(), certificate.refresh()] == [True, False]


def test_a_file_that_is_removed_while_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that ended the process would end all of its connections."""
    monkeypatch.setattr(module, "is_settled", lambda _: True)
    files, renewed = certificates(tmp_path / "tls"), certificates(tmp_path / "renewed")
    certificate = Certificate(files.certificate, files.key)
    os.replace(renewed.certificate, files.certificate)
    os.replace(renewed.key, files.key)
    create = ssl.create_default_context

    def removed(*arguments: ssl.Purpose) -> ssl.SSLContext:
        """After it was seen to have changed, and between two of the steps that read it."""
        context = create(*arguments)
        load = context.load_cert_chain

        def remove_and_load(*paths: Path, **options: Any) -> None:
            files.key.unlink()
            load(*paths, **options)

        context.load_cert_chain = remove_and_load  # type: ignore[method-assign, assignment]
        return context

    monkeypatch.setattr(module.ssl, "create_default_context", removed)
    with pytest.raises(SettingsError, match="no such file"):
        certificate.refresh()


def test_unusable_files_are_reported_once_per_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last good ones stay in use."""
    monkeypatch.setattr(module, "is_settled", lambda _: True)
    files = certificates(tmp_path)
    certificate = Certificate(files.certificate, files.key)
    files.key.unlink()
    with pytest.raises(SettingsError, match="--tls-key"):
        certificate.refresh()
    assert certificate.refresh() is False


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
@pytest.mark.parametrize("which", ["certificate", "key"])
def test_what_is_no_file_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], object], which: str
) -> None:
    """A FIFO, a folder or a device is reported, and the last good certificate stays in use."""
    monkeypatch.setattr(module, "is_settled", lambda _: True)
    files = certificates(tmp_path)
    certificate = Certificate(files.certificate, files.key)
    path: Path = getattr(files, which)
    path.unlink()
    make(path)
    reasons: list[str] = []

    def refresh() -> None:
        try:
            certificate.refresh()
        except SettingsError as error:
            reasons.append(str(error))

    thread = threading.Thread(target=refresh, daemon=True)
    thread.start()
    thread.join(PATIENCE_S)
    assert len(reasons) == 1
    assert "is not a regular file" in reasons[0]


async def test_an_unusable_certificate_is_a_problem_until_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It counts as `certificate_unreadable` while the last good one is used."""
    monkeypatch.setattr(module, "is_settled", lambda _: True)
    files, renewed = certificates(tmp_path / "tls"), certificates(tmp_path / "renewed")
    problems = ProblemRegister()
    certificate = Certificate(files.certificate, files.key)
    task = asyncio.create_task(reload_certificate(certificate, problems, every_ms=5))
    files.key.unlink()
    await until_async(lambda: [*problems.look()] == ["certificate_unreadable"])
    os.replace(renewed.certificate, files.certificate)
    os.replace(renewed.key, files.key)
    await until_async(lambda: problems.look() == {})
    task.cancel()
