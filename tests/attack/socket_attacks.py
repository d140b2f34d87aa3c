"""Attacks by WebSocket: broken frames, bombs of every kind, floods, and peers that are half there."""

from collections.abc import Awaitable, Callable
from zlib import DEFLATED, compressobj

import msgpack
import trio
from wsproto.events import BytesMessage

from syncd.env.ports import TransportClosed
from tests.attack.stage import LONG_S, Attack, Target, ending, masked, opened, push, told, upgrade_request, welcomed
from tests.net.harness import CODES, Client

TEXT, BINARY, CLOSE, PING, PONG, FINAL = 1, 2, 8, 9, 10, 0x80
JSON = "syncd.v1.json"
VOID = ["void", 1, 1, bytes(8), ""]
Run = Callable[[Target], Awaitable[str]]


def _closes(code: int) -> tuple[str, str]:
    return "syncd_closes_total", str(code)


def _frames(*frames: bytes, protocol: str = "syncd.v1.msgpack", is_welcomed: bool = True) -> Run:
    """These frames, once the device is welcome, or before."""

    async def run(target: Target) -> str:
        client = await (welcomed if is_welcomed else opened)(target, protocol)
        return await told(client, *frames)

    return run


def _breach(name: str, *frames: bytes, code: int = 1002, error: str = "", protocol: str = "syncd.v1.msgpack") -> Attack:
    answer = f"error {error}, close {code}" if error else f"close {code}"
    return Attack(name, _frames(*frames, protocol=protocol), answer, _closes(code))


def _message(name: str, **body: object) -> bytes:
    return bytes(msgpack.packb([CODES[name], body]))


def _subscribe(space: str) -> bytes:
    return _message("subscribe", space=space, epoch=None, complete=0, resume=0, settled=0)


def _nested(kind: bytes, depth: int) -> bytes:
    return bytes((0x92, CODES["push"])) + kind * depth


BREACHES = (
    _breach("a frame that is not masked", masked(FINAL | BINARY, b"x", mask_bit=0)),
    *(_breach(f"reserved bit {bit:#x}", masked(FINAL | bit | BINARY, b"x")) for bit in (0x10, 0x20, 0x40)),
    *(_breach(f"reserved opcode {code:#x}", masked(FINAL | code, b"x")) for code in (3, 7, 0xB, 0xF)),
    _breach("a ping of 126 bytes", masked(FINAL | PING, bytes(126))),
    _breach("a ping in pieces", masked(PING, b"x")),
    _breach("a close of one byte", masked(FINAL | CLOSE, b"\3")),
    *(
        _breach(f"close code {code}", masked(FINAL | CLOSE, code.to_bytes(2)))
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    ),
    _breach("a close reason that is no UTF-8", masked(FINAL | CLOSE, b"\3\xe8\xff\xfe"), code=1007, error="malformed"),
    _breach("a continuation of nothing", masked(FINAL, b"x")),
    _breach("a message within a message", masked(BINARY, b"x" * 200), masked(FINAL | BINARY, b"x")),
    _breach("text that is no UTF-8", masked(FINAL | TEXT, b"\xff\xfe"), code=1007, error="malformed", protocol=JSON),
    _breach("half a character at the end", masked(FINAL | TEXT, b"[\xe2\x82"), code=1007, error="malformed",
            protocol=JSON),
    _breach("text in the binary binding", masked(FINAL | TEXT, b"[]"), code=1003, error="malformed"),
    _breach("bytes in the text binding", masked(FINAL | BINARY, b"\x90"), code=1003, error="malformed", protocol=JSON),
    _breach("a length of 2^63", masked(FINAL | BINARY, b"", length=1 << 63)),
    _breach("a length with needless bytes", bytes((FINAL | BINARY, FINAL | 126)) + b"\0\5" + bytes(4) + b"12345"),
)  # fmt: skip

BOMBS = (
    Attack("2^62 bytes announced, a megabyte sent",
           _frames(masked(FINAL | BINARY, b"", length=1 << 62), bytes((1 << 20) + 100)),
           "error malformed, close 1009", _closes(1009)),
    Attack("a frame of 100 KB before hello", _frames(masked(FINAL | BINARY, bytes(100_000)), is_welcomed=False),
           "error malformed, close 1009", _closes(1009)),
    Attack("fragments of 200 bytes without end",
           _frames(masked(BINARY, bytes(200)), masked(0, bytes(200)) * 6_000), "error malformed, close 1009",
           _closes(1009)),
    Attack("empty fragments without end", _frames(masked(BINARY), masked(0) * 5_000), "error rate_limited, close 4100",
           _closes(4100)),
    Attack("fragments of one byte, before hello",
           _frames(masked(BINARY), masked(0, b"x") * 5_000, is_welcomed=False), "error rate_limited, close 4100",
           _closes(4100)),
    _breach("MessagePack nested 100,000 deep", masked(FINAL | BINARY, _nested(b"\x91", 100_000)), code=1007,
            error="malformed"),
    _breach("maps nested 100,000 deep", masked(FINAL | BINARY, _nested(b"\x81\xa1x", 100_000)), code=1007,
            error="malformed"),
    _breach("an array that claims 2^32 items", masked(FINAL | BINARY, b"\x92\x04\xdd\xff\xff\xff\xff"), code=1007,
            error="malformed"),
    _breach("a map that claims 2^32 items", masked(FINAL | BINARY, b"\x92\x04\xdf\xff\xff\xff\xff"), code=1007,
            error="malformed"),
    _breach("bytes that claim 4 GB", masked(FINAL | BINARY, b"\x92\x04\xc6\xff\xff\xff\xff"), code=1007,
            error="malformed"),
    _breach("1,000 arrays in each other that claim 4,096 items each",
            masked(FINAL | BINARY, b"\x92\x04" + b"\xdc\x10\x00" * 1_000), code=1007, error="malformed"),
    _breach("an extension type", masked(FINAL | BINARY, b"\x92\x04\xd4\x01\x00"), code=1007, error="malformed"),
    _breach("a key twice", masked(FINAL | BINARY, b"\x92\x0d\x82\xa2id\x01\xa2id\x02"), code=1007, error="malformed"),
    _breach("JSON nested 100,000 deep", masked(FINAL | TEXT, b"[" * 100_000), code=1007, error="malformed",
            protocol=JSON),
    _breach("an integer of 50,000 digits", masked(FINAL | TEXT, b'[[13,{"id":' + b"9" * 50_000 + b"}]]"), code=1007,
            error="malformed", protocol=JSON),
    _breach("NaN in JSON", masked(FINAL | TEXT, b'[[13,{"id":NaN}]]'), code=1007, error="malformed", protocol=JSON),
    _breach("1,001 messages in one frame", masked(FINAL | BINARY, _message("pong") * 1_001), code=4100,
            error="rate_limited"),
    _breach("a message that only servers send", masked(FINAL | BINARY, _message("welcome")), code=4900,
            error="unknown_message"),
    _breach("a push of 1,001 changes",
            masked(FINAL | BINARY, _message("push", space="a", epoch=None, changes=[VOID] * 1_001)),
            code=4900, error="too_many_changes"),
)  # fmt: skip


async def second_hello(target: Target) -> str:
    client = await welcomed(target)
    await client.send("hello", **client.hello(target.token("mallory")))
    return await ending(client)


async def before_hello(target: Target) -> str:
    client = await opened(target)
    await client.send("ack", space="a", epoch=bytes(16), applied=0, oldest_base=0, settled=0)
    return await ending(client)


async def subscription_bomb(target: Target) -> str:
    """300 spaces on one connection: the first 256 stand, the others are told, and nothing closes."""
    client = await welcomed(target)
    for first in range(0, 300, 50):
        frame = b"".join(_subscribe(f"mallory/{index}") for index in range(first, first + 50))
        await client.send_event(BytesMessage(data=frame))
    stands = refused = 0
    while stands + refused < 300:
        message = await client.receive()
        stands += message.name == "subscribed"
        refused += message.name == "error" and message["name"] == "too_many_subscriptions"
    client.transport.abort()
    return f"{stands} subscribed, {refused} errors too_many_subscriptions"


def _flood(frame: bytes) -> Run:
    return _frames(*([frame * 100] * 60))


async def guessed_tokens(target: Target) -> str:
    """Tokens, one guess after the other: from the 31st on nobody looks at them."""
    answers = []
    for _ in range(35):
        client = await opened(target, host="127.0.0.8")
        await client.send("hello", **client.hello("a.b.c"))
        answers.append(await ending(client))
    first = answers.index("error rate_limited, close 4100")
    return f"{answers[0]} {first} times, then {answers[first]}"


async def slow_hello(target: Target) -> str:
    """A byte of a frame each half second: bytes without a hello buy no time."""
    client = await opened(target)
    frame = masked(FINAL | BINARY, client.encoded("hello", **client.hello(target.token("mallory"))))
    async with trio.open_nursery() as nursery:

        async def drip() -> None:
            for byte in frame[:100]:
                await push(client.transport, bytes((byte,)))
                await trio.sleep(0.5)

        nursery.start_soon(drip)
        answer = await ending(client)
        nursery.cancel_scope.cancel()
    return answer


async def half_a_frame(target: Target) -> str:
    """Welcome, then half a frame, then silence: pinged, and closed after 2 x 15 + 5 s."""
    client = await welcomed(target, number=910, keepalive_ms=1)
    await push(client.transport, masked(FINAL | BINARY, b"x", length=1000))
    return await ending(client)


async def half_open(target: Target) -> str:
    """A device that is gone without a word: nothing comes, not even an answer to the ping."""
    client = await welcomed(target, number=911, keepalive_ms=15_000)
    return await ending(client)


async def deaf(target: Target) -> str:
    """A reader that asks for megabytes and reads nothing, but goes on sending: cut off after 30 s without progress."""
    writer = await welcomed(target, user="mallory", number=901)
    for index in range(80):
        await writer.push(
            writer.change(["create", "c", str(index)], ["reg.set", "c", str(index), "f", "x" * 60_000]),
            space="mallory/big",
        )
        await writer.expect("outcomes")
    writer.transport.abort()
    client = await welcomed(target, number=902, buffer_bytes=4_096)
    await client.send("subscribe", space="mallory/big", epoch=None, complete=0, resume=0, settled=0)
    try:
        with trio.fail_after(80):
            while True:
                await trio.sleep(1)
                await client.send("pong")
    except TransportClosed:
        return "cut off"
    finally:
        client.transport.abort()


async def no_answer_to_close(target: Target) -> str:
    """Our close frame is never answered, and what the peer sends meanwhile is thrown away."""
    client = await welcomed(target, number=912)
    await push(client.transport, masked(FINAL | 3, b"x"))
    try:
        with trio.fail_after(60):
            while True:
                await push(client.transport, bytes(1_000))
                await trio.sleep(0.5)
                if client.transport.send_now(b"x") == 0:
                    break
    except TransportClosed:
        return "cut off"
    finally:
        client.transport.abort()
    return "still there"


async def _listener(target: Target, number: int) -> Client:
    """A device that is subscribed, and hears signals."""
    client = await opened(target, number=number)
    await client.greet(target.token("mallory"), caps=["signals"])
    await client.subscribe("mallory/live")
    return client


async def _refusals(client: Client) -> list[str]:
    """The errors about what was sent before, in order."""
    await client.send("probe", id=1)
    refused = []
    with trio.fail_after(LONG_S):
        while (message := await client.receive()).name != "pong":
            if message.name == "error":
                refused.append(str(message["name"]))
    client.transport.abort()
    return refused


async def signal_flood(target: Target) -> str:
    """400 signals under as many keys: what the bucket holds is taken, and the rest dropped; nobody is cut off."""
    client = await _listener(target, 905)
    for number in range(400):
        await client.send("signal", space="mallory/live", key=f"k{number}", value="x" * 1_000)
    refused = await _refusals(client)
    assert set(refused) == {"signal_limited"}, set(refused)
    return "most are dropped as signal_limited" if len(refused) > 200 else f"{len(refused)} are dropped"


async def presence_bomb(target: Target) -> str:
    """Present in as many spaces as one may subscribe to, and with a state that everyone would be told."""
    client = await _listener(target, 906)
    for number in range(40):
        await client.subscribe(f"mallory/{number}")
    for number in range(40):
        await client.send("signal", space=f"mallory/{number}", presence={"n": number})
    await client.send("signal", space="mallory/live", presence={"n": "x" * 600})
    refused = await _refusals(client)
    return f"{len(refused)} are {', '.join(sorted(set(refused)))}"


async def superseded_for_ever(target: Target) -> str:
    """One device that connects again and again, without letting go of what it had."""
    clients = [await welcomed(target, number=903) for _ in range(20)]
    answers = {await ending(client) for client in clients[:-1]}
    clients[-1].transport.abort()
    return ", ".join(sorted(answers))


async def compressed_bomb(target: Target) -> str:
    """8 MB of zeros in 8 KB: refused as a breach where no compression was agreed on; where it was, what comes out of
    a frame counts as its length."""
    client = Client(await target.connect(), 904)
    offer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
    await client.upgrade(upgrade_request(Sec_WebSocket_Extensions=offer))
    deflate = compressobj(9, DEFLATED, -15)
    bomb = deflate.compress(bytes(8 << 20)) + deflate.flush()
    answer = await told(client, masked(FINAL | 0x40 | BINARY, bomb))
    return "refused" if answer in ("close 1002", "error malformed, close 1009") else answer


FLOODS = (
    Attack("6,000 probes", _flood(masked(FINAL | BINARY, _message("probe"))), "error rate_limited, close 4100",
           _closes(4100)),
    Attack("6,000 ping frames", _flood(masked(FINAL | PING)), "error rate_limited, close 4100", _closes(4100)),
    Attack("6,000 pong frames", _flood(masked(FINAL | PONG)), "error rate_limited, close 4100", _closes(4100)),
    Attack("6,000 empty messages", _flood(masked(FINAL | BINARY)), "error rate_limited, close 4100", _closes(4100)),
    Attack("300 subscriptions", subscription_bomb, "256 subscribed, 44 errors too_many_subscriptions",
           ("syncd_errors_total", "too_many_subscriptions")),
    Attack("400 signals under 400 keys", signal_flood, "most are dropped as signal_limited",
           ("syncd_errors_total", "signal_limited")),
    Attack("presence in 40 spaces", presence_bomb, "9 are signal_refused", ("syncd_errors_total", "signal_refused")),
    Attack("35 guessed tokens", guessed_tokens,
           "error unauthenticated, close 4200 30 times, then error rate_limited, close 4100",
           ("syncd_rate_limited_total", "authentication")),
    Attack("a second hello", second_hello, "error unexpected_message, close 4900", _closes(4900)),
    Attack("an ack before hello", before_hello, "error unexpected_message, close 4900", _closes(4900)),
    Attack("a device that connects 20 times", superseded_for_ever, "error superseded, close 4901", _closes(4901)),
    Attack("a compressed bomb", compressed_bomb, "refused", ("syncd_upgrades_total", "accepted")),
)  # fmt: skip

SLOW = (
    Attack("slow-loris in the hello", slow_hello, "close 4001", _closes(4001), True),
    Attack("half a frame, then silence", half_a_frame, "close 4001", _closes(4001), True),
    Attack("a half-open connection", half_open, "close 4001", _closes(4001), True),
    Attack("a reader that never reads", deaf, "cut off", _closes(4002), True),
    Attack("a close that is never answered", no_answer_to_close, "cut off", _closes(1002), True),
)

ATTACKS = (*BREACHES, *BOMBS, *FLOODS, *SLOW)
