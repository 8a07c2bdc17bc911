"""Documents are served as text; malformed ones are served unchanged and cause no error."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from ptn_api.event_log import Document, DocumentWritten
from ptn_api.http.body import Body
from ptn_api.model.documents import DebtLedgerSummary
from ptn_api.model.miner import DEFAULT_LOOKBACK_DAYS
from ptn_api.views.documents import Documents
from tests.rest.serving import NOW, document, filled_log


def text_of(snapshot: Body | None) -> bytes:
    assert snapshot is not None
    return b"".join(block.identity for block in snapshot.segments)


def raw(kind: Document, content: bytes) -> DocumentWritten:
    return DocumentWritten(document=kind, content=content)


def test_documents_are_served_byte_for_byte() -> None:
    """White space, key order and long numbers are preserved."""
    content = b'{ "b": 1.10000000000000000001, "a": [ ] }'
    documents = Documents(filled_log([raw(Document.ELIMINATIONS, content)]))
    assert text_of(documents.snapshot(Document.ELIMINATIONS)) == content


def test_derived_documents_are_kept_per_revision() -> None:
    """The same object until the document changes."""
    log = filled_log([document(Document.STATISTICS, {"data": [{"hotkey": "a", "checkpoints": [1]}]})])
    documents = Documents(log)
    first = documents.statistics_without_checkpoints()
    assert documents.statistics_without_checkpoints() is first
    log.append([document(Document.STATISTICS, {"data": [{"hotkey": "b", "checkpoints": [1]}]})], NOW)
    assert json.loads(text_of(documents.statistics_without_checkpoints())) == {"data": [{"hotkey": "b"}]}
    log.append([document(Document.STATISTICS, None)], NOW)
    assert documents.statistics_without_checkpoints() is None
    assert documents.snapshot(Document.STATISTICS) is None


def test_elements_keep_their_text() -> None:
    """Leaving out a key does not reformat the others."""
    element = b'{"hotkey": "a", "weight": 1.50, "checkpoints": [1, 2], "x": {"checkpoints": 3}}'
    documents = Documents(filled_log([raw(Document.STATISTICS, b'{"data": [' + element + b"]}")]))
    assert documents.statistics_of("a", checkpoints=True) == element
    short = documents.statistics_of("a", checkpoints=False)
    assert short is not None
    assert b'"weight":1.50' in short
    assert json.loads(short) == {"hotkey": "a", "weight": 1.5, "x": {"checkpoints": 3}}
    assert documents.statistics_of("b", checkpoints=True) is None


def test_an_order_changes_no_collateral_record() -> None:
    """The same object, whatever the rest of the account does; a malformed account has no records."""
    record = {"account_size": 5.0, "update_time_ms": 7}
    log = filled_log([document(Document.ACCOUNT_SIZES, {"a": [record, {"capital_used": 1.0}], "_cost": 5.0})])
    documents = Documents(log)
    first = documents.collateral_records()
    assert first[1] == {"a": [record]}
    sizes = {"a": {"capital_used": 2.0, "collateral_records": [record]}, "_cost": 6.0}
    log.append([document(Document.ACCOUNT_SIZES, sizes)], NOW)
    assert documents.collateral_records() is first
    log.append([document(Document.ACCOUNT_SIZES, {"a": [record, record]})], NOW)
    assert documents.collateral_records()[0] != first[0]


def test_a_malformed_debt_ledger_hides_no_other() -> None:
    """A value that is no number counts as 0."""

    def ledger(**performance: Any) -> dict[str, Any]:
        return {"checkpoints": [{"timestamp_ms": 1, "performance": performance}]}

    ledgers = {
        "a": ledger(realized_pnl="x", unrealized_pnl=2.5),
        "b": ledger(realized_pnl=1, unrealized_pnl=[], net_pnl="x") | {"summary": {"total_fees": {}}},
    }
    documents = Documents(filled_log([document(Document.DEBT_LEDGERS, {"ledgers": ledgers})]))
    summaries = json.loads(text_of(documents.debt_summaries()))
    decoded = msgspec.convert(summaries, dict[str, DebtLedgerSummary])
    assert {hotkey: summary.net_pnl for hotkey, summary in decoded.items()} == {"a": 2.5, "b": 1.0}


def test_portfolio_ledgers_of_both_forms() -> None:
    """By trade pair, of which the checkpoint takes `portfolio`, or the older single ledger of a miner."""
    ledger: dict[str, Any] = {"initialization_time_ms": 1, "cps": []}
    content = {"new": {"portfolio": ledger, "BTCUSD": {}}, "old": ledger, "odd": {"BTCUSD": ledger}}
    documents = Documents(filled_log([document(Document.PERF_LEDGERS, content)]))
    assert json.loads(text_of(documents.perf_ledgers_body())) == {"new": ledger, "old": ledger}


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"[]", b"7", b'{"data": 5}', b'{"data": [7]}', b"\xff"]
)
def test_malformed_documents_have_no_elements(content: bytes) -> None:
    """Intake checks what it writes; anything it lets through still causes no error here."""
    documents = Documents(filled_log([raw(kind, content) for kind in Document]))
    assert documents.eliminated() == {}
    assert documents.challenge_periods() == {}
    assert documents.endpoints() == {}
    assert documents.ledgers(Document.DEBT_LEDGERS) == {}
    assert documents.lookback_days() == DEFAULT_LOOKBACK_DAYS
    assert documents.statistics_of("a", checkpoints=False) is None
    assert documents.element(Document.ELIMINATIONS, "eliminations") is None
    assert text_of(documents.perf_ledgers_body()) == b"{}"
    documents.statistics_without_checkpoints()
    documents.miners()
