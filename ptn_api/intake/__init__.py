"""Where orders come from: the validator's directory, the embedded queue, a checkpoint file.

Intake is the only writer of the event log. `run.run_intake` wires it; `merge` is the one place where the
sources meet; nothing here ever writes to the validator's files.

    watch, directory, sweep, position_files, removal, follow   what the validator's directory holds, and when
    document_files, documents                                  the files that are served whole
    file, names                                                reading a file, and what it may be called
    queue, plain                                               what an embedding validator puts on a queue
    checkpoint                                                 a one-off import
    merge, waiting, hold                                       all of it into one writer
    resync                                                     an operator's word on removals
"""
