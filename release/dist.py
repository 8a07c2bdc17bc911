"""The check of built packages: `python -m release.dist FOLDER [--bill FILE]`.

Both packages are installed into empty environments outside the checkout; the wheel serves a demo there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.request import urlopen
from zipfile import ZipFile

ROOT = Path(__file__).parents[1]
READY = re.compile(r"PTN API ready: REST (http\S+)")


def main() -> None:
    parser = argparse.ArgumentParser(prog="release.dist")
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--bill",
        type=Path,
        help="write the software bill of materials (CycloneDX) of the wheel with [server]",
    )
    arguments = parser.parse_args()
    wheel, sdist = find_packages(arguments.folder)
    if "ptn_api/page/index.html" not in ZipFile(wheel).namelist():
        problem = f"{wheel.name}: the web page is missing (see: make page)"
        if arguments.bill:  # for a release
            sys.exit(problem)
        print(problem)
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for package, extras in ((wheel, "[server]"), (sdist, "")):
            commands = folder / package.suffix[1:] / "bin"
            run(sys.executable, "-m", "venv", commands.parent)
            pip = (commands / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
            run(*pip, "--constraint", ROOT / "constraints.txt", f"{package}{extras}")
            result = run(commands / "ptn", "--version", cwd=folder)
            if result.split() != ["ptn", version_of(package)]:
                sys.exit(f"{package.name}: its ptn prints {result!r}")
        serve_demo(folder / "whl" / "bin" / "ptn", folder)
        if arguments.bill:
            tool = Path(sys.executable).with_name("cyclonedx-py")
            environment = (folder / "whl" / "bin" / "python", "--pyproject", ROOT / "pyproject.toml")
            run(tool, "environment", *environment, "--output-reproducible", "--output-file", arguments.bill)
    print(f"{wheel.name} and {sdist.name} install and start")


def find_packages(folder: Path) -> tuple[Path, Path]:
    """Returns the wheel and the sdist, of which there must be one each, of the same version."""
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if len(wheels) != 1 or len(sdists) != 1 or version_of(wheels[0]) != version_of(sdists[0]):
        sys.exit(f"{folder}: expected a wheel and an sdist of one version, found {[*wheels, *sdists]}")
    return wheels[0].resolve(), sdists[0].resolve()


def version_of(package: Path) -> str:
    return package.name.removesuffix(".tar.gz").split("-")[1]


def serve_demo(ptn: Path, folder: Path) -> None:
    """Starts the demo and asks whether it is ready."""
    options = ("--demo", "--data-dir", folder / "data", "--api-rest-port=0", "--api-ws-port=0")
    server = subprocess.Popen([ptn, "serve", *options], stdout=subprocess.PIPE, text=True, cwd=folder)
    try:
        assert server.stdout is not None
        ready = READY.match(server.stdout.readline())
        if ready is None:
            sys.exit("the installed server does not start")
        with urlopen(f"{ready[1]}/ready", timeout=60) as response:
            print(f"GET /ready: {response.status}")
    finally:
        server.terminate()
        server.wait(timeout=60)


def run(*command: object, cwd: Path | None = None) -> str:
    """Returns standard output; a failure ends the check."""
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{Path(str(command[0])).name} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
