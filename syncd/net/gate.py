"""The gate: how much each address, user and key may ask for, whatever it is that it asks.

Owns the tables of buckets, who is counted under which name, and the memory of credentials that were good. Must not know
what is refused to whom in which words: callers get seconds to wait, 0 for none.

Refused (an answer with a time to come back): connection attempts and HTTP requests of an address, requests of a user or
API key, credentials from an address that guesses. Made to wait (the reader pauses, so TCP slows the sender down, and
nothing is lost): the bytes and the changes that the devices of one user send.

Invariants: G1 every table is bounded by `rate_entries_max`, whoever comes. G2 whoever guesses credentials gets slower
and slower answers, and his neighbours behind the same address go on with credentials that were good before, and with
those to which they change on a connection that they have.
"""

from collections import OrderedDict
from ipaddress import IPv6Address

import trio

from syncd.env.ports import host_of
from syncd.net.counters import Counters
from syncd.net.limits import NetLimits
from syncd.net.rates import RateTable

# Reasons for which credentials are refused that show a guess. An expired token was once signed by us, and so is no
# guess; nor is its absence.
GUESSES = frozenset({"malformed", "bad_signature", "unknown_key"})
_NETWORK_BYTES = 8  # of an IPv6 address: a subscriber is given a /64 at least, and may use all of its addresses


class Gate:
    """`counters.rate_limited` counts what was refused or paused here, by kind."""

    def __init__(self, limits: NetLimits, counters: Counters) -> None:
        self.counters = counters
        count = limits.rate_entries_max
        self._connections = RateTable(limits.address_connections, count)
        self._address_requests = RateTable(limits.address_requests, count)
        self._caller_requests = RateTable(limits.caller_requests, count)
        self._failures = RateTable(limits.address_failures, count)
        self._bytes = RateTable(limits.user_bytes, count)
        self._changes = RateTable(limits.user_changes, count)
        self._proven: OrderedDict[bytes, None] = OrderedDict()  # digests of credentials that were good
        self._proven_max = count

    # -- refused -------------------------------------------------------------------------------------------------

    def connection_refused_s(self, peer: str) -> float:
        return self._told("connections", self._connections.refused_s(counted_as(peer), trio.current_time()))

    def request_refused_s(self, peer: str) -> float:
        return self._told("requests_address", self._address_requests.refused_s(counted_as(peer), trio.current_time()))

    def caller_refused_s(self, caller: str) -> float:
        return self._told("requests_caller", self._caller_requests.refused_s(caller, trio.current_time()))

    def credentials_refused_s(self, peer: str, digest: bytes) -> float:
        """Asked before credentials are looked at, with what `auth.digest` makes of them: whether this address has
        guessed too often."""
        wait_s = self._failures.empty_s(counted_as(peer), trio.current_time())
        if wait_s and digest in self._proven:
            return 0.0
        return self._told("authentication", wait_s)

    # -- what became of credentials ------------------------------------------------------------------------------

    def accepted(self, digest: bytes) -> None:
        self._proven[digest] = None
        self._proven.move_to_end(digest)
        if len(self._proven) > self._proven_max:
            self._proven.popitem(last=False)

    def failed(self, peer: str, reason: str) -> None:
        self.counters.unauthenticated[reason] += 1
        if reason in GUESSES:
            self._failures.refused_s(counted_as(peer), trio.current_time())

    # -- made to wait --------------------------------------------------------------------------------------------

    def input_pause_s(self, user: str, size: int) -> float:
        return self._told("bytes", self._bytes.pause_s(user, trio.current_time(), size))

    def changes_pause_s(self, user: str, count: int) -> float:
        return self._told("changes", self._changes.pause_s(user, trio.current_time(), count))

    def _told(self, kind: str, wait_s: float) -> float:
        if wait_s:
            self.counters.rate_limited[kind] += 1
        return wait_s


def counted_as(peer: str) -> str:
    """What limits by address count a peer as: its IPv4 address, or the network of its IPv6 address."""
    host = host_of(peer)
    if not host.startswith("["):
        return host
    try:
        address = IPv6Address(host[1:-1])
    except ValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return address.packed[:_NETWORK_BYTES].hex()
