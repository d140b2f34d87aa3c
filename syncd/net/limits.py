"""Limits of the shells: what one connection, one address and one process may take.

Owns every number that `http`, `connection`, `delivery`, `hub` and `server` enforce and that a client is not told (those
it is told are `wire.limits`). Each has its unit in its name, and its reason beside it. Nobody waits, keeps or allocates
beyond one of these.
"""

from dataclasses import dataclass
from typing import Final

from syncd.net.rates import Rate
from syncd.wire.limits import PING_MS


@dataclass(frozen=True, slots=True)
class NetLimits:
    """Defaults suit one process on a small machine; `app` overrides them from the configuration."""

    # -- admission
    connections_max: int = 20_000  # at 8 KiB each, 160 MiB; the operator raises it with the file descriptor limit
    connections_per_address_max: int = 5_000  # carrier NAT puts thousands of phones behind one address
    connections_per_user_max: int = 64  # devices of one person, with room for stale connections of each
    refusals_max: int = 256  # sockets that get a 503 or a 429 instead of a reset, at a time
    # 70 % of the least that was measured: 710 to 1,445 first contacts per second and core, each an upgrade, an HS256
    # token, a device that is bound and a subscription. Beyond that a crowd waits outside, not in the queue. A drain
    # spreads the devices that it sends away by it: what is more than the next process can take is announced too early.
    upgrades_per_s_max: float = 500.0
    upgrades_burst_max: float = 500.0
    refused_retry_min_s: float = 1.0  # Retry-After of a 503 is drawn from here..max: a crowd must not return as one
    refused_retry_max_s: float = 30.0

    # -- rates, each in buckets of its own (`gate`)
    rate_entries_max: int = 32_768  # buckets of one kind, some 150 bytes each: all kinds together stay below 40 MB
    # The phones behind a carrier's gateway may all come back at once; beyond that, twice as many as are let in.
    address_connections: Rate = Rate(per_s=1_000.0, burst=5_000.0)
    address_requests: Rate = Rate(per_s=1_000.0, burst=5_000.0)  # a third of what one core answers
    caller_requests: Rate = Rate(per_s=1_000.0, burst=5_000.0)  # of a user or API key; batches carry 1,000 events each
    # Slips and stale keys are a handful; a guesser gets one try in ten seconds, who would need 2^255 of them.
    address_failures: Rate = Rate(per_s=0.1, burst=30.0)
    # Enough for an outbox of a month: 32 MiB at once. Beyond it the sender is read at the pace of a good radio link.
    user_bytes: Rate = Rate(per_s=4_194_304.0, burst=33_554_432.0)
    user_changes: Rate = Rate(per_s=2_000.0, burst=50_000.0)  # a tenth of what one core commits

    # -- HTTP
    header_bytes_max: int = 16_384  # a bearer token of 64 grants is below 16 KiB; nginx takes 8 KiB a line, 32 in all
    header_s: float = 10.0  # from the first byte, or the accept, to the last header: Apache's RequestReadTimeout is 20
    body_s: float = 30.0  # a 4 MiB body at 150 kB/s
    handle_s: float = 30.0  # a queue full of commands is written in seconds; later than this nobody waits any more
    write_s: float = 30.0  # without progress in sending a response
    stream_s: float = 3_600.0  # of one streamed response: deploys and balancers count on connections that move
    keep_alive_s: float = 75.0  # nginx's default: longer than most clients keep an idle connection
    requests_per_connection_max: int = 10_000  # so that load balancers see connections move; nginx: 1,000

    # -- waiting for changes over HTTP: long polls and event streams
    waiters_max: int = 10_000  # half of the connections: a wait must not keep devices out
    waiters_per_caller_max: int = 256  # of one API key or user: workers of one backend, with room for a restart
    waiters_per_address_max: int = 2_000  # a gateway of many backends, or of many users
    wait_s_max: int = 55  # common proxies (nginx, ALB) end a request that is silent for 60 s
    stream_keep_alive_s: float = 15.0  # a comment so often, as WHATWG advises against proxies that drop idle streams
    stream_retry_s_min: float = 1.0  # the `retry` of a stream is drawn from here..max: a crowd must not return as one
    stream_retry_s_max: float = 5.0
    shared_bytes_max: int = 8_388_608  # of pages read for one waiter and kept for the next at the same place

    # -- WebSocket
    closing_s: float = 5.0  # from our close frame to the peer's: one slow round trip
    no_progress_s: float = 30.0  # nothing of what waits was taken: longer than a phone's change from WLAN to cell
    control_bytes_max: int = 65_536  # pongs, errors and answers that wait behind a remainder
    # Of pages that returning devices share: 64 full ones, the downloads of some spaces in two formats at once; a tenth
    # of what 20,000 connections take.
    shared_pages_bytes_max: int = 16_777_216
    # -- signals and presence
    # Signals for one connection that is behind: of each key the newest, so a screen full of cursors or prices.
    signals_held_max: int = 256
    signals_held_bytes_max: int = 65_536  # as `control_bytes_max`
    # Of one space, while what came before is handed out: some turns of the loop at the greatest rate.
    space_signals_max: int = 1_024
    space_signals_bytes_max: int = 1_048_576
    # A space with 1,000 listeners costs 40 ms of each second at 100 frames; beyond this rate its own senders crowd it.
    space_signals: Rate = Rate(per_s=1_000.0, burst=2_000.0)
    # Longer than the first wait before a reconnect and its handshake on a bad link; shorter than people wait.
    presence_grace_s: float = 15.0
    presences_max: int = 65_536  # of all spaces together, at a state of 512 bytes each: 60 MB

    ack_flush_s: float = 1.0  # an ack rests here at most so long: a newer one replaces it and saves a write
    ping_ms: int = PING_MS
    ack_ms: int = 5_000
    first_jitter_ms: int = 5_000
    backoff_ms: int = 1_000
    backoff_ms_max: int = 60_000
    stable_ms: int = 60_000
    goaway_spread_ms: int = 1_000  # on top of each client's own delay
    goaway_slack: float = 1.25  # a drain's delays to the time in which all are taken: others come meanwhile, too
    # From goaway until the next process listens. An estimate: with both cores taken by other work 5 to 7 s were seen.
    # Whoever comes earlier meets no listener, and has to come again.
    goaway_absence_ms: int = 3_000

    # -- polled connections (SPEC 5.5)
    polled_max: int = 10_000  # each with 64 KiB and two frames at worst; few networks let no WebSocket through
    poll_s: float = 25.0  # a request waits at most so long: proxies give up after 30 (AWS: 60, HAProxy's examples: 50)
    polled_linger_s: float = 30.0  # an end is remembered, so that a client whose answer was lost learns of it
    # As `no_progress_s`, but a client says only when an answer has arrived as a whole: 2 MiB at 140 kbit/s.
    polled_no_progress_s: float = 120.0

    # -- sessions
    # Remembered for `resumed`, 200 bytes each, and as sessions of people, 300 bytes each; the oldest are forgotten.
    sessions_max: int = 100_000

    def reconnect(self) -> dict[str, int]:
        """The map of that name in `welcome`."""
        return {
            "first_jitter_ms": self.first_jitter_ms,
            "backoff_ms": self.backoff_ms,
            "backoff_max_ms": self.backoff_ms_max,
            "stable_ms": self.stable_ms,
        }


DEFAULTS: Final = NetLimits()
