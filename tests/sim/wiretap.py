"""What a device sends and hears on one connection, read from the bytes, and checked against what it may.

Owns the part of the auditor that sits on the wire. Decodes frames by itself; knows the message codes of the protocol
and nothing of client or server.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import trio

from tests.oracle.replica import hashed
from tests.sim.auditor import READER, Auditor, Recorded, SpaceAudit, Violation
from tests.sim.topic import Work
from tests.sim.trace import Trace

NAMES = {
    1: "hello", 2: "subscribe", 3: "unsubscribe", 4: "push", 5: "ack", 6: "sums", 7: "signal", 8: "event", 9: "purged",
    10: "refresh", 11: "background", 12: "foreground", 13: "probe", 14: "bye", 20: "ping", 21: "pong", 32: "welcome",
    33: "subscribed", 34: "delta", 35: "outcomes", 36: "revoked", 37: "differ", 38: "repair", 39: "signal",
    40: "presence", 41: "expired", 42: "error", 43: "goaway", 44: "noted",
}  # fmt: skip
CODES = {name: code for code, name in reversed(NAMES.items())}  # of a name that both ends say, the client's
# Told to a space: none of these is the fault of a well-behaved client.
HARMLESS_ERRORS = ("overloaded", "store_full", "not_subscribed", "forbidden")
HARMLESS_CLOSES = ("unauthenticated", "token_expired", "superseded")
DELETED = 2


@dataclass(slots=True)
class TokenFacts:
    """What a token says: role by space. `accepted_s`: when the server took it, each time."""

    roles: Mapping[str, int]
    expires_ms: int
    accepted_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Heard:
    """One space on one connection. `is_strict`: exactly one subscription is in force, so what comes is contiguous.
    `had`: where earlier subscriptions of it stood. A `subscribe` may leave long after it was made (a poll takes
    seconds), and what was heard meanwhile is not in it; an `ack` behind it names that."""

    asked: int = 0
    answered: int = 0
    is_strict: bool = True
    complete: int = 0
    had: int = 0
    is_left: bool = False  # by `unsubscribe`, perhaps for good: all is downloaded anew then
    # What came on the way since it was forgotten for the time of this number: if it was joined again before that could
    # be said, the new copy took it.
    forgotten: int = 0
    fresh: int = 0
    resume: int = 0
    is_first: bool = False
    to: int = 0
    acked: int = 0
    settled: int = 0  # up to here it says that it has the outcomes: a copy of a device knows what its twin heard
    revoked: bool = False
    epoch: bytes | None = None  # as the last `subscribe` names it
    mending: int | None = None  # while it reconciles: where it is going to stand, 0 before that is known


def messages_of(frame: bytes | str) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(frame, str):
        items = json.loads(frame)
    else:
        unpacker = msgpack.Unpacker(raw=False, strict_map_key=True, max_buffer_size=1 << 26)
        unpacker.feed(frame)
        items = list(unpacker)
    return [(NAMES[code], body) for code, body in items]


def raw(value: Any) -> bytes:
    return bytes.fromhex(value) if isinstance(value, str) else bytes(value)


class Wiretap:
    """A `sockets.Tap`. `tolerated`: errors that this device has brought upon itself. `settled`: the outcomes that it
    heard ever, by space: kept over its connections."""

    def __init__(
        self,
        auditor: Auditor,
        trace: Trace,
        node: str,
        device: bytes,
        tokens: Mapping[str, TokenFacts],
        settled: dict[str, dict[int, Recorded]],
        fail: Callable[[Violation], None],
        look: Callable[[], None],
        works: Sequence[Work] = (),
        tolerated: tuple[str, ...] = (),
    ) -> None:
        self._auditor, self._trace, self._node, self._device = auditor, trace, node, device
        self._tokens, self._settled = tokens, settled
        self._report, self._look, self._works = fail, look, works
        self._tolerated = (*tolerated, *(error for work in works for error in work.tolerated_errors))
        self._held: list[tuple[float, TokenFacts]] = []  # the tokens of this connection, and when they were sent
        self._spaces: dict[str, Heard] = {}
        self._restores = auditor.restores

    def _fail(self, invariant: str, detail: str) -> None:
        raise Violation(invariant, f"{self._node}: {detail}", self._node, "server")

    # -- from the device -----------------------------------------------------------------------------------------

    def sent(self, frame: bytes | str) -> None:
        try:
            self._sent(frame)
        except Violation as violation:
            self._report(violation)

    def received(self, frame: bytes | str) -> None:
        try:
            self._look()
            self._received(frame)
        except Violation as violation:
            self._report(violation)

    def closed(self, code: int) -> None:
        self._auditor.told_close(int(code))  # WebSocket libraries have names for some of them

    def complete(self, space: str) -> int:
        """Up to where this connection has brought everything."""
        return self._spaces[space].complete if space in self._spaces else 0

    def _sent(self, frame: bytes | str) -> None:
        for name, body in messages_of(frame):
            self._trace.record(self._node, f"> {name} {_told(body)}")
            for work in self._works:
                work.sent(self._node, self._device, name, body)
            if self._restores != self._auditor.restores and name not in ("hello", "refresh"):
                continue  # to a server whose store was put back meanwhile: it never gets there
            if name in ("hello", "refresh"):
                facts = self._tokens[body["token"]]
                self._held.append((trio.current_time(), facts))
            elif name == "subscribe":
                self._subscribe(body)
            elif name == "unsubscribe" and body["space"] in self._spaces:
                self._spaces[body["space"]].is_left = True
            elif name == "ack":
                heard = self._spaces[body["space"]]
                is_beyond = heard.is_strict and body["applied"] > max(heard.complete, heard.had, heard.acked)
                if is_beyond or body["applied"] < heard.acked:
                    self._fail("S4", f"acknowledges {body['applied']} of {body['space']}, having {heard.complete}")
                heard.acked = body["applied"]
            elif name == "sums" and body.get("buckets") is not None:
                self._spaces[body["space"]].mending = 0

    def _subscribe(self, body: dict[str, Any]) -> None:
        heard = self._spaces.setdefault(body["space"], Heard())
        heard.is_strict = heard.is_strict and heard.asked == heard.answered
        heard.asked += 1
        heard.had = self._fresh(body["space"]) if heard.is_left else max(heard.had, heard.complete)
        heard.is_left = False
        heard.complete, heard.resume, heard.settled = body["complete"], body["resume"], body["settled"]
        heard.is_first = not heard.complete
        heard.revoked, heard.to, heard.acked, heard.mending = False, 0, 0, None
        heard.epoch = None if body.get("epoch") is None else raw(body["epoch"])
        head = self._auditor.space(body["space"]).oracle.head
        if heard.epoch not in self._auditor.shared and max(heard.complete, heard.resume) > head:
            self._fail("S4", f"asks for {body['space']} after {heard.resume}, beyond the head {head}")

    def _fresh(self, space: str) -> int:
        """Up to where what came since it was forgotten goes on from the start."""
        heard, forgotten = self._spaces[space], self._auditor.forgotten[self._node, space]
        if heard.forgotten != forgotten:
            heard.forgotten, heard.fresh = forgotten, 0
        return heard.fresh

    # -- from the server -----------------------------------------------------------------------------------------

    def _received(self, frame: bytes | str) -> None:
        for name, body in messages_of(frame):
            self._trace.record(self._node, f"< {name} {_told(body)}")
            for work in self._works:
                work.received(self._node, self._device, name, body)
            if self._restores != self._auditor.restores:
                continue  # what was under way when the server died, of a store that is no more
            if name == "welcome" and not self._is_accepted():
                self._fail("S11", "is welcomed with a token that nobody looked at")
            elif name == "subscribed":
                heard = self._spaces[body["space"]]
                # It comes again when a role changes, by the space or by a new token: whose answer it is cannot be told.
                if heard.asked > 1 and (self._auditor.space(body["space"]).regrants or len(self._held) > 1):
                    heard.is_strict = False
                heard.answered, heard.revoked = min(heard.answered + 1, heard.asked), False
                self._check_said(body["space"], body["head"])
            elif name == "delta":
                self._delta(body)
            elif name in ("differ", "repair"):
                self._compared(name, body)
            elif name == "outcomes":
                self._outcomes(body)
            elif name == "revoked":
                heard = self._spaces[body["space"]]
                heard.answered, heard.revoked = heard.asked, True
            elif name == "expired":
                self._expired(body)
            elif name == "error":
                self._auditor.told_error(body["name"])
                self._error(body)
            elif name == "goaway":
                self._auditor.told_goaway(self._node, body["retry_after_ms"])

    def _expired(self, body: dict[str, Any]) -> None:
        heard = self._spaces.get(body["space"])
        if not self._auditor.shared:
            self._fail("S4", f"is told that its position in {body['space']} expired, and the server lost nothing")
        if heard is not None and heard.epoch != raw(body["epoch"]):
            # What was asked for by a position of the former epoch is not answered any more.
            heard.answered, heard.complete, heard.had, heard.resume, heard.fresh = heard.asked, 0, 0, 0, 0

    def _error(self, body: dict[str, Any]) -> None:
        harmless = HARMLESS_CLOSES if body.get("space") is None else HARMLESS_ERRORS
        if body["name"] not in (*harmless, *self._tolerated, "overloaded", "store_full"):
            self._fail("S15", f"is told of the error {body['name']}: {body.get('detail')}")
        if body.get("space") in self._spaces:
            heard = self._spaces[body["space"]]
            heard.is_strict = heard.is_strict and heard.asked == heard.answered

    def _delta(self, body: dict[str, Any]) -> None:
        space, from_, after, to = body["space"], body["from"], body["after"], body["to"]
        audit, heard = self._auditor.space(space), self._spaces[space]
        if to > audit.oracle.head:
            self._fail("S4", f"hears of {space} up to {to}, and the head is {audit.oracle.head}")
        said = self._check_said(space, to - 1)
        # Whoever was let in later reads by that what came before.
        user = self._auditor.users.get(self._device, "")
        let_in = max((roles[user] or 0 for at, roles in audit.regrants if at >= to and user in roles), default=0)
        might = max(said or 0, let_in) >= READER or self._might_read(space, audit.committed_s.get(to, 0.0))
        if heard.revoked or not might:
            self._fail("S11", f"hears of {space}, which it may not read")
        if body.get("complete") and body.get("sum") is not None:
            total = int.from_bytes(raw(body["sum"]))
            if to not in audit.sums:
                self._fail("S2", f"{space}: a delta ends at {to}, where no commit ended")
            if total != audit.sums[to]:
                self._fail("S7", f"{space}: the sum at {to} is {total:016x}, by the definitions {audit.sums[to]:016x}")
        heard.to = max(heard.to, to)
        if body.get("complete"):
            self._check_lives(audit, body["docs"], to)
            if from_ <= self._fresh(space):
                heard.fresh = max(heard.fresh, to)
        if heard.asked != heard.answered and body.get("complete") and from_ <= max(heard.complete, heard.had):
            heard.had = max(heard.had, to)  # of the subscription before, on its way still: it goes on where that stood
        if heard.asked != heard.answered or not heard.is_strict or heard.mending is not None:
            return
        if to <= heard.complete or from_ > heard.complete or after > heard.resume:
            self._fail(
                "S5", f"{space}: a delta from {from_} after {after} to {to} comes at {heard.complete}, {heard.resume}"
            )
        start = body.get("start")
        if heard.is_first and start is not None:
            for collection, document, rev, state, _ in body["docs"]:
                if state == DELETED and rev <= start:
                    self._fail("S5", f"{space}: a first download has the tombstone of {collection}/{document}")
        heard.resume = to
        if body.get("complete"):
            heard.complete, heard.is_first = to, False

    def _compared(self, name: str, body: dict[str, Any]) -> None:
        """What differs is brought, as it is at one seq."""
        space, at = body["space"], body["at"]
        audit, heard = self._auditor.space(space), self._spaces[space]
        if at not in audit.sums:
            self._fail("S2", f"{space}: what differs was read at {at}, where no commit ended")
        self._check_said(space, at)
        heard.to = max(heard.to, at)
        if heard.mending is None:
            return
        if name == "differ":
            heard.mending = at
        self._check_lives(audit, body.get("docs", ()), at)
        hashes = raw(body.get("gone") or b"")
        gone = {hashes[first : first + 8] for first in range(0, len(hashes), 8)}
        living = [key for key in audit.live(at) if hashed(["k", *key]).to_bytes(8) in gone] if gone else []
        if living:
            self._fail("S8", f"{space}: is told that {living[0]} is gone, which lives at {at}")
        if body.get("sum") is not None and int.from_bytes(raw(body["sum"])) != audit.sums[heard.mending]:
            self._fail("S7", f"{space}: the sum behind what was repaired is not that of {heard.mending}")
        if body.get("last") or (name == "differ" and not body["buckets"]):
            heard.complete = heard.resume = heard.mending
            heard.is_first, heard.mending = False, None

    def _check_lives(self, audit: SpaceAudit, docs: Sequence[Any], at: int) -> None:
        if at not in audit.sums:
            return
        for collection, document, rev, state, _ in docs:
            if audit.is_live((collection, document), at) != (state != DELETED):
                is_back = "which is deleted" if state != DELETED else "as deleted, which lives"
                self._fail("S8", f"is brought {collection}/{document} of rev {rev}, {is_back} at {at}")

    def _is_accepted(self) -> bool:
        """Whether the server took the token of `hello` since it was sent. That it was still in force then is judged
        where it is taken: the server's clock may step while the answer is under way."""
        sent_s, facts = self._held[0]
        return any(at_s >= sent_s for at_s in facts.accepted_s)

    def _check_said(self, space: str, seq: int) -> int | None:
        """What the space says of this user at a seq, which must not be that it is denied: unless it was let in again
        behind it, and so may read also what it had missed."""
        audit, user = self._auditor.space(space), self._auditor.users.get(self._device, "")
        said = audit.said(user, seq)
        if said == 0:
            later = [roles[user] for at, roles in audit.regrants if at > seq and user in roles]
            said = next((role for role in later if role != 0), said)
        if said == 0:
            self._fail("S11", f"hears of {space} behind seq {seq}, at which it is denied")
        return said

    def _might_read(self, space: str, committed_s: float) -> bool:
        """Whether a token that was in force when this was committed, or a later one, allows it."""
        allowing = False
        for sent_s, facts in self._held:
            is_reader = facts.roles.get(space, 0) >= READER
            is_in_force = any(sent_s <= at_s < committed_s for at_s in facts.accepted_s)
            allowing = is_reader if is_in_force else allowing or is_reader
        return allowing

    def _outcomes(self, body: dict[str, Any]) -> None:
        space = body["space"]
        audit, heard = self._auditor.space(space), self._spaces.get(space)
        settled = self._settled.setdefault(space, {})
        for n, nonce, outcome, seq, _ in body["outcomes"]:
            told = Recorded(raw(nonce), outcome, seq)
            durable = audit.recorded.get((self._device, n))
            if durable != told:
                self._fail("S1", f"{space}: is told {told} of n = {n}, and what is durable is {durable}")
            is_news = n not in settled and heard is not None and n > heard.settled
            if is_news and seq is not None and heard is not None and heard.to >= seq and heard.is_strict:
                self._fail("S17", f"{space}: hears the outcome of n = {n}, seq {seq}, after the delta to {heard.to}")
            settled[n] = told


def _told(body: dict[str, Any]) -> str:
    """What of a message goes into the trace: nothing secret, nothing long."""
    shown = {}
    for name in ("space", "complete", "resume", "settled", "from", "after", "to", "head", "applied", "name", "gap"):
        if body.get(name) is not None:
            shown[name] = body[name]
    for name in ("changes", "outcomes"):
        if name in body:
            shown[name] = [item[0] if item[0] != "void" else item[:3] for item in body[name]]
    return " ".join(f"{name}={value}" for name, value in shown.items())
