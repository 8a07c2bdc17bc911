"""Completion in the shells themselves, with the script that `ptn --install-completion` writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.ptn import Ptn

_RESULT = "=> "
_SHELLS = {
    # As the shell calls the function when Tab is pressed; `default` is what bash does without a match.
    "bash": r"""
tab() {
    COMP_WORDS=($1); [[ $1 == *" " ]] && COMP_WORDS+=(""); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    COMPREPLY=(); _ptn_completion ptn
    ((${#COMPREPLY[@]})) || COMPREPLY=($(compgen -f -- "${COMP_WORDS[COMP_CWORD]}"))
    echo "=> ${COMPREPLY[*]}"
}
complete() { [[ "$*" == "-o default -F _ptn_completion ptn" ]] || exit 1; }
source ./script
""",
    # The functions of zsh's completion system that the script calls, which print what they get.
    "zsh": r"""
compdef() { :; }
_arguments() { print -r -- "=> ${1//$'\n'/ }"; }
_files() { print -r -- "=> $(print -r -- ${words[-1]}*)"; }
tab() { words=("${(@s: :)1}"); CURRENT=${#words}; _ptn_completion; }
source ./script
""",
    "fish": r"""
function tab; echo "=> "(complete -C $argv[1] | string split -f1 \t | string join " "); end
source ./script
""",
}
_LINES = {
    "ptn serve --log-le": ["--log-level"],
    "ptn doctor --log-level ": ["debug", "info", "warning", "error"],
    "ptn positions --trade-pair BTCUSD,EURU": ["BTCUSD,EURUSD"],
    "ptn serve --api-keys-file ord": ["orders.ndjson"],
}


@pytest.mark.parametrize("shell", _SHELLS)
def test_completion_in_the_shell(stranger: Ptn, tmp_path: Path, shell: str) -> None:
    """Options, choices, the last of several trade pairs, and files, of `serve` and `doctor` as well."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    ended = stranger("--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    (tmp_path / "script").write_text(ended.stdout)
    (tmp_path / "orders.ndjson").touch()
    program = tmp_path / "ptn"
    program.write_text(f"#!{sys.executable}\nfrom ptn_api.cli.app import main\nmain()\n")
    program.chmod(0o700)
    asked = "\n".join(f"tab '{line}'" for line in _LINES)
    done = subprocess.run(
        [shell, "-c", f"{_SHELLS[shell]}\n{asked}"],
        capture_output=True,
        text=True,
        timeout=110,
        cwd=tmp_path,
        env=stranger.environment | {"PATH": f"{tmp_path}:{stranger.environment['PATH']}"},
    )
    results = [line[len(_RESULT) :] for line in done.stdout.splitlines() if line.startswith(_RESULT)]
    assert len(results) == len(_LINES), done.stdout + done.stderr
    for (line, expected), result in zip(_LINES.items(), results, strict=True):
        assert [word for word in expected if word not in result] == [], line


def test_hotkeys_are_completed_from_the_server(ptn: Ptn, stranger: Ptn) -> None:
    """With the address and the key of the environment. Without them, or an answer, nothing is printed."""
    hotkey = ptn("top").lines[1].split("\t")[1]
    asked = {"_PTN_COMPLETE": "complete_bash", "COMP_WORDS": f"ptn miner {hotkey[:6]}", "COMP_CWORD": "2"}
    assert ptn(**asked).lines == [hotkey]
    asked["COMP_WORDS"] = f"ptn orders --miner {hotkey},{hotkey[:6]}"
    assert ptn(**(asked | {"COMP_CWORD": "3"})).lines == [f"{hotkey},{hotkey}"]
    ended = stranger(**(asked | {"COMP_CWORD": "3"}))
    assert (ended.stdout.strip(), ended.stderr) == ("", "")
