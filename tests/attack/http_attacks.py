"""Attacks by HTTP: what is slow, what is too much, and what two parsers may read differently (request smuggling)."""

from collections.abc import Awaitable, Callable

import trio

from syncd.env.memory import MemoryTransport
from syncd.env.ports import TransportClosed
from tests.attack.stage import Attack, Target, everything, http, push, statuses, upgrade_request

MALFORMED = ("syncd_http_refusals_total", "malformed-request")
TOO_LARGE_HEAD = ("syncd_http_refusals_total", "headers-too-large")
TIMEOUT = ("syncd_http_refusals_total", "request-timeout")
HOST = b"Host: x\r\n"
# What a second parser might take for a request of its own. It must never be answered.
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: x\r\n\r\n"


def _sent(*pieces: bytes, pause_s: float = 0.0) -> Callable[[Target], Awaitable[str]]:
    async def run(target: Target) -> str:
        return await http(target, *pieces, pause_s=pause_s)

    return run


def _post(headers: bytes, body: bytes = b"") -> bytes:
    return b"POST /nothing HTTP/1.1\r\n" + HOST + headers + b"\r\n" + body


def _get(headers: bytes, target: bytes = b"/nothing") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + headers + b"\r\n"


def _drip(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def _malformed(name: str, request: bytes, answer: str = "400 malformed-request") -> Attack:
    return Attack(name, _sent(request + HIDDEN), answer, MALFORMED)


SLOW = (
    Attack("a connection that says nothing", _sent(), "silence", ("syncd_connections_accepted_total", "served"), True),
    Attack(
        "slow-loris in the headers", _sent(*_drip(b"GET / HTTP/1.1\r\nHost: " + b"x" * 100), pause_s=0.5),
        "408 request-timeout", TIMEOUT, True,
    ),
    Attack(
        "slow-loris in the body", _sent(_post(b"Content-Length: 1000\r\n"), *_drip(bytes(100)), pause_s=1.0),
        "408 request-timeout", TIMEOUT, True,
    ),
    Attack(
        "slow-loris in a chunk header",
        _sent(_post(b"Transfer-Encoding: chunked\r\n"), *_drip(b"0" * 100), pause_s=1.0),
        "408 request-timeout", TIMEOUT, True,
    ),
)  # fmt: skip

BOMBS = (
    Attack("one header of 20 KB", _sent(_get(HOST + b"X: " + b"y" * 20_000 + b"\r\n")),
           "431 headers-too-large", TOO_LARGE_HEAD),
    Attack("10,000 headers", _sent(_get(HOST + b"a:b\r\n" * 10_000)), "431 headers-too-large", TOO_LARGE_HEAD),
    Attack("a header name of 20 KB", _sent(_get(HOST + b"x" * 20_000 + b": y\r\n")),
           "431 headers-too-large", TOO_LARGE_HEAD),
    Attack("a target of 20 KB", _sent(_get(HOST, b"/" + b"x" * 20_000)), "431 headers-too-large", TOO_LARGE_HEAD),
    Attack("a line without an end", _sent(b"G" * 100_000), "431 headers-too-large", TOO_LARGE_HEAD),
    Attack("a body of 2^63 bytes, announced", _sent(_post(b"Content-Length: 9223372036854775808\r\n")),
           "413 too-large", ("syncd_http_refusals_total", "too-large")),
    Attack("a chunk of 2^63 bytes, announced",
           _sent(_post(b"Transfer-Encoding: chunked\r\n", b"7fffffffffffffff\r\n"), bytes(5 << 20)),
           "413 too-large", ("syncd_http_refusals_total", "too-large")),
    Attack("a chunk extension of 100 KB",
           _sent(_post(b"Transfer-Encoding: chunked\r\n", b"1;" + b"x" * 100_000 + b"\r\n")),
           "431 headers-too-large", TOO_LARGE_HEAD),
    Attack("20,000 chunks of one byte",
           _sent(_post(b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n" * 20_000)), "400 malformed-request", MALFORMED),
)  # fmt: skip

_CHUNKED = b"0\r\n\r\n"

SMUGGLING = (
    _malformed("Content-Length and Transfer-Encoding",
               _post(b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", _CHUNKED)),
    _malformed("Transfer-Encoding and Content-Length",
               _post(b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", _CHUNKED)),
    _malformed("two lengths", _post(b"Content-Length: 4\r\nContent-Length: 5\r\n", b"abcd")),
    _malformed("two lengths in a list", _post(b"Content-Length: 4, 5\r\n", b"abcd")),
    *(
        _malformed(f"a length that is {text!r}", _post(b"Content-Length: " + text + b"\r\n", b"abcd"))
        for text in (b"+4", b"-4", b"0x4", b"4e0", b"4 4", b"\xb2", b"")
    ),
    *(
        _malformed(f"the coding {text!r}", _post(b"Transfer-Encoding: " + text + b"\r\n", _CHUNKED))
        for text in (b"xchunked", b"chunked, identity", b"chunked, chunked", b"gzip, chunked", b"identity",
                     b"chunked\x0b", b"chunked;q=1", b'"chunked"')
    ),
    _malformed("two Transfer-Encodings",
               _post(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", _CHUNKED)),
    _malformed("a name with a space before the colon", _post(b"Content-Length : 4\r\n", b"abcd")),
    _malformed("a name with a tab in it", _post(b"Content\tLength: 4\r\n", b"abcd")),
    _malformed("a folded first header", b"GET / HTTP/1.1\r\n Host: x\r\n\r\n"),
    _malformed("NUL in a value", _get(HOST + b"X: a\0b\r\n")),
    _malformed("NUL in a name", _get(HOST + b"X\0: a\r\n")),
    _malformed("NUL in the target", _get(HOST, b"/\0")),
    _malformed("CR alone in a value", _get(HOST + b"X: a\rContent-Length: 5\r\n")),
    _malformed("no Host", _get(b"")),
    _malformed("two Hosts", _get(b"Host: x\r\nHost: y\r\n")),
    _malformed("a target in absolute form", _get(HOST, b"http://other/nothing")),
    _malformed("a target that is an authority", b"CONNECT other:443 HTTP/1.1\r\n" + HOST + b"\r\n"),
    _malformed("a chunk size with a sign", _post(b"Transfer-Encoding: chunked\r\n", b"+1\r\nx\r\n" + _CHUNKED)),
    _malformed("a chunk size with 0x", _post(b"Transfer-Encoding: chunked\r\n", b"0x1\r\nx\r\n" + _CHUNKED)),
    _malformed("a chunk that is longer than it says",
               _post(b"Transfer-Encoding: chunked\r\n", b"1\r\nxy\r\n" + _CHUNKED)),
    _malformed("HTTP/0.9", b"GET /\r\n"),
    _malformed("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    _malformed("TLS on a plain port", bytes.fromhex("16030100c8010000c40303") + bytes(200)),
    _malformed("not HTTP at all", b"\0\xff\xfe" * 40 + b"\r\n\r\n"),
    _malformed("an upgrade with a length", upgrade_request().replace(b"\r\n\r\n", b"\r\nContent-Length: 9\r\n\r\n")),
    _malformed("an upgrade with a chunked body",
               upgrade_request().replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\n")),
)  # fmt: skip

# What RFC 9112 lets a server read is read by one rule only: no length twice, however it is spelt.
LENIENT = (
    _malformed("bare LF, and a length twice", b"POST / HTTP/1.1\nHost: x\nContent-Length: 1\nContent-Length: 2\n\nx"),
    _malformed("a folded line between two lengths",
               _post(b"Content-Length: 1\r\nX: a\r\n Content-Length: 9\r\nContent-Length: 2\r\n", b"x")),
    _malformed("a folded coding beside a length",
               _post(b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 1\r\n", _CHUNKED)),
)  # fmt: skip


async def pipelined_after_upgrade(target: Target) -> str:
    """Bytes behind an upgrade are frames: a request there must not be answered as HTTP."""
    transport = await target.connect()
    await push(transport, upgrade_request() + HIDDEN)
    data = await everything(transport)
    transport.abort()
    head, _, rest = data.partition(b"\r\n\r\n")
    code = int.from_bytes(rest[2:4]) if rest[:1] == b"\x88" else rest[:20]
    return f"{head.split()[1].decode()}, close {code!r}"


async def pipelined_flood(target: Target) -> str:
    """A thousand requests in one go, and none of the answers is read."""
    transport = await target.connect()
    with trio.move_on_after(5):
        await push(transport, _get(HOST) * 1_000)
        await trio.sleep(1)
    transport.abort()
    return "answered in order, as far as they are read"


async def guessed_keys(target: Target) -> str:
    """API keys, one guess after the other: from the 31st on nobody looks at them."""
    statuses_found: list[str] = []
    for number in range(40):
        key = f"sk_{number:043}"
        request = b"GET /v1/spaces/a/documents HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer "
        transport = await target.connect("127.0.0.9")
        await push(transport, request + key.encode() + b"\r\n\r\n")
        statuses_found.append(statuses(await everything(transport)))
        transport.abort()
    wrong = statuses_found.index("429 rate-limited")
    assert set(statuses_found[wrong:]) == {"429 rate-limited"} or "401 unauthenticated" in statuses_found[wrong:]
    return f"{statuses_found[0]} {wrong} times, then {statuses_found[wrong]}"


async def request_flood(target: Target) -> str:
    """Requests as fast as one connection carries them, and the answers read: beyond the bucket of the address, 429."""
    transport = await target.connect("127.0.0.7")
    answers: list[bytes] = []
    async with trio.open_nursery() as nursery:

        async def read() -> None:
            answers.append(await everything(transport))
            nursery.cancel_scope.cancel()

        nursery.start_soon(read)
        await push(transport, _get(HOST) * 10_000)
        await trio.sleep(60)
    transport.abort()
    count = answers[0].count(b"HTTP/1.1 404 ")
    last = statuses(answers[0][answers[0].rindex(b"HTTP/1.1 ") :])
    assert 500 <= count < 10_000, count
    return f"404 not-found more than 500 times, then {last}"


async def connection_flood(target: Target) -> str:
    """700 connections of one address that may have 200, each with a request that it never finishes."""
    transports = [await target.connect("127.0.0.6") for _ in range(700)]
    for transport in transports:
        await push(transport, b"GET / HTTP/1.1\r\n")
    dropped = 0

    async def watch(transport: MemoryTransport) -> None:
        nonlocal dropped
        with trio.move_on_after(3):
            try:
                dropped += await transport.receive(1) == b""
            except TransportClosed:
                dropped += 1

    async with trio.open_nursery() as nursery:
        for transport in transports:
            nursery.start_soon(watch, transport)
    for transport in transports:
        transport.abort()
    return f"{700 - dropped} are held, {dropped} were cut off"


def _change(body: bytes) -> Callable[[Target], Awaitable[str]]:
    async def run(target: Target) -> str:
        token, length = target.token("mallory"), len(body)
        line = "POST /v1/spaces/mallory%2Fa/changes HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        headers = f"Content-Type: application/json\r\nContent-Length: {length}\r\nAuthorization: Bearer {token}\r\n\r\n"
        return await http(target, (line + headers).encode() + body)

    return run


API = (
    Attack("10,000 requests on one connection", request_flood,
           "404 not-found more than 500 times, then 429 rate-limited",
           ("syncd_rate_limited_total", "requests_address"), needs_api=True),
    Attack("700 connections from one address", connection_flood, "456 are held, 244 were cut off",
           ("syncd_connections_accepted_total", "refused_address"), needs_api=True),
    Attack("guessed API keys", guessed_keys, "401 unauthenticated 30 times, then 429 rate-limited",
           ("syncd_rate_limited_total", "authentication"), needs_api=True),
    Attack("JSON nested 100,000 deep", _change(b"[" * 100_000 + b"]" * 100_000), "400 malformed-request",
           ("syncd_http_responses_total", "400"), needs_api=True),
    Attack("JSON of 600,000 maps", _change(b'{"operations":[' + b"{}," * 600_000 + b"0]}"), "413 too-large",
           ("syncd_http_responses_total", "413"), needs_api=True),
)  # fmt: skip

PIPELINED = (
    Attack("a request pipelined after an upgrade", pipelined_after_upgrade, "101, close 1002",
           ("syncd_closes_total", "1002")),
    Attack("1,000 requests pipelined, none read", pipelined_flood, "answered in order, as far as they are read",
           ("syncd_connections_accepted_total", "served")),
)  # fmt: skip

ATTACKS = (*BOMBS, *SMUGGLING, *LENIENT, *PIPELINED, *API, *SLOW)
