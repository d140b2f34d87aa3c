"""Planted bugs: each must be caught by a few seeds, or the simulator is blind there.

`python -m tests.sim.mutants` prints who caught which. A mutant replaces one piece of source text of one function, for
the time of a `with` block and in this process only. The product has no hook for it, and a mutant whose text is no
longer there fails loudly.
"""

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any

from tests.sim.world import Report, simulate

SEEDS = tuple((seed, profile) for seed in range(1, 7) for profile in ("swarm", "offline"))


@dataclass(frozen=True, slots=True)
class Mutant:
    """In `function` of `module`, `old` becomes `new`; both as they stand when the function is not indented.

    `seeds`: of swarms that bring about what the bug needs, where few do; tried before the others.
    """

    name: str
    module: str
    function: str
    old: str
    new: str
    seeds: tuple[int, ...] = ()


MUTANTS = (
    Mutant(
        "no dedupe: a change that comes again is recorded again",
        "syncd.engine.changes", "_take_in_order", "if n <= taken.highest:", "if n < 0:",
    ),
    Mutant(
        "acknowledged before the commit",
        "syncd.store.committer", "Committer._committed",
        "results, decision = await self._offload.run(self._transact, began_ms, commands)",
        """try:
            with self._store.write() as tx:
                decision = self._decide(tx, began_ms, commands)
                raise KeyError
        except KeyError:
            results = decision.results
        trio.lowlevel.spawn_system_task(self._offload.run, self._transact, began_ms, commands)""",
    ),
    Mutant(
        "a page selects fields by `resume`",
        "syncd.engine.reading", "page",
        "entry_of(name, document, cursor.complete)", "entry_of(name, document, cursor.resume)",
    ),
    Mutant(
        "the remainder of a short write is lost",
        "syncd.net.delivery", "Delivery.keep_rest", "memoryview(data)[taken:]", "memoryview(data)[len(data):]",
    ),
    Mutant(
        "a counter adds twice",
        "syncd.core.fields", "_counter", "(state or 0) + args[0]", "(state or 0) + 2 * args[0]",
    ),
    Mutant(
        "a stale token is accepted",
        "syncd.net.auth", "Authenticator._checked_times", "if now_ms >= expires_ms:", "if False:",
    ),
    Mutant(
        "two results of a batch are swapped",
        "syncd.engine.engine", "Engine.decide",
        "trim_idempotency(batch)",
        "results[:2] = results[1::-1] if all(isinstance(r, Pushed) for r in results[:2]) else results[:2]",
    ),
    Mutant(
        "a delta is lost at the switch from pages to live",
        "syncd.net.delivery", "Delivery._go_live",
        "channel.pos, channel.cursor, channel.is_owed = cursor.complete, None, False",
        "channel.pos, channel.cursor, channel.is_owed = room.sent_to, None, False",
    ),
    Mutant(
        "outcomes after the delta",
        "syncd.store.committer", "Committer._run_publisher",
        """for entry, result in zip(batch.entries, batch.results, strict=True):
                entry.done(result)
            if batch.decision is not None:
                self._faults.reach("publish.before")
                await self._publish(batch.decision)""",
        """if batch.decision is not None:
                await self._publish(batch.decision)
            for entry, result in zip(batch.entries, batch.results, strict=True):
                entry.done(result)""",
    ),
    Mutant(
        "a first download forgets what was deleted while it ran",
        "syncd.engine.reading", "page", "and rev <= (start or 0)", "",
    ),
    Mutant(
        "a refresh that takes a grant away is ignored",
        "syncd.net.connection", "Connection._refresh", "channel.role < Role.READER", "False",
        seeds=(528, 168, 795),  # a grant goes from a connection that goes on
    ),
    Mutant(
        "an idempotency key is not remembered",
        "syncd.engine.posting", "_remembered", "row is not None and row.expires_ms > batch.now_ms", "False",
    ),
    Mutant(
        "the client counts what is staged as seen",
        "syncd_client.replica", "commit",
        "base = row.complete if read_at is None", "base = row.resume if read_at is None",
    ),
    Mutant(
        "the client loses staged pages",
        "syncd_client.replica", "_apply", "[*tx.pages(row.name), delta.docs]", "[delta.docs]",
    ),
    Mutant(
        "the client drops a change when its outcome comes",
        "syncd_client.replica", "_store_outcome",
        "if answer.seq is None:\n        tx.drop_entry", "if True:\n        tx.drop_entry",
    ),
    Mutant(
        "the server trims entries that are not settled",
        "syncd.engine.batch", "SpaceWork.trimmed", "replica.settled - SETTLED_KEPT", "replica.highest",
    ),
    Mutant(
        "a change that comes again is told another outcome",
        "syncd.engine.changes", "_take_in_order",
        "                    taken.forked = n\n                    return\n            elif push.is_other:",
        """                    taken.forked = n
                    return
                entry = entry._replace(outcome="noop")
            elif push.is_other:""",
    ),
    Mutant(
        "`expect` always passes",
        "syncd.core.documents", "_expected", "not by.has_seen(field.seq, field.slot)", "False",
    ),
    Mutant(
        "the sum forgets what a deleted document made up",
        "syncd.engine.batch", "SpaceWork._index",
        "self.sum = (self.sum + change) & SUM_MASK", "self.sum = (self.sum + change * document.is_live) & SUM_MASK",
    ),
    Mutant(
        "a bucket forgets what a deleted document made up",
        "syncd.engine.batch", "SpaceWork._index",
        "(self._buckets[number] + change) & SUM_MASK", "(self._buckets[number] + change * document.is_live) & SUM_MASK",
    ),
    Mutant(
        "a page ends in the middle of a change",
        "syncd.engine.reading", "page",
        "in _groups(tx, row.id, cursor.resume):",
        "in ((rev, [item]) for rev, items in _groups(tx, row.id, cursor.resume) for item in items):",
    ),
    Mutant(
        "a document made anew is sent as a patch",
        "syncd.engine.batch", "entry_of", "if document.born > since:", "if since == 0:",
    ),
    Mutant(
        "time falls with the clock",
        "syncd.engine.batch", "SpaceWork.advance", "max(self.time, self.now_ms)", "self.now_ms",
    ),
    Mutant(
        "an event that comes again is taken again",
        "syncd.engine.posting", "_event", "_remembered(batch, event.key) is not None", "False",
    ),
    Mutant(
        "a delta that was read as a page comes again",
        "syncd.net.hub", "_hand_out", "channel.state is not live or to <= channel.pos", "channel.state is not live",
        seeds=(27,),  # a page is read between a slow commit and its publication
    ),
    Mutant(
        "the client takes a reset as a patch",
        "syncd_client.replica", "_put_document", "doc.state in (DELETED, RESET)", "doc.state == DELETED",
    ),
    Mutant(
        "the client acknowledges as settled what is not",
        "syncd_client.replica", "_with_settled", "(row.next_n if oldest_n is None else oldest_n) - 1", "row.next_n - 1",
    ),
    Mutant(
        "the client forgets changes with the space",
        "syncd_client.replica", "leave",
        "if entry.seq is not None:",
        "if forget:\n            tx.drop_entry(space, entry.n)\n        elif entry.seq is not None:",
    ),
    Mutant(
        "the client numbers anew after it joins again",
        "syncd_client.replica", "drop_synced",
        "chain=None, sum=0", "chain=None, sum=0, next_n=row.settled + 1",
    ),
)  # fmt: skip


def _target(mutant: Mutant) -> FunctionType:
    found: Any = import_module(mutant.module)
    for name in mutant.function.split("."):
        found = getattr(found, name)
    assert isinstance(found, FunctionType)
    return found


def _mutated_code(mutant: Mutant, target: FunctionType) -> CodeType:
    source = textwrap.dedent(inspect.getsource(target))
    old, new = mutant.old, mutant.new
    assert source.count(old) == 1, f"{mutant.name}: {old!r} occurs {source.count(old)} times in {mutant.function}"
    namespace = dict(target.__globals__)
    exec(compile("from __future__ import annotations\n" + source.replace(old, new), mutant.function, "exec"), namespace)
    code: CodeType = namespace[target.__name__].__code__
    return code


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The bug is in for the block, also for whoever imported the function before."""
    target = _target(mutant)
    original = target.__code__
    target.__code__ = _mutated_code(mutant, target)
    try:
        yield
    finally:
        target.__code__ = original


def hunt(mutant: Mutant, seeds: tuple[tuple[int, str], ...] = SEEDS) -> tuple[int, str, Report] | None:
    """The first of its own seeds, or of `seeds`, that catches it."""
    with planted(mutant):
        for seed, profile in (*((seed, "swarm") for seed in mutant.seeds), *seeds):
            report = simulate(seed, profile)
            if report.exit_code:
                return seed, profile, report
    return None


def main() -> int:
    is_any_alive = False
    words = [word for word in sys.argv[1:] if word != "-v"]
    for mutant in MUTANTS:
        if words and not all(word in mutant.name for word in words):
            continue
        caught = hunt(mutant)
        is_any_alive |= caught is None
        if caught is None:
            told = "ALIVE"
        else:
            seed, profile, report = caught
            told = f"{report.verdict} by seed {seed} {profile}"
        print(f"{mutant.name:55} {told}", flush=True)
        if caught is not None and "-v" in sys.argv:
            print(f"    {caught[2].detail[-300:]}")
    return int(is_any_alive)


if __name__ == "__main__":
    sys.exit(main())
