"""Which commits count: single steps, and every state that two writers can reach in a small model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ptn_api.cluster.chain import START, Chain, Link, Tip, Verdict, advance, start_at

A, B = b"a", b"b"
TIP = Tip(10, b"ten", 3, A)


def link(commit_id: bytes = b"next", **fields: object) -> Link:
    defaults = {"previous": b"ten", "base": 10, "term": 3, "writer": A}
    return Link(commit_id, **(defaults | fields))  # type: ignore[arg-type]


def verdicts(*links: Link) -> list[Verdict]:
    """Of entries from index 11 on, after TIP."""
    chain = start_at(TIP)
    found = []
    for index, entry in enumerate(links, 11):
        chain, verdict = advance(chain, index, entry)
        found.append(verdict)
        assert chain.read == index
    return found


def test_a_commit_counts_once() -> None:
    """Its double continues a commit that is no longer the last one, as does a stale writer's."""
    assert verdicts(link(b"x"), link(b"x"), link(b"y")) == [Verdict.COUNTS, Verdict.VOID, Verdict.VOID]
    assert verdicts(link(b"x"), link(b"y", previous=b"x", base=11)) == [Verdict.COUNTS] * 2


def test_only_the_active_writer_counts() -> None:
    """Another one must take over with a higher term; two that do so at once are one active writer."""
    assert verdicts(link(writer=B)) == [Verdict.VOID]
    assert verdicts(link(writer=B, term=2)) == [Verdict.VOID]
    assert verdicts(link(b"x", writer=B, term=4), link(b"y", term=4)) == [Verdict.COUNTS, Verdict.VOID]
    late = link(b"z", previous=b"x", base=11)
    assert verdicts(link(b"x", writer=B, term=4), late) == [Verdict.COUNTS, Verdict.VOID]


def test_parts_count_with_the_last_one() -> None:
    """An abandoned commit, or one that lacks a part, is void; its successor counts."""
    first, second = link(b"x", number=0, last=False), link(b"x", number=1)
    assert verdicts(first, second) == [Verdict.PART, Verdict.COUNTS]
    assert verdicts(second) == [Verdict.VOID]
    assert verdicts(first, link(b"y"), second) == [Verdict.PART, Verdict.COUNTS, Verdict.VOID]
    assert verdicts(first, link(b"x", number=2)) == [Verdict.PART, Verdict.VOID]
    other = link(b"y", number=0, last=False)
    assert verdicts(first, other, second, link(b"y", number=1)) == [
        Verdict.PART,
        Verdict.PART,
        Verdict.VOID,
        Verdict.COUNTS,
    ]


def test_a_commit_that_continues_an_unknown_one_is_suspect() -> None:
    """Its writer read another commit at this copy's tip, or a later one."""
    assert verdicts(link(previous=b"other")) == [Verdict.SUSPECT]
    assert verdicts(link(previous=b"other", base=11)) == [Verdict.SUSPECT]
    assert verdicts(link(previous=b"other", base=9)) == [Verdict.VOID]


# --- every state of a small model -------------------------------------------------------------------------
# Two writers read the same files, three orders, and each publishes the next order that its copy lacks. The
# model follows writer.py and copy.py step by step. What can go wrong with a request is spent from a budget.


class Sent(NamedTuple):
    """A commit in the model. Its order is 0 for taking over."""

    link: Link
    order: int
    before: int
    """The sequence before it."""


class Machine(NamedTuple):
    tip: Tip
    orders: tuple[int, ...]
    """What is committed locally, in order of sequence."""
    chain: Chain
    writer: bytes


class State(NamedTuple):
    stream: tuple[Sent, ...]
    late: tuple[tuple[Sent, int], ...]
    machines: tuple[Machine, Machine]
    faults: int
    takeovers: int
    crashes: int


ORDERS = 3


def counted(stream: tuple[Sent, ...]) -> list[tuple[Tip, tuple[int, ...]]]:
    """The tip and the orders of a new copy, after each index from 0 on."""
    chain, orders = start_at(START), ()
    found: list[tuple[Tip, tuple[int, ...]]] = [(START, ())]
    for index, sent in enumerate(stream, 1):
        chain, verdict = advance(chain, index, sent.link)
        if verdict is Verdict.COUNTS:
            assert sent.before == len(orders), "a sequence was left out or given twice"
            orders = (*orders, sent.order) if sent.order else orders
        found.append((chain.tip, orders))
    return found


def new_id(state: State) -> bytes:
    """An id that nothing in the state has. The smallest, so that equal states are recognised."""
    used = {sent.link.commit_id for sent in state.stream} | {sent.link.commit_id for sent, _ in state.late}
    return next(name for n in range(100) if (name := b"%d" % n) not in used)


def stored(state: State, sent: Sent, expected: int, checking: bool) -> tuple[State, int]:
    """The stream with the entry and its index; index 0 if it is refused."""
    if checking and len(state.stream) != expected:
        return state, 0
    return state._replace(stream=(*state.stream, sent)), len(state.stream) + 1


def with_machine(state: State, which: int, machine: Machine) -> State:
    machines = list(state.machines)
    machines[which] = machine
    return state._replace(machines=(machines[0], machines[1]))


def forgetful(machine: Machine) -> Machine:
    """After a roll back: the machine reads on from what is committed."""
    return machine._replace(chain=start_at(machine.tip))


def publish(state: State, which: int, sent: Sent, checking: bool) -> Iterator[State]:
    machine = state.machines[which]
    expected = machine.chain.read
    after, index = stored(state, sent, expected, checking)
    rolled_back = with_machine(after, which, forgetful(machine))

    def acknowledged(after: State, index: int) -> State:
        """The local COMMIT, or a roll back if something else may be in between."""
        if index != expected + 1:
            return with_machine(after, which, forgetful(machine))
        chain, verdict = advance(machine.chain, index, sent.link)
        assert verdict is Verdict.COUNTS
        orders = (*machine.orders, sent.order) if sent.order else machine.orders
        return with_machine(after, which, Machine(chain.tip, orders, chain, machine.writer))

    yield acknowledged(after, index)
    if not state.faults:
        return
    faults = state.faults - 1
    yield rolled_back._replace(faults=faults)  # no acknowledgement, or the local COMMIT failed
    lost = with_machine(state, which, forgetful(machine))
    yield lost._replace(faults=faults)
    yield lost._replace(faults=faults, late=(*state.late, (sent, expected)))
    twice, second = stored(after, sent, expected, checking)
    yield acknowledged(twice, index)._replace(faults=faults)
    yield acknowledged(twice, second)._replace(faults=faults)


def crashed(machine: Machine) -> Machine:
    return forgetful(machine)._replace(writer=machine.writer + b"'")


def steps(state: State, checking: bool, longest: int) -> Iterator[State]:
    """The states that follow. Without the check, writers that read nothing could add void entries forever."""
    for sent, expected in state.late:
        rest = tuple(item for item in state.late if item != (sent, expected))
        yield stored(state._replace(late=rest), sent, expected, checking)[0]
    for which, machine in enumerate(state.machines):
        if machine.chain.read < len(state.stream):
            # A read may be stale, so it returns one entry; what it applies, it commits.
            index = machine.chain.read + 1
            sent = state.stream[index - 1]
            chain, verdict = advance(machine.chain, index, sent.link)
            orders = machine.orders
            if verdict is Verdict.COUNTS and sent.order:
                orders = (*orders, sent.order)
            yield with_machine(state, which, Machine(chain.tip, orders, chain, machine.writer))
        if state.crashes:
            yield with_machine(state, which, crashed(machine))._replace(crashes=state.crashes - 1)
        if len(state.stream) >= longest:
            continue
        tip = machine.chain.tip
        name, before = new_id(state), len(machine.orders)
        missing = [order for order in range(1, ORDERS + 1) if order not in machine.orders]
        if missing and tip.writer == machine.writer:
            sent = Sent(Link(name, tip.commit_id, tip.index, tip.term, machine.writer), missing[0], before)
            yield from publish(state, which, sent, checking)
        elif missing and state.takeovers:
            sent = Sent(Link(name, tip.commit_id, tip.index, tip.term + 1, machine.writer), 0, before)
            yield from publish(state._replace(takeovers=state.takeovers - 1), which, sent, checking)


@pytest.mark.parametrize(
    ("checking", "faults", "takeovers", "crashes", "longest", "states"),
    [(True, 2, 2, 1, 9, 81_851), (False, 1, 2, 0, 5, 29_420)],
)
def test_every_reachable_state_is_consistent(
    checking: bool, faults: int, takeovers: int, crashes: int, longest: int, states: int
) -> None:
    """Each copy is what a new copy would be at the same tip, and each order has one sequence, for good."""
    machines = (Machine(START, (), start_at(START), A), Machine(START, (), start_at(START), B))
    first = State((), (), machines, faults, takeovers, crashes)
    reached, waiting = {first}, [first]
    complete = 0
    while waiting:
        state = waiting.pop()
        reference = counted(state.stream)
        orders = reference[-1][1]
        assert len(set(orders)) == len(orders), "an order was announced twice"
        for machine in state.machines:
            assert (machine.tip, machine.orders) == reference[machine.tip.index]
        complete += len(orders) == ORDERS
        for following in steps(state, checking, longest):
            if following not in reached:
                reached.add(following)
                waiting.append(following)
    assert complete > states // 10
    assert len(reached) == states
