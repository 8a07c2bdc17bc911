"""Where orders come from: the validator's directory, the embedded queue, a checkpoint file.

Intake is the only writer of the event log. `run_intake` in `run` wires its parts; nothing here writes to the
validator's files. A changed file passes the modules in this order:

    watch            inotify events
    follow           what is read next: events, deferred files, a sweep
    scan             reading the directory, in one thread
    directory        folders and their listings
    position_files   files and versions of each position; removal decides when one is gone
    files            one file: content, version, names
    merge, pending   all sources into one writer

    documents               files that are served whole
    queue_item, queue       the embedded queue: its items as JSON lines, their reader
    checkpoint              a one-off import
"""
