"""What a rogue says that it may not, and what the specification says must come of it.

Each is one conversation that ends in a documented answer, or in `Disturbed`. A misdeed whose changes are well-formed
leaves them to the auditor, who judges them by the same oracle as everyone's. `excesses.py` has those that take too
much: time, room, and more than is theirs to say.
"""

from contextlib import AsyncExitStack
from typing import Any

import msgpack
from wsproto.frame_protocol import Opcode

from syncd.net.auth import sign_token
from tests.sim.clocks import true_ms
from tests.sim.rogue import Rogue, Talk, masked, misdeed, packed_message
from tests.sim.server import KEY
from tests.sim.workload import random_change

TOO_MANY_OPERATIONS, TOO_MANY_DOCUMENTS = 1001, 129

# -- frames -----------------------------------------------------------------------------------------------------------

MALFORMED_FRAMES: tuple[tuple[str, int, bytes], ...] = (
    ("malformed", 1007, b"\xc1"),
    ("malformed", 1007, b"\x92\x04"),
    ("malformed", 1007, msgpack.packb([4])),
    ("malformed", 1007, msgpack.packb([4, {}])),
    ("malformed", 1007, msgpack.packb(["push", {}])),
    ("malformed", 1007, msgpack.packb([4, {"space": "s/0", "changes": []}])),
    ("malformed", 1007, msgpack.packb([4, {"space": 7, "changes": [[1, bytes(8), 0, 0, []]]}])),
    ("malformed", 1007, msgpack.packb([4, {"space": "s/0", "changes": [[0, bytes(8), 0, 0, []]]}])),
    ("malformed", 1007, msgpack.packb([4, {"space": "s/0", "changes": [[1, bytes(7), 0, 0, []]]}])),
    ("malformed", 1007, msgpack.packb([4, {"space": "s/0", "changes": [["void", 2, 1, bytes(8), ""]]}])),
    ("malformed", 1007, msgpack.packb([2, {"space": "s/0", "complete": -1, "resume": 0, "settled": 0}])),
    ("malformed", 1007, b"\x92\x0d\x82" + 2 * (msgpack.packb("id") + msgpack.packb(1))),
    ("malformed", 1007, b"\x91" * 600 + b"\x01"),
    ("malformed", 1007, b"\xdd\xff\xff\xff\xff"),
    ("unknown_message", 4900, msgpack.packb([99, {}])),
    ("unknown_message", 4900, msgpack.packb([34, {}])),
    ("unexpected_message", 4900, packed_message("hello", {"device": bytes(16), "installation": bytes(16), "time": 0})),
)  # fmt: skip


@misdeed
async def sends_what_is_no_message(rogue: Rogue) -> None:
    for name, code, payload in rogue.random.sample(MALFORMED_FRAMES, 4):
        async with rogue.welcomed() as talk:
            await talk.frame(payload)
            await talk.refused(name, code)


@misdeed
async def spoils_a_frame_with_a_good_push(rogue: Rogue) -> None:
    """Nothing of a frame that is refused takes effect: the auditor knows of no such change."""
    space = rogue.any_space()
    async with rogue.welcomed() as talk:
        change = [rogue.next_n(space), rogue.random.randbytes(8), 0, 0, [["create", "c", "spoilt"]]]
        push = packed_message("push", {"space": space, "epoch": rogue.epoch(space), "changes": [change]})
        await talk.frame(push + msgpack.packb([4, {"space": space, "changes": "none"}]))
        await talk.refused("malformed", 1007)


@misdeed
async def sends_text_where_bytes_belong(rogue: Rogue) -> None:
    async with rogue.welcomed() as talk:
        await talk.frame(b"[[13,{}]]", Opcode.TEXT)
        await talk.refused("malformed", 1003)


@misdeed
async def breaks_the_framing(rogue: Rogue) -> None:
    async with rogue.welcomed() as talk:
        await talk.raw(rogue.random.choice((b"\xf2\x80\0\0\0\0", b"\x82\x01x", b"\x83\x80\0\0\0\0")))
        await talk.hear_close(1002)


@misdeed
async def sends_more_than_a_frame_may_hold(rogue: Rogue) -> None:
    """Also in pieces of one message."""
    async with rogue.welcomed() as talk:
        left = rogue.world.wire_limits.frame_bytes_max + 1
        talk.socket.resize(65_536)  # in few pieces: others see to small buffers
        opcode = Opcode.BINARY
        while left > 0 and talk.close_code is None and not talk.socket.is_gone:
            size = min(left, 60_000)
            left -= size
            await talk.raw(masked(opcode, bytes(size), 0 if left else 0x80))
            opcode = Opcode.CONTINUATION
        await talk.refused("malformed", 1009)


@misdeed
async def says_too_much_before_it_is_known(rogue: Rogue) -> None:
    async with rogue.talk() as talk:
        for final, opcode in ((0, Opcode.BINARY), (0x80, Opcode.CONTINUATION)):
            await talk.raw(masked(opcode, bytes(40_000), final))
        await talk.refused("malformed", 1009)


# -- changes ----------------------------------------------------------------------------------------------------------


async def pushed(talk: Talk, space: str, *changes: list[Any]) -> list[Any]:
    """Push, and hear an outcome for each."""
    await talk.push(space, *changes)
    left = {change[1] if change[0] == "void" else change[0] for change in changes}
    told = []
    while left:
        body = await talk.hear("outcomes", space=space)
        told += body["outcomes"]
        left -= {item[0] for item in body["outcomes"]}
    return told


@misdeed
async def edits_like_anyone(rogue: Rogue) -> None:
    """With a base and a time of its own choosing; and keeps the change to push it again."""
    space = rogue.any_space()
    async with rogue.welcomed() as talk:
        n, count = rogue.next_n(space), rogue.random.randint(1, 4)
        changes = [rogue.made(space, n + i, random_change(rogue.random, 0.1)) for i in range(count)]
        told = await pushed(talk, space, *changes)
        for change, (_, _, outcome, seq, _) in zip(changes, told, strict=True):
            rogue.kept.append((space, change, outcome, seq))


@misdeed
async def replays_an_old_push(rogue: Rogue) -> None:
    if not rogue.kept:
        return await edits_like_anyone(rogue)
    space, change, outcome, seq = rogue.random.choice(rogue.kept)
    async with rogue.welcomed() as talk:
        for told in await pushed(talk, space, change):
            if told[:4] != [change[0], change[1], outcome, seq]:
                raise talk.wrong(f"a change that ended as {outcome}, seq {seq}, comes back as {told[:4]}")


@misdeed
async def leaves_a_gap(rogue: Rogue) -> None:
    space = rogue.any_space()
    async with rogue.welcomed() as talk:
        n = rogue.next_n(space)
        await talk.push(space, rogue.made(space, n + rogue.random.randint(1, 9), [["create", "c", "a"]]))
        await talk.hear("outcomes", space=space, gap=n, outcomes=[])


@misdeed
async def uses_a_number_twice(rogue: Rogue) -> None:
    """As a restored phone would: the first one stands, the second is told that it forked."""
    space = rogue.any_space()
    async with rogue.welcomed() as talk:
        n = rogue.next_n(space)
        await pushed(talk, space, rogue.made(space, n, [["create", "c", "a"]]))
        await talk.push(
            space,
            rogue.made(space, n, [["create", "c", "b"]]),
            rogue.made(space, n + 1, [["create", "c", "d"]]),
        )
        await talk.hear("outcomes", space=space, forked=n, outcomes=[])


@misdeed
async def pushes_from_another_installation(rogue: Rogue) -> None:
    space = rogue.any_space()
    async with rogue.talk() as talk:
        await talk.hello()
        n = rogue.next_n(space)
        await pushed(talk, space, rogue.made(space, n, [["create", "c", "a"]]))
    async with rogue.talk() as talk:
        await talk.hello(installation=rogue.random.randbytes(16))
        await talk.push(space, rogue.made(space, n + 1, [["create", "c", "a"]]))
        await talk.hear("outcomes", space=space, forked=n + 1, outcomes=[])


@misdeed
async def gives_changes_up(rogue: Rogue) -> None:
    space = rogue.any_space()
    async with rogue.welcomed() as talk:
        n, nonce, count = rogue.next_n(space), rogue.random.randbytes(8), rogue.random.choice((1, 3, 40))
        for number in range(n, n + count):
            rogue.world.auditor.committed(rogue.device, space, number, nonce, [(None, 0)], [], rogue.name, "void")
        after = rogue.made(space, n + count, [["create", "c", "a"]])
        await pushed(talk, space, ["void", n, n + count - 1, nonce, "lost"], after)


@misdeed
async def makes_changes_that_cannot_be(rogue: Rogue) -> None:
    space, random = rogue.any_space(), rogue.random
    fate, operations = random.choice((
        ("too_large", [["delete", "c", "a"]] * TOO_MANY_OPERATIONS),
        ("too_large", [["create", "c", f"many-{index}"] for index in range(TOO_MANY_DOCUMENTS)]),
        ("too_large", [["reg.set", "c", "a", "reg", "x" * 65_537]]),
        ("invalid", []),
        ("invalid", [["explode", "c", "a"]]),
        ("invalid", [["reg.set", "c", "a", "reg"]]),
        ("invalid", [["counter.inc", "c", "a", "counter", 0]]),
        ("invalid", [["create", "c", "x" * 161]]),
        ("invalid", [["create", "c", "a", {"seen": 0}]]),
        ("invalid", [["delete", "c", "a", {"seen": 2**52}]]),  # alone: another operation might be refused before it
    ))  # fmt: skip
    if len(msgpack.packb(operations)) + 1000 > rogue.world.wire_limits.frame_bytes_max:
        fate, operations = "invalid", []
    async with rogue.welcomed() as talk:
        n = rogue.next_n(space)
        await pushed(
            talk, space, rogue.made(space, n, operations, fate), rogue.made(space, n + 1, [["create", "c", "a"]])
        )


@misdeed
async def pushes_too_many_changes(rogue: Rogue) -> None:
    space = rogue.any_space()
    async with rogue.welcomed() as talk:
        n, count = rogue.next_n(space), rogue.world.wire_limits.push_changes_max + 1
        if 40 * count > rogue.world.wire_limits.frame_bytes_max:
            count = 0
        changes = [[n + i, bytes(8), 0, 0, [["delete", "c", "a"]]] for i in range(count)]
        if changes:
            await talk.push(space, *changes)
            await talk.refused("too_many_changes", 4900)


@misdeed
async def pushes_to_a_foreign_space(rogue: Rogue) -> None:
    user = rogue.random.choice(rogue.world.users)
    async with rogue.welcomed() as talk:
        space = rogue.random.choice((f"user/{user}", "nobody/owns/this"))
        await talk.push(space, rogue.made(space, 1, [["create", "c", "mine"]], base=0), epoch=None)
        await talk.hear("error", name="forbidden", space=space)
        await talk.alive()


@misdeed
async def names_positions_that_are_not(rogue: Rogue) -> None:
    """In a push: a base beyond the head, one without an epoch, another epoch."""
    space, random = rogue.any_space(), rogue.random
    async with rogue.welcomed() as talk:
        n = rogue.next_n(space)
        beyond = rogue.made(space, n, [["create", "c", "a"]], base=rogue.head(space) + 10_000)
        match random.randrange(3):
            case 0:
                await talk.push(space, beyond)
                await talk.hear("error", name="bad_position", space=space)
            case 1:
                await talk.say("push", space=space, changes=[beyond])
                await talk.hear("error", name="bad_position", space=space)
            case _:
                await talk.push(space, rogue.made(space, n, [["create", "c", "a"]]), epoch=random.randbytes(16))
                await talk.hear("expired", space=space, highest=n - 1)
        await talk.alive()


# -- subscriptions ----------------------------------------------------------------------------------------------------


@misdeed
async def subscribes_with_invented_positions(rogue: Rogue) -> None:
    space, random = rogue.any_space(), rogue.random
    epoch, head = rogue.epoch(space), rogue.head(space)
    answer, body = random.choice((
        ("bad_position", {"epoch": epoch, "complete": 2, "resume": 1}),
        ("bad_position", {"complete": 1, "resume": 1}),
        ("bad_position", {"epoch": epoch, "complete": 0, "resume": 1}),
        ("bad_position", {"epoch": epoch, "complete": 1, "resume": 1, "start": 1}),
        ("expired", {"epoch": epoch, "complete": head + 10_000, "resume": head + 10_000}),
        # At the head, as the chain of what lies far back may be forgotten: who comes from there compares all it has.
        ("expired", {"epoch": epoch, "complete": max(1, head), "resume": max(1, head), "chain": random.randbytes(8)}),
        ("expired", {"epoch": random.randbytes(16), "complete": 1, "resume": 1}),
    ))  # fmt: skip
    async with rogue.welcomed() as talk:
        await talk.subscribe(space, **body)
        if answer == "expired":
            await talk.hear("expired", space=space)
        else:
            await talk.hear("error", name=answer, space=space)
        await talk.alive()


@misdeed
async def subscribes_to_a_foreign_space(rogue: Rogue) -> None:
    user = rogue.random.choice(rogue.world.users)
    async with rogue.welcomed(rogue.world.tap_of(rogue.name, rogue.device, ("rate_limited",))) as talk:
        await talk.subscribe(f"user/{user}")
        await talk.hear("revoked", space=f"user/{user}")
        await talk.alive()


@misdeed
async def subscribes_to_too_much(rogue: Rogue) -> None:
    async with rogue.welcomed() as talk:
        count = rogue.world.wire_limits.subscriptions_max
        for number in range(count if count <= 16 else 0):
            await talk.subscribe(f"rogue/{number}")
            await talk.hear("subscribed", space=f"rogue/{number}")
        await talk.subscribe("no good name" if count > 16 else "rogue/more")
        name = "bad_space" if count > 16 else "too_many_subscriptions"
        await talk.hear("error", name=name)
        await talk.alive()


@misdeed
async def acknowledges_what_it_never_had(rogue: Rogue) -> None:
    space, random = rogue.any_space(), rogue.random
    epoch, head, highest = rogue.epoch(space), rogue.head(space), rogue.next_n(space) - 1
    async with rogue.welcomed() as talk:
        ack = {"space": space, "epoch": epoch, "applied": 0, "oldest_base": 0, "settled": 0}
        roll = random.randrange(4)
        if roll:
            await talk.subscribe(space)
            await talk.hear("subscribed", space=space)
        match roll:
            case 0:
                await talk.say("ack", **ack)
                await talk.hear("error", name="not_subscribed", space=space)
            case 1:
                await talk.say("ack", **(ack | {"applied": head + 10_000}))
                await talk.hear("error", name="bad_position", space=space)
            case 2:
                await talk.say("ack", **(ack | {"settled": highest + 1}))
                await talk.hear("error", name="bad_position", space=space)
            case _:
                await talk.say("ack", **(ack | {"epoch": random.randbytes(16)}))
                await talk.hear("expired", space=space)
        await talk.alive()


@misdeed
async def ends_what_it_never_began(rogue: Rogue) -> None:
    async with rogue.welcomed() as talk:
        await talk.say("unsubscribe", space="s/0")
        await talk.hear("error", name="not_subscribed", space="s/0")
        await talk.subscribe("not//a name")
        await talk.hear("error", name="bad_space")
        await talk.alive()


# -- who it says it is ------------------------------------------------------------------------------------------------


@misdeed
async def speaks_before_it_is_known(rogue: Rogue) -> None:
    async with rogue.talk() as talk:
        await talk.say("probe")
        await talk.refused("unexpected_message", 4900)


@misdeed
async def shows_no_good_token(rogue: Rogue) -> None:
    token = rogue.token()
    stale = sign_token(KEY, rogue.user, [], 10.0, true_ms() - 7_300_000)
    forged = _forged(token)
    name, code, shown = rogue.random.choice((
        ("unauthenticated", 4200, None), ("unauthenticated", 4200, forged), ("token_expired", 4201, stale),
    ))  # fmt: skip
    async with rogue.talk() as talk:
        await talk.say("hello", **(rogue.hello() | {"token": shown}))
        await talk.refused(name, code)


@misdeed
async def guesses_tokens(rogue: Rogue) -> None:
    """It is made to wait; and who has a token that was good before, at the same address, is not."""
    good, burst = rogue.token(), rogue.world.net_limits.address_failures.burst
    async with rogue.talk() as talk:
        await talk.hello(token=good)
    if burst > 10:
        return
    for _ in range(int(burst) + 2):
        async with rogue.talk() as talk:
            await talk.say("hello", **(rogue.hello() | {"token": _forged(rogue.token())}))
            name = (await talk.hear("error"))["name"]
            await talk.hear_close(4100 if name == "rate_limited" else 4200)
        if name == "rate_limited":
            break
    else:
        raise talk.wrong("may guess for ever")
    async with rogue.talk() as talk:
        await talk.say("hello", **(rogue.hello() | {"token": good}))
        if (await talk.hear_any("welcome", "error"))[1].get("name") == "rate_limited":
            raise talk.wrong("shuts out who has a good token")


def _forged(token: str) -> str:
    return token[:-8] + ("A" if token[-8] != "A" else "B") + token[-7:]


@misdeed
async def takes_the_device_of_another(rogue: Rogue) -> None:
    other = rogue.random.choice([device for device in rogue.world.devices if device.id] or [None])
    known = None if other is None else rogue.world.auditor.installations.get(other.id)
    async with rogue.talk() as talk:
        device = bytes(16) if other is None or known is None else other.id  # ids of zeros are the server's own
        await talk.say("hello", **(rogue.hello() | {"device": device}))
        await talk.refused("device_bound", 4902)


@misdeed
async def takes_less_than_a_delta(rogue: Rogue) -> None:
    async with rogue.talk() as talk:
        await talk.say("hello", **(rogue.hello() | {"frame_bytes_max": 1000}))
        await talk.refused("frame_limit", 4903)


@misdeed
async def refreshes_with_the_token_of_another(rogue: Rogue) -> None:
    async with rogue.welcomed() as talk:
        await talk.say("refresh", token=rogue.token("someone-else"))
        await talk.refused("token_user", 4900)


@misdeed
async def connects_twice(rogue: Rogue) -> None:
    """The newer connection stands, the older one is told."""
    async with rogue.welcomed() as older, rogue.welcomed() as newer:
        await newer.alive()
        await older.refused("superseded", 4901)
        await newer.alive()


@misdeed
async def connects_with_more_devices_than_a_user_has(rogue: Rogue) -> None:
    """Those that are there stay, one more is turned away, and told to come back later."""
    async with AsyncExitStack() as stack:
        talks = []
        for _ in range(rogue.world.net_limits.connections_per_user_max):
            talk = await stack.enter_async_context(rogue.talk())
            talk.device = rogue.random.randbytes(16)
            await talk.hello()
            talks.append(talk)
        more = await stack.enter_async_context(rogue.talk())
        await more.say("hello", **(rogue.hello() | {"device": rogue.random.randbytes(16)}))
        body = await more.hear("error", name="overloaded")
        if not body.get("after_ms"):
            raise more.wrong("is not told when to come back")
        await more.hear_close(4101)
        for talk in talks:
            await talk.alive()
