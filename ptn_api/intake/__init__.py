"""Where orders come from: the validator's directory, the embedded queue, a checkpoint file.

Intake is the only writer of the event log. `run_intake` in `run` wires its parts; nothing here writes to the
validator's files. A changed file passes the modules in this order:

    watch            inotify events
    follow           what is read next: events, deferred files, a sweep
    scan             reading the directory, in one thread
    directory        the tree of folders: watches and listings
    position_files   the files of each position and their versions; removal decides when it is gone
    files            a single file: content, version, name
    merge, pending   directory and queue into one writer

    documents               files that are served whole, and the threads that read documents
    miner_files             limit orders, archived positions and snapshots: one document per miner
    queue                   the embedded queue: the reader of its items
    checkpoint              a one-off import
"""
