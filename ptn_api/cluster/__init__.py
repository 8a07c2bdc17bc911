"""The same log on several machines: each keeps a copy in SQLite, and a replicated stream orders the commits.

`broker` describes the stream and what it must guarantee.
"""
