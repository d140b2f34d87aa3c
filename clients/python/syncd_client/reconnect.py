"""Between two connections: what outlives one, where the next goes to, and when it may begin.

Owns the memory of a device about its connections, and what it makes of the end of one. Decides by the rules of
`policy`; pure but for its own fields: time and random numbers are passed in. Must not know how a connection is made.

1. A wait that the server asked for (`goaway`, "slow down", `Retry-After`) is not cut short by anybody.
2. A wait that the client chose is cut short by the application (`hasten`) at the rate of `policy.Haste` at most.
3. A server that said goodbye and is not there yet is late, not down: `policy.ABSENT_MAX` attempts that find nobody are
   not counted as failures.
4. A terminal code ends all attempts until the application begins again.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from . import messages as m
from .errors import TransportClosed
from .links import Suspicion
from .policy import ABSENT_MAX, Disposition, Haste, Retry, disposition, goaway_delay_ms
from .session import Session


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the end of a connection means. `reason` is for people; `code` is the close code."""

    what: Disposition
    code: int
    reason: str


class Reconnecting:
    """`due_s`: no attempt before. `renews`: the token is a function, so that another one can be had."""

    def __init__(self, url: str | None, *, renews: bool) -> None:
        self.suspicion: Suspicion | None = None
        self.session_id: bytes | None = None
        self.due_s = 0.0
        self._url = url
        self._next_url: str | None = None
        self._renews = renews
        self._retry = Retry()
        self._parameters = m.Reconnect()
        self._haste = Haste()
        self._is_told = False  # the server asked for the present wait
        self._absent_left = 0  # attempts that may find nobody after a goaway

    def start(self) -> None:
        """The application wants to be online: at once, and with nothing held against the server."""
        self._retry, self.due_s, self._is_told, self._absent_left = Retry(), 0.0, False, 0

    def target(self) -> str:
        """The URL of the next attempt; another host that the server named is tried once."""
        url = self._next_url or self._url
        assert url is not None, "without a URL nobody wants to be online"
        self._next_url = None
        return url

    def welcomed(self, session: Session) -> None:
        assert session.welcome is not None
        self.session_id = session.welcome.session
        self._parameters = session.parameters.reconnect

    def hasten(self, now_s: float) -> bool:
        """The application has a reason to try now: another network, a device that woke. Whether the bucket allows it;
        if so, earlier failures are no longer counted: they were of another path."""
        after = None if self._is_told and now_s < self.due_s else self._haste.taken(now_s)
        if after is None:
            return False
        self._haste, self._retry, self.due_s = after, Retry(1), now_s
        return True

    def ended(
        self,
        ending: TransportClosed,
        session: Session | None,
        ready_for_s: float,
        random: float,
        now_s: float,
        *,
        is_absent: bool = False,
        after_s: float = 0.0,
    ) -> Verdict:
        """Obey the way in which a connection ended. `session` is None if no socket was ever open; `is_absent`: because
        nobody listens; `after_s`: the `Retry-After` with which it was refused."""
        what = disposition(ending.code)
        reason = f"{ending.code} {ending.reason}".strip()
        if session is not None and session.error is not None:
            # The close frame's reason says the same once more, cut to 123 bytes.
            reason = f"{ending.code} {session.error.name}: {session.error.detail or ending.reason}"
        if what is Disposition.REAUTHENTICATE and not self._renews:
            what = Disposition.STOP  # a token that is a text cannot become another one
        if session is not None:
            self.suspicion = session.suspicion
        if session is None or session.is_too_early:
            what = Disposition.BACK_OFF
        if is_absent and self._absent_left:
            self._absent_left -= 1
            self._retry = Retry(1)
        if what is not Disposition.STOP:
            self._plan(what, session, ready_for_s, random, now_s)
            if after_s:
                self.due_s, self._is_told = max(self.due_s, now_s + after_s), True
        return Verdict(what, ending.code, reason)

    def _plan(
        self, what: Disposition, session: Session | None, ready_for_s: float, random: float, now_s: float
    ) -> None:
        self._retry = self._retry.after(what, 1000 * ready_for_s, self._parameters)
        goaway = session.goaway if session is not None else None
        self._is_told = goaway is not None or what is Disposition.SLOW_DOWN
        if session is not None:
            self._absent_left = 0 if goaway is None else ABSENT_MAX
        if goaway is not None:
            delay_ms = goaway_delay_ms(goaway.retry_after_ms, goaway.spread_ms, random)
            self._next_url = self._followed(goaway.resume_url)
        elif what is Disposition.RESUME_NOW:
            delay_ms = random * self._parameters.first_jitter_ms
        else:
            delay_ms = self._retry.delay_ms(self._parameters, random)
        self._retry = self._retry.failed()
        self.due_s = now_s + delay_ms / 1000

    def _followed(self, url: str | None) -> str | None:
        """Another host that the server names, unless that would take a token from TLS to plain text."""
        if url is None or self._url is None:
            return None
        scheme, now = urlsplit(url).scheme, urlsplit(self._url).scheme
        return url if scheme == now or scheme == "wss" else None
