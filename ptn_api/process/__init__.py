"""The processes of the service: settings, supervisor, workers.

What the processes share, and nothing else:

1. The control channel, a socket pair between the supervisor and each child (control.py): configuration,
   readiness, liveness, health, metrics and stop. Its end of file says that the other process is gone.
2. The listening sockets, opened by the supervisor and inherited by rest and stream.
3. The event log in the data directory, written by intake and read by rest and stream, with its commit
   notification (event_log/).
4. The usage file in the data directory, written by rest and stream and read by `ptn keys usage`.
5. The queue pipe from a validator that embeds the API to intake.
6. The exit status of a child: FATAL says that starting it again would not help.
7. Signals: the supervisor's stop, SIGTERM for a child that does not read its channel yet, and SIGKILL.

Two processes from outside add to these:

- `ptn resync` leaves an empty file in the data directory for intake's next sweep, so it needs no address of a
  supervisor. The next start deletes it.
- A validator that embeds the API hands the settings to its supervisor on standard input, as a file in memory.
  The supervisor polls getppid() for the validator's end, since the validator's forks hold any pipe or socket
  open, and its exit status says whether starting it again would help.
"""
