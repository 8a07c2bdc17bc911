"""Every miner's return and number of positions, using only `requests`."""

import os

import requests

response = requests.get(
    os.environ.get("PTN_REST_URL", "http://localhost:48888") + "/miner-positions",
    headers={"Authorization": f"Bearer {os.environ['PTN_API_KEY']}"},
    params={"tier": 100},
    timeout=30,
)
response.raise_for_status()
for hotkey, miner in response.json().items():
    print(hotkey, miner["thirty_day_returns"], len(miner["positions"]))
