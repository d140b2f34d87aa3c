"""What all connections of a server share.

Owns the wiring of a connection to the rest of the process, and the two answers that depend on nothing else: whom a
token stands for, and what `welcome` says. Must not know any one connection.
"""

from collections.abc import Callable
from dataclasses import dataclass

from syncd.engine import reading
from syncd.engine.commands import Author, Bind, Command, Decision, Failed, Result
from syncd.env.ports import Clock, Entropy
from syncd.net.auth import Authenticator, Principal, Unauthenticated, digest
from syncd.net.channels import Wiring
from syncd.net.gate import Gate
from syncd.net.hub import Hub
from syncd.net.limits import NetLimits
from syncd.net.rates import RateTable
from syncd.net.wheel import Wheel
from syncd.store.api import Store
from syncd.store.committer import Committer, Overloaded
from syncd.wire import messages as m
from syncd.wire.errors import OVERLOADED, RATE_LIMITED, TOKEN_EXPIRED, UNAUTHENTICATED, ProtocolError
from syncd.wire.limits import Limits
from syncd.wire.session import CAPS

FOREIGN_PER_LINE = 100  # positions of another history that one line of the log stands for


@dataclass(frozen=True, slots=True)
class Services:
    """What all connections of a server share. `told`: the rate of events, by user. `server`, `told_limits` and
    `told_reconnect` go into each `welcome` as they are; `log` takes one text."""

    store: Store
    committer: Committer[Command, Result, Decision]
    authenticator: Authenticator
    gate: Gate
    hub: Hub
    wheel: Wheel
    wiring: Wiring
    clock: Clock
    entropy: Entropy
    limits: NetLimits
    wire_limits: Limits
    told: RateTable
    server: str
    told_limits: dict[str, int]
    told_reconnect: dict[str, int]
    log: Callable[[str], None]

    def principal(
        self, token: str | None, authorization: str | None, peer: str, *, is_known: bool = False
    ) -> Principal:
        """Whom a message's token stands for, or else the header of the upgrade request. `is_known`: another token of
        the sender was good, so what neighbours behind its address guess is not held against it; a wrong one ends the
        connection, and counts. Raises `ProtocolError`."""
        if token is None and authorization is not None:
            scheme, _, rest = authorization.partition(" ")
            token = rest.strip() if scheme.lower() == "bearer" else None
        if token is None:
            detail = "'hello' has a token, or the upgrade request 'Authorization: Bearer'"
            self.gate.failed(peer, "missing")
            raise ProtocolError(UNAUTHENTICATED, detail)
        token_digest = digest(token)
        if not is_known and (wait_s := self.gate.credentials_refused_s(peer, token_digest)):
            detail = f"this address sent wrong credentials too often; again in {int(wait_s) + 1} seconds"
            raise ProtocolError(RATE_LIMITED, detail)
        try:
            principal = self.authenticator.token(token, self.clock.now_ms(), token_digest)
        except Unauthenticated as refused:
            self.gate.failed(peer, refused.reason)
            kind = TOKEN_EXPIRED if refused.reason == "expired" else UNAUTHENTICATED
            raise ProtocolError(kind, refused.detail) from None
        self.gate.accepted(token_digest)
        return principal

    async def bound(self, author: Author) -> Result:
        """What the engine says of a device and its user; whom it knows it need not be asked about."""
        with self.store.read() as tx:
            known = reading.bound(tx, author)
        if known is not None:
            return known
        try:
            return await self.committer.execute(Bind(author))
        except Overloaded as overloaded:
            return Failed(OVERLOADED.name, str(overloaded))

    def met_expiry(self, alarm: str | None) -> None:
        """Operators must hear of a position that is not of this store's history. Each is counted; the first is logged,
        and then each hundredth, as a store that was set back meets all its devices again."""
        if alarm is not None:
            counters = self.hub.counters
            counters.foreign_positions += 1
            if counters.foreign_positions % FOREIGN_PER_LINE == 1:
                self.log(f"alarm: {alarm}")

    def welcome(self, session: bytes, user: str, is_resumed: bool, ping_ms: int, expires_ms: int | None) -> m.Welcome:
        return m.Welcome(
            session,
            self.clock.now_ms(),
            user,
            is_resumed,
            self.told_limits,
            ping_ms,
            self.limits.ack_ms,
            self.told_reconnect,
            self.server,
            caps=CAPS,
            expires=expires_ms,
        )
