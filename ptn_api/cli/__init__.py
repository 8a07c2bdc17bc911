"""The words you type: `ptn serve`, `ptn keys`, `ptn stream` and the others; `app` lists them."""
