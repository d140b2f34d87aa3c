"""A device that must change its id: what it does when another replica uses the same one (section 10 of the protocol).

Owns the way out of a fork: a phone restored from a backup, a copied store, an id that an operator retired. Each
function is one decision over `Tables` inside its caller's transaction, so that a death at any moment leaves either the
old id or the new one, whole. Knows no connection and no entropy: the new id is passed in.

What is sent under the old id, and what under the new one, decides whether a change takes effect twice. So the old id is
left in two steps. First each space offers what it holds once more, up to its first mismatch: what the server already
has is answered by its outcome. Then all spaces take the new id at once, and only what is left is made anew.

1. Until the new id is taken, nothing is sent from `resend_n` on.
2. The new id is taken for all spaces in one transaction, and only when no space waits for an answer below `resend_n`.
3. A change keeps its nonce, base, stamp and operations; it gets a new n, and in its context what it had seen through
   being of the same device.
"""

from __future__ import annotations

from dataclasses import replace

from .messages import CONTEXT_MAX, Former
from .tables import Entry, OutcomeRow, SpaceRow, Tables
from .values import Value


def is_leaving(tx: Tables) -> bool:
    """The id is being left: another replica was seen to use it, or it is retired."""
    return tx.setting("forked") is not None


def note_fork(tx: Tables, space: str, n: int) -> None:
    """The server has another change as n, or takes none: from there on nothing of the space is sent under this id."""
    if not is_leaving(tx):
        tx.put_setting("forked", {"space": space, "n": n})
        for row in tx.spaces():
            tx.put_space(replace(row, resend_n=row.next_n))
    end_resending(tx, space, n)


def end_resending(tx: Tables, space: str, n: int) -> None:
    """What the space holds from n on will get no answer under this id."""
    row = tx.space(space)
    if row is not None:
        tx.put_space(replace(row, resend_n=min(n, row.next_n if row.resend_n is None else row.resend_n)))


def sends(row: SpaceRow, n: int, *, leaving: bool) -> bool:
    """Whether the change n may be sent under the present id."""
    return not leaving or (row.resend_n is not None and n < row.resend_n)


def is_done(tx: Tables) -> bool:
    """Every space has the answers that it can get under the old id."""
    return not any(
        oldest_n is not None and sends(row, oldest_n, leaving=True)
        for row in tx.spaces()
        for oldest_n in [tx.oldest_n(row.name)]
    )


def rename(tx: Tables, device: bytes) -> list[OutcomeRow]:
    """Take the new id in all spaces. Returns the outcomes of what was given up and is not offered again."""
    assert is_leaving(tx)
    assert is_done(tx)
    old: Value = tx.setting("device")
    assert isinstance(old, bytes)
    ended: list[OutcomeRow] = []
    for row in tx.spaces():
        ended += _renumbered(tx, row, old)
    tx.put_setting("device", device)
    tx.put_setting("forked", None)
    return ended


def _renumbered(tx: Tables, row: SpaceRow, old: bytes) -> list[OutcomeRow]:
    entries = sorted(tx.outbox(row.name) + tx.kept(row.name), key=lambda entry: entry.n)
    former = [entry for entry in entries if entry.outcome is not None]
    left = [entry for entry in entries if entry.outcome is None]
    settled_n = (left[0].n if left else row.next_n) - 1
    mine = (Former(old, settled_n, row.own_seq),) if row.own_seq else ()
    for entry in entries:
        tx.drop_entry(row.name, entry.n)
    # What has its outcome waits for its delta, or to be called safe, in front of all that the new id commits.
    for n, entry in enumerate(former, 1 - len(former)):
        tx.put_entry(row.name, replace(entry, n=n, last_n=n))
    ended = [_ended(tx, row.name, entry) for entry in left if entry.void_reason is not None]
    again = [entry for entry in left if entry.void_reason is None]
    for n, entry in enumerate(again, 1):
        tx.put_entry(row.name, replace(entry, n=n, last_n=n, context=with_former(entry.context, mine, entry.base)))
    tx.set_refused_aside(row.name)
    tx.put_space(
        replace(
            row,
            next_n=len(again) + 1,
            settled=0,
            resend_n=None,
            own_seq=0,
            context=(*row.context, *mine)[-CONTEXT_MAX:],
        )
    )
    return ended


def _ended(tx: Tables, space: str, entry: Entry) -> OutcomeRow:
    """Numbers given up under the old id mean nothing under the new one."""
    outcome = OutcomeRow(space, entry.n, entry.nonce, "void", None, {"reason": entry.void_reason})
    tx.add_outcome(outcome)
    return outcome


def with_former(own: tuple[Former, ...], more: tuple[Former, ...], base: int) -> tuple[Former, ...]:
    """The context of a change: what its base does not say already; of too many ids the newest (to have seen less is
    always safe)."""
    return tuple(former for former in (*own, *more) if former.seq > base)[-CONTEXT_MAX:]


def cut_off(context: tuple[Former, ...], fork: int) -> tuple[Former, ...]:
    """A context in an epoch that shares the history up to `fork` with the one that it was made in."""
    return tuple(replace(former, seq=min(former.seq, fork)) for former in context if min(former.seq, fork))


def take_up_lost(tx: Tables, row: SpaceRow, fork: int) -> SpaceRow:
    """A restored server lost what was settled under a former id, and with it all that this id ever sent: for an id is
    taken only when the one before has its answers. So all is numbered anew, in the order in which it was made."""
    entries = sorted(tx.outbox(row.name) + tx.kept(row.name), key=lambda entry: entry.n)
    lost = [entry for entry in entries if entry.n <= 0 and entry.seq is not None and entry.seq > fork]
    if not lost:
        return row
    again = [*lost, *(entry for entry in entries if entry.n > 0)]
    for entry in again:
        tx.drop_entry(row.name, entry.n)
    n = 1
    for entry in again:
        last_n = n + entry.last_n - entry.n
        tx.put_entry(row.name, replace(entry, n=n, last_n=last_n, outcome=None, seq=None, is_kept=False))
        n = last_n + 1
    return replace(row, next_n=n)
