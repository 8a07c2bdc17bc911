"""What a process finds of its problems, and those that last for a while after their last sign."""

from __future__ import annotations

import structlog

from ptn_api.problems import PROBLEMS, Findings, ProblemRegister, Recent


class Finder:
    """A finder that raises while `error` is set."""

    def __init__(self) -> None:
        self.error: Exception | None = None

    def __call__(self) -> Findings:
        if self.error is not None:
            raise self.error
        return {"not_watching": True}


def test_a_finder_that_raises_blinds_no_other() -> None:
    """It is logged once until it works again, and is a problem itself; what it found last stays."""
    register, finder, other = ProblemRegister(lambda: 5), Finder(), Finder()
    register.watch(finder)
    register.watch(lambda: {"work_refused": 7})
    with structlog.testing.capture_logs() as lines:
        assert set(register.look()) == {"not_watching", "work_refused"}
        for _ in range(2):
            finder.error = RuntimeError("broken")
            for _ in range(3):
                present = register.look()
                assert set(present) == {"not_watching", "work_refused", "checks_failing"}
                assert present["checks_failing"].count == 1
            finder.error = None
            assert set(register.look()) == {"not_watching", "work_refused"}
        register.watch(other)
        finder.error, other.error = KeyError("a"), ValueError("b")
        assert register.look()["checks_failing"].count == 2
    assert [line["event"] for line in lines] == ["problem_check_failed"] * 4
    assert all(line["exc_info"] for line in lines)


def test_a_remedy_is_that_of_this_server() -> None:
    """Its data directory is in the command, and a single machine is told nothing of shared keys."""
    removal, keys = PROBLEMS["mass_removal"], PROBLEMS["no_key_file"]
    assert removal.remedy_for(cluster=False).endswith("`ptn resync --accept-removals --data-dir DIR`")
    assert removal.remedy_for(cluster=True, data_dir="/a b").endswith("--data-dir '/a b'`")
    assert "cluster" not in keys.remedy_for(cluster=False)
    assert "--cluster-keys" in keys.remedy_for(cluster=True)
    assert keys.remedy_for(cluster=False) == keys.remedy


def test_what_happens_again_is_counted_until_it_has_not_happened_for_the_window() -> None:
    """By name, and together. At the window's end it is over; then it starts over."""
    now = 1_000
    recent = Recent(100, lambda: now)
    assert (recent.total, recent.counts()) == (0, {})
    recent.note()
    now += 99
    recent.note("alice")
    recent.note("alice")
    assert recent.counts() == {"": 1, "alice": 2}
    now += 1
    assert recent.counts() == {"alice": 2}
    now += 98
    recent.note("alice")
    now += 99
    assert recent.total == 3
    now += 1
    assert recent.total == 0
    recent.note("alice")
    assert recent.total == 1
