# %% [markdown]
# Who trades what, and who makes money with it? Run it as a script, or cell by cell in a notebook.

# %%
import os

import polars as pl

from ptn_api.client import PTNClient

api = PTNClient(os.environ.get("PTN_REST_URL", "http://localhost:48888"))
entries = api.miner_positions()
positions, orders = entries.to_polars(), entries.to_polars("orders")
print(f"{len(entries)} miners, {positions.height} positions, {orders.height} orders")

# %% The most traded pairs
print(
    orders.group_by("trade_pair")
    .agg(pl.len().alias("orders"), pl.col("miner_hotkey").n_unique().alias("miners"))
    .sort("orders", descending=True)
    .head(10)
)

# %% The best miners, by closed positions that were held for a minute or more
closed = positions.filter(
    pl.col("is_closed_position"), pl.col("closed_at") - pl.col("opened_at") >= pl.duration(minutes=1)
)
print(
    closed.group_by("miner_hotkey")
    .agg(
        pl.len().alias("positions"),
        (pl.col("return_at_close") > 1).mean().alias("profitable"),
        pl.col("return_at_close").product().alias("return"),
        (pl.col("closed_at") - pl.col("opened_at")).median().alias("held"),
    )
    .sort("return", descending=True)
    .head(10)
)

# %% Orders by hour
print(
    orders.group_by(pl.col("processed_at").dt.hour().alias("hour_utc"))
    .agg(pl.len().alias("orders"), pl.col("leverage").abs().mean().alias("mean_leverage"))
    .sort("hour_utc")
)
