"""A release: `python -m release VERSION [--dry-run]`.

It moves the changelog's Unreleased section under the version, sets the version, also of the TypeScript
client, the documentation site and fields that are new ("Since: after 0.1.0"), builds and checks the packages
with checksums and bill of materials, then commits and tags. It pushes and publishes nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)((a|b|rc)[1-9]\d*)?")
HEADING = "## [Unreleased]\n"
TYPESCRIPT = ("web/client/package.json", "web/client/package-lock.json")
_TYPESCRIPT_VERSION = re.compile(r'("name": "ptn-api-client",\s+"version": ")[^"]+')


def main() -> None:
    parser = argparse.ArgumentParser(prog="release")
    parser.add_argument("version")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the changes and the steps, and do nothing"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="release this checkout")
    arguments = parser.parse_args()
    root, version = arguments.root, arguments.version
    tag = f"v{version}"
    if git(root, "status", "--porcelain"):
        sys.exit("the checkout has changes that are not committed: commit or stash them first")
    if git(root, "tag", "--list", tag):
        sys.exit(f"the tag {tag} exists already")
    changed, notes = prepare(root, version, datetime.now(timezone.utc).strftime("%Y-%m-%d"))
    steps = ("make descriptions", "make dist BILL=1", "sha256 checksums", f"commit and tag {tag}")
    if arguments.dry_run:
        print("\n".join((f"{tag} would change {', '.join(changed)}; then:", *steps, "", notes)), end="")
        return
    try:
        for name, text in changed.items():
            (root / name).write_text(text)
        subprocess.run(["make", "descriptions"], cwd=root, check=True)
        subprocess.run(["make", "dist", "BILL=1"], cwd=root, check=True)
        write_checksums(root / "dist")
    except BaseException:
        git(root, "checkout", "--", ".")
        raise
    git(root, "commit", "--all", "--message", f"Release {version}")
    git(root, "tag", "--annotate", tag, "--cleanup=whitespace", "--message", notes)
    print(f"{tag} is tagged; to publish it: git push origin HEAD {tag}")


def prepare(root: Path, version: str, date: str) -> tuple[dict[str, str], str]:
    """Returns the new content of each file that has the version, and the release's notes."""
    if not VERSION.fullmatch(version):
        sys.exit(f"not a version: {version!r} (give one like 1.2.0 or 1.2.0rc1)")
    package = (root / "ptn_api/__init__.py").read_text()
    current = re.search(r'^__version__ = "(.*)"$', package, re.MULTILINE)
    assert current is not None
    if _order(version) <= _order(current[1]):
        sys.exit(f"{version} does not come after the present version {current[1]}")
    changelog = (root / "CHANGELOG.md").read_text()
    before, heading, after = changelog.partition(HEADING)
    notes, separator, older = after.partition("\n## [")
    if not heading or not notes.strip():
        sys.exit("CHANGELOG.md: nothing is listed under Unreleased")
    changed = {
        "CHANGELOG.md": f"{before}{HEADING}\n## [{version}] - {date}\n{notes}{separator}{older}",
        "ptn_api/__init__.py": package.replace(current[0], f'__version__ = "{version}"'),
    }
    site = (root / "zensical.toml").read_text()
    changed["zensical.toml"] = site.replace(f'"PTN API {current[1]}"', f'"PTN API {version}"')
    for name in TYPESCRIPT:
        changed[name] = _TYPESCRIPT_VERSION.sub(rf"\g<1>{version}", (root / name).read_text())
    unreleased = re.compile(rf"Since:(\s+)after\s+{re.escape(current[1])}\.")  # docstrings are wrapped
    for path in sorted((root / "ptn_api").rglob("*.py")):
        new_fields = unreleased.sub(rf"Since:\g<1>{version}.", text := path.read_text())
        if new_fields != text:
            changed[str(path.relative_to(root))] = new_fields
    return changed, notes.strip() + "\n"


def _order(version: str) -> tuple[int | str, ...]:
    """A key by which versions sort; a pre-release comes before its release."""
    match = VERSION.fullmatch(version)
    assert match is not None
    stage = re.fullmatch(r"([a-z]+)(\d+)", match[4] or "z0")
    assert stage is not None
    return int(match[1]), int(match[2]), int(match[3]), stage[1], int(stage[2])


def write_checksums(dist: Path) -> None:
    """Writes SHA256SUMS for every file in the folder, to check with `sha256sum --check`."""
    files = sorted(path for path in dist.iterdir() if path.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files]
    (dist / "SHA256SUMS").write_text("".join(lines))


def git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    main()
