"""The keys of the configuration: type, unit, range, default, and why the default is what it is.

Owns what may be configured, the relations between keys, and the example file `conf/syncd.toml`, which is generated from
here (`syncd check --example`). Must not know where values come from: that is `config.py`.

Each table is a frozen pydantic model that takes no unknown key and converts nothing: `"5"` is no integer. A reason
stands beside its key, because it is what an operator needs before changing it.
"""

import re
import textwrap
from collections.abc import Iterator
from ipaddress import ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints
from pydantic.fields import FieldInfo

from syncd.app import toml
from syncd.engine import frontier
from syncd.engine import quotas as engine_quotas
from syncd.engine.frontier import DAY_MS
from syncd.net.limits import DEFAULTS as NET
from syncd.wire.limits import ARRAY_ITEMS_MAX, PING_MS_MAX, PING_MS_MIN
from syncd.wire.limits import DEFAULT as WIRE

MIB = 1024 * 1024
GIB = 1024 * MIB
QUOTAS = engine_quotas.Quotas()
RETENTION = frontier.Retention()
HOUR_MS = DAY_MS // 24


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _integer(default: int, low: int, high: int, unit: str, reason: str) -> Any:
    expected = f"an integer from {low:_} to {high:_}{f' ({unit})' if unit else ''}"
    return Field(default, ge=low, le=high, description=reason, json_schema_extra={"expected": expected})


def _text(default: Any, expected: str, reason: str) -> Any:
    return Field(default, description=reason, json_schema_extra={"expected": expected})


def _list(default: tuple[str, ...], expected: str, reason: str) -> Any:
    # Not strict in this one thing: TOML knows lists, and a frozen table holds tuples.
    return Field(default, strict=False, description=reason, json_schema_extra={"expected": expected})


def expectation(field: FieldInfo) -> str:
    """What a key takes, in words: for complaints and for the example file."""
    extra = field.json_schema_extra
    assert isinstance(extra, dict), "every key says what it expects"
    return str(extra["expected"])


_LISTEN = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
_ORIGIN = re.compile(r"https?://(?:\[[0-9A-Fa-f:.]+\]|[a-z0-9.-]+)(?::\d{1,5})?")
LISTEN_EXPECTED = "HOST:PORT, the host an address or a name of this machine, the port 0-65535 (0: any free one)"


def host_and_port(text: str) -> tuple[str, int]:
    """`[::1]:8740` -> (`::1`, 8740). Raises `ValueError`."""
    found = _LISTEN.fullmatch(text)
    if found is None or int(found[1]) > 65535:
        raise ValueError(f"expected {LISTEN_EXPECTED}")
    return text.rpartition(":")[0].strip("[]"), int(found[1])


def _checked_listen(text: str) -> str:
    host_and_port(text)
    return text


def _checked_network(text: str) -> str:
    ip_network(text)
    return text


ProxyNetwork = Annotated[str, AfterValidator(_checked_network)]
Listen = Annotated[str, AfterValidator(_checked_listen)]
Origin = Annotated[str, StringConstraints(pattern=f"^(?:{_ORIGIN.pattern}|\\*)$")]


class Server(Table):
    """Where the daemon listens, and for whom."""

    listen: Listen = _text(
        "127.0.0.1:8740", LISTEN_EXPECTED,
        "Clients and backends, HTTP and WebSocket. Loopback by default: the outside needs TLS, here or in a proxy.",
    )  # fmt: skip
    admin_listen: Listen = _text(
        "127.0.0.1:8741", LISTEN_EXPECTED,
        "Health and status for probes and dashboards; it answers no secrets and changes nothing. What does needs the"
        " UNIX socket admin.sock in the state directory, which only the daemon's own user can open.",
    )  # fmt: skip
    origins: tuple[Origin, ...] = _list(
        ("*",), 'a list of origins such as "https://app.example.com"; "*" stands for any',
        "Web pages whose scripts may open a WebSocket. Any page may by default: a browser adds no token of its own"
        " accord, so a foreign page has nothing to ride on. A list keeps foreign pages from even trying.",
    )  # fmt: skip
    proxies: tuple[ProxyNetwork, ...] = _list(
        (), 'a list of addresses or networks such as "10.0.0.7" or "10.1.0.0/16"',
        "Load balancers that begin each connection to server.listen with a header of the PROXY protocol, version 2, so"
        " that limits go by the addresses of their clients. With any named here, nobody else can connect.",
    )  # fmt: skip
    connections_max: int = _integer(
        NET.connections_max, 1, 1_000_000, "connections",
        "Each costs about 8 KiB and a file descriptor; the daemon raises its own limit of descriptors as far as the"
        " system lets it, and warns if that is not enough. Further connections are answered 503.",
    )  # fmt: skip
    connections_per_address_max: int = _integer(
        NET.connections_per_address_max, 1, 1_000_000, "connections",
        "One address must not take all connections. It is high because a carrier's gateway stands for thousands of"
        " phones; behind a proxy that is not in server.proxies set it to connections_max.",
    )  # fmt: skip
    connections_per_user_max: int = _integer(
        NET.connections_per_user_max, 1, 10_000, "connections",
        "The devices of one person, with room for connections that died unnoticed.",
    )  # fmt: skip
    polled_max: int = _integer(
        NET.polled_max, 0, 1_000_000, "connections",
        "Devices that poll over HTTP because their network lets no WebSocket through; each may take 64 KiB and two"
        " frames while it does not poll. Further ones are answered 503; 0: all of them.",
    )  # fmt: skip
    upgrades_per_s_max: int = _integer(
        int(NET.upgrades_per_s_max), 1, 100_000, "devices per second",
        "Devices let in before anything is verified; a burst may be as long as a second. Beyond it comes 503 with a"
        " random Retry-After. 70 % of what the machine was measured to take keeps a crowd outside, not in the queue.",
    )  # fmt: skip


class Tls(Table):
    """TLS in the daemon itself, for `server.listen`. Without it, TLS belongs to a proxy in front."""

    certificate: str = _text(
        "", "the path of a PEM file: the certificate, then those that lead to a root; empty: no TLS",
        "A relative path is looked up as that of a key is. A renewed file is taken within a minute, for new"
        " connections; one that cannot be used leaves the old certificate in force and is logged.",
    )  # fmt: skip
    private_key: str = _text(
        "", "the path of a PEM file with the private key, without a password; empty: no TLS",
        "Readable by the daemon only; it may be the same file.",
    )  # fmt: skip


class Store(Table):
    """Where the data lies, and how much room it may take."""

    directory: str = _text(
        "", "the path of a directory",
        "Holds the store, the admin socket and generated secrets. Empty: $STATE_DIRECTORY of systemd, else"
        " $XDG_STATE_HOME/syncd, else ~/.local/state/syncd.",
    )  # fmt: skip
    map_bytes: int = _integer(
        GIB, 16 * MIB, 1024 * GIB, "bytes",
        "Address space reserved at first. The file is sparse: it takes only the disk that it uses.",
    )  # fmt: skip
    map_bytes_max: int = _integer(
        64 * GIB, 16 * MIB, 16 * 1024 * GIB, "bytes",
        "The store grows by itself up to here. When 90 % of it is used, new data is refused and reads go on.",
    )  # fmt: skip


class AuthKey(Table):
    """A key that verifies tokens; a secret or private one can also sign them (`syncd token`)."""

    kid: str = _text(..., "an id of 1-128 characters", "Stands in token headers, so that keys can be rotated.")
    algorithm: Literal["HS256", "EdDSA", "ES256", "RS256"] = _text(
        ..., '"HS256", "EdDSA", "ES256" or "RS256"', "The only algorithm that this key accepts."
    )
    file: str = _text(
        ..., "the path of a file: the secret itself for HS256 (32 bytes or more), else a PEM file",
        "A relative path is looked up among systemd's credentials first, then beside the configuration file.",
    )  # fmt: skip


class Auth(Table):
    """Which tokens are accepted. With no key at all, a secret is made once and kept in the state directory."""

    issuer: str = _text("", "text", "Tokens must have it as `iss`. Empty: any.")
    audience: str = _text("", "text", "Tokens must have it in `aud`. Empty: a token that names an audience is refused.")
    leeway_ms: int = _integer(
        10_000, 0, 300_000, "milliseconds", "For clocks of token issuers that are not quite ours."
    )
    key: tuple[AuthKey, ...] = _list((), "an array of tables", "The keys that verify tokens.")


class Limits(Table):
    """What one client may send. They are announced to clients, and lowering them never harms data."""

    frame_bytes_max: int = _integer(
        WIRE.frame_bytes_max, 512 * 1024, 4 * MIB, "bytes",
        "One WebSocket message; a change of the greatest size must fit. Decoding one may take 72 times its size.",
    )  # fmt: skip
    push_changes_max: int = _integer(
        WIRE.push_changes_max, 1, ARRAY_ITEMS_MAX, "changes",
        "One push is decided in one go; more changes in it would delay everyone else's.",
    )  # fmt: skip
    subscriptions_max: int = _integer(
        WIRE.subscriptions_max, 1, 4_096, "spaces", "Per connection. Each costs memory and work at every reconnect."
    )
    pushes_in_flight_max: int = _integer(
        WIRE.pushes_in_flight_max,
        1,
        256,
        "pushes",
        "Unanswered ones per connection before the server stops reading from it.",
    )
    messages_per_s_max: int = _integer(
        WIRE.messages_per_s_max, 1, 10_000, "messages per second",
        "Per connection, with bursts above it for a device that comes back. A device at work sends a few.",
    )  # fmt: skip


class Rates(Table):
    """How often an address, a user or an API key may ask. 0: as often as it likes. Each has a bucket that fills in some
    seconds, so that what comes in bursts is not hurt. An IPv6 address counts with its /64."""

    address_connections_per_s: int = _integer(
        int(NET.address_connections.per_s), 0, 1_000_000, "connections per second",
        "With 5 seconds' worth at once: the phones behind a carrier's gateway come back together. Behind a proxy that"
        " does not tell addresses, 0. Beyond it: 429.",
    )  # fmt: skip
    address_requests_per_s: int = _integer(
        int(NET.address_requests.per_s), 0, 1_000_000, "HTTP requests per second",
        "With 5 seconds' worth at once. Judged before the body is read. Beyond it: 429 with Retry-After.",
    )  # fmt: skip
    caller_requests_per_s: int = _integer(
        int(NET.caller_requests.per_s), 0, 1_000_000, "HTTP requests per second",
        "Of one user or API key, with 5 seconds' worth at once. A batch of events is one request. Beyond it: 429.",
    )  # fmt: skip
    address_failures_per_min: int = _integer(
        round(NET.address_failures.per_s * 60), 0, 60_000, "wrong credentials per minute",
        "With 5 minutes' worth at once. Beyond it an address is told to wait, unless its credentials were good before.",
    )  # fmt: skip
    user_bytes_per_s: int = _integer(
        int(NET.user_bytes.per_s), 0, 1024 * MIB, "bytes per second",
        "What the devices of one user send by WebSocket, with 8 seconds' worth at once. Beyond it they are read more"
        " slowly; nothing is lost.",
    )  # fmt: skip
    user_changes_per_s: int = _integer(
        int(NET.user_changes.per_s), 0, 1_000_000, "changes per second",
        "What the devices of one user push, with 25 seconds' worth at once. Beyond it they are read more slowly.",
    )  # fmt: skip


class Quotas(Table):
    """How much of the store one user or API key may fill with names that it invents. What is there stays usable."""

    devices_per_user_max: int = _integer(
        QUOTAS.devices_per_user_max, 1, 1_000_000, "device ids",
        "Each installation of an app makes one, and it stays. One more is refused: too_many_devices, close 4905.",
    )  # fmt: skip
    retired_devices_per_user_max: int = _integer(
        QUOTAS.retired_devices_per_user_max, 0, 1_000_000, "device ids",
        "The place of a device is free again when it is retired, so often: what is known of the id stays.",
    )  # fmt: skip
    spaces_per_user_max: int = _integer(
        QUOTAS.spaces_per_user_max, 1, 1_000_000_000, "spaces",
        "Made by subscribing or writing first. One more is refused: too_many_spaces.",
    )  # fmt: skip
    spaces_per_key_max: int = _integer(
        QUOTAS.spaces_per_key_max, 1, 1_000_000_000, "spaces",
        "The same of an API key, which makes an inbox for each user whom it notifies.",
    )  # fmt: skip
    idempotency_keys_per_user_max: int = _integer(
        QUOTAS.idempotency_keys_per_user_max, 1, 1_000_000_000, "requests",
        "Remembered for 24 hours, 150 bytes each. One more is refused: 429.",
    )  # fmt: skip
    idempotency_keys_per_key_max: int = _integer(
        QUOTAS.idempotency_keys_per_key_max, 1, 1_000_000_000, "events and requests",
        "The same of an API key: its changes of 24 hours and its events of 7 days; 10 million: 16 events a second.",
    )  # fmt: skip


class Retention(Table):
    """How long what is kept for devices that are away. Whoever stays away longer loses no change that it made, and is
    brought only what differs; but the server has to compare, instead of just going on."""

    collect: bool = _text(
        True, "true or false",
        "false: nothing that became unnecessary is dropped, and the store grows for ever. No answer to anyone differs.",
    )  # fmt: skip
    lapse_days: int = _integer(
        RETENTION.lapse_ms // DAY_MS, 1, 36_500, "days",
        "A device holds back what others deleted until it has heard of it, or the first change that it lacks is so old:"
        " a phone in a drawer over the summer. What a space deletes takes some 100 bytes for as long.",
    )  # fmt: skip
    lapse_bytes: int = _integer(
        RETENTION.lapse_bytes, MIB, 1024 * GIB, "bytes",
        "The same by the size of the changes that it lacks: the log of a busy space must not grow for days on end for"
        " one that is away. To catch up by comparing is cheaper than by reading so much.",
    )  # fmt: skip
    recent_hours: int = _integer(
        RETENTION.recent_ms // HOUR_MS, 0, 876_000, "hours",
        "Deletions are known for so long, whoever has heard of them. Backends that follow a space hold nothing back;"
        " these are the hours that one may be down and go on where it was.",
    )  # fmt: skip
    history_days: int = _integer(
        RETENTION.history_ms // DAY_MS, 0, 36_500, "days",
        "For so long `syncd explain` can tell who changed what, even if all devices have it.",
    )  # fmt: skip
    revocation_grace_s: int = _integer(
        0, 0, 604_800, "seconds",
        "After a member is denied, what its devices had written before they could know of it is taken for so long."
        " To read, and to alter members, ends at once in any case.",
    )  # fmt: skip


class Keepalive(Table):
    """How a silent connection is found out."""

    ping_ms: int = _integer(
        NET.ping_ms, PING_MS_MIN, PING_MS_MAX, "milliseconds",
        "Silence after which the server pings, if the client proposes nothing else. Below the 60 s after which common"
        " proxies drop an idle connection.",
    )  # fmt: skip
    ack_ms: int = _integer(
        NET.ack_ms, 100, 60_000, "milliseconds", "How often, at most, a client says what is durable on it."
    )


class Reconnect(Table):
    """How clients spread themselves when they come back."""

    first_jitter_ms: int = _integer(
        NET.first_jitter_ms, 0, 60_000, "milliseconds",
        "The first attempt waits a random part of this: short, as most cuts are short.",
    )  # fmt: skip
    backoff_ms: int = _integer(
        NET.backoff_ms, 100, 60_000, "milliseconds", "The base that doubles with each failed attempt."
    )
    backoff_max_ms: int = _integer(
        NET.backoff_ms_max,
        1_000,
        3_600_000,
        "milliseconds",
        "The longest wait: how long a server's return may go unnoticed.",
    )
    stable_ms: int = _integer(
        NET.stable_ms, 1_000, 3_600_000, "milliseconds", "A connection that lasted this long counts as a success."
    )


class Drain(Table):
    """How the daemon stops."""

    absence_ms: int = _integer(
        NET.goaway_absence_ms, 0, 600_000, "milliseconds",
        "How long it takes until the next daemon listens: no client is told to come back earlier. Also where systemd "
        "holds the socket: whoever came meanwhile would wait there, and then be a crowd.",
    )  # fmt: skip
    spread_ms: int = _integer(
        NET.goaway_spread_ms, 0, 600_000, "milliseconds",
        "Each client waits a random part of this on top of the delay that it is given, so that not all return at once.",
    )  # fmt: skip
    deadline_ms: int = _integer(
        10_000, 0, 600_000, "milliseconds",
        "Connections that are left after this are closed. What was committed is safe; clients send the rest again.",
    )  # fmt: skip


class Log(Table):
    """One JSON object per line on stderr."""

    level: Literal["debug", "info", "warning", "error"] = _text(
        "info", '"debug", "info", "warning" or "error"',
        "info tells of starts, stops and trouble, never of each change.",
    )  # fmt: skip


class Config(Table):
    """The whole configuration."""

    server: Server = Server()
    tls: Tls = Tls()
    store: Store = Store()
    auth: Auth = Auth()
    limits: Limits = Limits()
    rates: Rates = Rates()
    quotas: Quotas = Quotas()
    retention: Retention = Retention()
    keepalive: Keepalive = Keepalive()
    reconnect: Reconnect = Reconnect()
    drain: Drain = Drain()
    log: Log = Log()


def broken_relations(config: Config) -> Iterator[tuple[toml.Path, object, str]]:
    """What is wrong between keys that are each right: (path, value, what was expected)."""
    store, reconnect = config.store, config.reconnect
    if store.map_bytes > store.map_bytes_max:
        yield ("store", "map_bytes"), store.map_bytes, f"at most store.map_bytes_max, {store.map_bytes_max}"
    if reconnect.backoff_ms > reconnect.backoff_max_ms:
        expected = f"at most reconnect.backoff_max_ms, {reconnect.backoff_max_ms}"
        yield ("reconnect", "backoff_ms"), reconnect.backoff_ms, expected
    for this, other in (("certificate", "private_key"), ("private_key", "certificate")):
        if getattr(config.tls, other) and not getattr(config.tls, this):
            yield ("tls", this), "", f"the path of a PEM file, as tls.{other} is given"
    seen: set[str] = set()
    for index, key in enumerate(config.auth.key):
        if not 0 < len(key.kid) <= 128:
            yield ("auth", "key", index, "kid"), key.kid, "an id of 1-128 characters"
        if key.kid in seen:
            yield ("auth", "key", index, "kid"), key.kid, "an id that no other key has"
        seen.add(key.kid)


# -- the example file -------------------------------------------------------------------------------------------------

_HEAD = """\
# The configuration of syncd. Every key is shown with what it takes and its default; remove the '#' to change one.
# Any key can also be given as a variable: SYNCD_SERVER__LISTEN sets server.listen. A variable wins over this file.
# Short names: SYNCD_CONFIG (this file), SYNCD_STATE_DIR, SYNCD_LISTEN, SYNCD_ADMIN_LISTEN.
# `syncd check` tells whether a file is right, and where it is not. Generated by `syncd check --example`.
#
# What notifications are sent to whom is defined by the tables [policy], [category.NAME], [template.NAME] and
# [workflow.NAME], in this file or in any *.toml of a directory `workflows` beside it. Five that are ready to be copied
# there lie in conf/workflows of the source; the tables are described in protocol/NOTIFICATIONS.md.
#
# What the documents of a collection may be is said by tables [schema.NAME], in this file; without one, anything. They
# are described in syncd/README.md and, as far as clients see them, in section 17 of protocol/SPEC.md.
#
#     [schema.product]
#     spaces = "shop/*"              # a pattern: segments of a name, '*' for any one, '**' at the end for one or more
#     collection = "product"         # not a reserved one
#     version = 2                    # of the schema; a device says under which one it made a change
#     oldest = 1                     # changes of earlier versions are refused
#     update_wins = false            # true: a delete ends nothing that it had not seen; false is the default
#     keep_days = 365                # deletes what nobody has changed for so long (0.5: half a day); else it stays
#     other_fields = false           # whether fields may be written that are not named here; true by default
#     [schema.product.fields]
#     title = { type = "reg", required = true, values = ["text"], bytes_max = 200 }
#     price = { type = "reg", values = ["integer"], minimum = 0, maximum = 1_000_000 }
#     tags = { type = "set", values = ["text"], items_max = 20 }
#     state = { type = "reg", one_of = ["draft", "shown"] }
#     [[schema.product.step]]        # how a change of an older version is read
#     to = 2
#     renamed = { name = "title" }   # old name = new name
#     defaults = { state = "draft" } # what a document made by an older version gets
"""

_AUTH_KEY = """\
# Keys that verify tokens. Secrets stand in files of their own, readable by the daemon only; give two to rotate.
# [[auth.key]]
# kid = "2026"               # the key's id in token headers
# algorithm = "EdDSA"        # "HS256", "EdDSA", "ES256" or "RS256"
# file = "token-2026.pem"    # looked up among systemd's credentials first, then beside this file
"""


def example() -> str:
    """The text of `conf/syncd.toml`."""
    parts = [_HEAD]
    for section, field in Config.model_fields.items():
        table = field.annotation
        assert isinstance(table, type) and issubclass(table, Table)
        parts.append(f"\n[{section}]\n{_comment(table.__doc__ or '')}")
        for key, item in table.model_fields.items():
            if key == "key":
                parts.append("\n" + _AUTH_KEY)
            else:
                parts.append(f"\n{_comment(item.description or '')}{_comment('Takes ' + expectation(item) + '.')}")
                parts.append(f"# {key} = {_literal(item.default)}\n")
    return "".join(parts)


def _comment(text: str) -> str:
    return textwrap.fill(text, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False) + "\n"


def _literal(value: object) -> str:
    if isinstance(value, bool):  # which is an integer to Python
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:_}"
    if isinstance(value, tuple):
        return "[" + ", ".join(_literal(item) for item in value) + "]"
    return f'"{value}"'
