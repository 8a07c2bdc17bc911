"""The documents of the REST API that have rows: those of the model, with data frames."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ptn_api.client.tables.columns import Table, records
from ptn_api.model.documents import (
    AccountSnapshots,
    ChallengePeriod,
    Collateral,
    DebtLedgerSummary,
    MinerLedger,
)
from ptn_api.summary import SummarisedDict, Summary, number, summarised

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped,import-not-found,unused-ignore]
    import polars

__all__ = [
    "AccountDocument",
    "CollateralDocument",
    "DebtLedgers",
    "LedgerDocument",
    "PeriodDocument",
    "Selections",
    "Tabular",
]


class Tabular:
    """A document with a table."""

    __slots__ = ()

    def _table(self) -> Table:
        raise NotImplementedError

    def to_polars(self) -> polars.DataFrame:
        """Returns the table as a Polars frame."""
        return self._table().to_polars()

    def to_pandas(self) -> pandas.DataFrame:
        """Returns the table as a pandas frame."""
        return self._table().to_pandas()


class LedgerDocument(Tabular, MinerLedger, kw_only=True):
    """One miner's debt, emissions or penalty ledger; its table has a row per checkpoint."""

    def _table(self) -> Table:
        return records((self.hotkey, point) for point in self.checkpoints)


@summarised
class DebtLedgers(Tabular, SummarisedDict[str, DebtLedgerSummary]):
    """Every miner's debt ledger in numbers; the table has a row per miner."""

    def _table(self) -> Table:
        return records(self.items())

    def _summary(self) -> Summary:
        rows = (
            (
                hotkey,
                ledger.total_checkpoints,
                number(ledger.cumulative_emissions_usd, ",.2f"),
                number(ledger.portfolio_return, ".5f"),
            )
            for hotkey, ledger in self.items()
        )
        title = f"debt ledgers of {len(self):,} miners"
        return Summary(title, ("miner", "checkpoints", "emissions (USD)", "return"), rows, len(self))


class AccountDocument(Tabular, AccountSnapshots, kw_only=True):
    """One miner's account; its table has a row per hour."""

    def _table(self) -> Table:
        return records((self.hotkey, hour) for hour in self.snapshots)


class CollateralDocument(Tabular, Collateral, kw_only=True):
    """The miners' account sizes; the table has a row per record."""

    def _table(self) -> Table:
        return records(
            (hotkey, record)
            for hotkey, listed in self.data.items()
            for record in (listed if isinstance(listed, list) else ())
        )


class PeriodDocument(Tabular, ChallengePeriod, kw_only=True, omit_defaults=True):
    """One miner's place in the competition; its table has a row per bucket."""

    def _table(self) -> Table:
        return records((self.hotkey, period) for period in self.history or [self.challenge_period])


class Selections(Tabular, SummarisedDict[str, str]):
    """The asset class that each miner chose; the table has a row per miner."""

    def _table(self) -> Table:
        return records((hotkey, {"asset_class": chosen}) for hotkey, chosen in self.items())
