"""The servers that a stream follows: one, or several whose orders are merged."""
