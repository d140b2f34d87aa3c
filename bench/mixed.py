"""A mixed load that a daemon may meet for years: edits, reconnects, slow readers, posts of backends, and garbage.

Owns who does what and how often (`Rates`), and the counts of what happened (`Counts`). Everything that is kept is
bounded: devices, spaces, documents and their fields are the same from the beginning to the end, so nothing in the
daemon has a reason to grow but its store, which logs. Devices are real clients (`client.py`): they resume, send again
what was not answered, and at the end must all have the same documents.
"""

import json
import random
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import h11
import trio

from bench import garbage, workload
from bench.client import BYE, Broken, Conversation, Device, Ended, Http, Refused, Replica, dialled

DOCUMENTS = 40  # of each space
DEVICES_PER_SPACE = 6
DEVICES_PER_USER = 12
TAGS = 8
OUTBOX_MAX = 50  # edits of one offline spell
EVENTS = 200  # event ids: after them, the same come again, as from a backend that retries
SLOW_SHARE, SLOW_S_MAX, SLOW_BUFFER_BYTES = 0.1, 20.0, 4096
OFFLINE_S_MAX = 5.0
ACK_S = 5.0
LEGITIMATE = frozenset({"applied", "merged", "noop", "gone"})  # outcomes that such edits may have
HOSTILE_S_MAX = 3.0

# What a daemon meets once in its life comes at once: names that never come again (`Load.burst`). CPython keeps a table
# of all names, and msgpack enters the keys of every map that it reads; a place that was used is not used again until
# the table is made anew. That happens first after some 20,000 names, when it doubles to 2 MiB, and a second time after
# 60,000, when the new one lies beside the old; from then on the two places take turns. Spread over an hour of a gentle
# load these are two steps of 1 and 2 MiB, which no slope can tell from a leak.
BURST_CHANGES, BURST_NAMES = 40, 4096
BURST_S_MAX = 60.0


@dataclass(frozen=True, slots=True)
class Rates:
    """`edit_s`: between two edits of one device, on average; the others likewise."""

    devices: int
    edit_s: float
    session_s: float
    post_s: float
    garbage_s: float


STEADY = Rates(devices=60, edit_s=1.0, session_s=30.0, post_s=0.25, garbage_s=1.0)
GENTLE = Rates(devices=24, edit_s=3.0, session_s=60.0, post_s=1.0, garbage_s=3.0)


@dataclass(slots=True)
class Counts:
    """What happened so far. `cut`: connections that ended otherwise than we wished; `codes`: with which close code."""

    edits: int = 0
    sessions: int = 0
    resumed: int = 0
    downloads: int = 0
    slow: int = 0
    refused: int = 0
    posts: int = 0
    hostile: int = 0
    cut: int = 0
    codes: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Load:
    """All clients of one daemon. `tokens`: of the users `soak-0`, `soak-1` ...; `api_key`: of the backend."""

    def __init__(self, port: int, rates: Rates, tokens: list[str], api_key: str, seed: int) -> None:
        assert len(tokens) * DEVICES_PER_USER >= rates.devices
        self._port, self._rates, self._api_key = port, rates, api_key
        self._random = random.Random(seed)
        self._tokens = tokens
        self.counts = Counts()
        self.is_editing = True
        self.devices = [self._device(index) for index in range(rates.devices)]

    def _device(self, index: int) -> Device:
        user = index // DEVICES_PER_USER
        names = (f"bench/soak/{index // DEVICES_PER_SPACE}", f"user/soak-{user}")
        return Device(f"soak {index}", self._tokens[user], {name: Replica(name) for name in names})

    async def run(self) -> None:
        """Until cancelled. Raises `Broken` (in a group)."""
        async with trio.open_nursery() as nursery:
            for device in self.devices:
                nursery.start_soon(self._live, device)
            nursery.start_soon(self._post)
            nursery.start_soon(self._molest)

    async def burst(self) -> None:
        """Once, before all else. Raises `Broken`."""
        replica = Replica("bench/soak/burst")
        device = Device("soak burst", self._tokens[0], {replica.space: replica})
        stream = await dialled(self._port)
        try:
            conversation = Conversation(device, stream, f"127.0.0.1:{self._port}")
            await conversation.open()
            await conversation.subscribe_all()
            with trio.move_on_after(BURST_S_MAX):
                for number in range(BURST_CHANGES):
                    names = {f"{number}.{name}": None for name in range(BURST_NAMES)}
                    document = (workload.COLLECTION, "names")
                    replica.edit([["create", *document], ["reg.set", *document, "names", names]])
                    await conversation.push(replica)
                    await conversation.serve_until(lambda: not replica.outbox)
            if replica.outbox:
                raise Broken(f"the burst got no outcome within {BURST_S_MAX:g} s")
            await conversation.send(workload.message(BYE, {"end": True}))
        finally:
            stream.socket.close()

    # -- devices -------------------------------------------------------------------------------------------------

    async def _live(self, device: Device) -> None:
        """Session after session, edits in between."""
        rng = self._random
        await trio.sleep(rng.uniform(0, OFFLINE_S_MAX))
        while True:
            wait_s = rng.uniform(0, OFFLINE_S_MAX)
            try:
                await self._session(device)
            except Refused as refused:
                self.counts.refused += 1
                wait_s = refused.retry_after_s or wait_s
            except Ended as ended:
                self._count_end(ended)
            except OSError:
                self.counts.cut += 1
            own = next(iter(device.replicas.values()))
            if self.is_editing and len(own.outbox) < OUTBOX_MAX and rng.random() < 0.5:
                self._edit(own)
            if self.is_editing and rng.random() < 0.02:
                own.forget()
                self.counts.downloads += 1
            await trio.sleep(wait_s)

    def _count_end(self, ended: Ended) -> None:
        self.counts.cut += 1
        code = str(ended.code)
        self.counts.codes[code] = self.counts.codes.get(code, 0) + 1

    async def _session(self, device: Device) -> None:
        rng = self._random
        is_slow = self.is_editing and rng.random() < SLOW_SHARE
        stream = await dialled(self._port, receive_buffer_bytes=SLOW_BUFFER_BYTES if is_slow else None)
        try:
            conversation = Conversation(device, stream, f"127.0.0.1:{self._port}")
            await conversation.open()
            self.counts.sessions += 1
            self.counts.resumed += bool(conversation.welcome["resumed"])
            await conversation.subscribe_all()
            if is_slow:
                self.counts.slow += 1
                await trio.sleep(rng.uniform(1, SLOW_S_MAX))
            with trio.move_on_after(rng.expovariate(1 / self._rates.session_s)):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(conversation.serve)
                    nursery.start_soon(self._edit_on, conversation)
            if rng.random() < 0.5:
                with suppress(Ended):
                    await conversation.send(workload.message(BYE, {}))
        except BaseExceptionGroup as group:
            raise _single(group) from None
        finally:
            stream.socket.close()

    async def _edit_on(self, conversation: Conversation) -> None:
        own = next(iter(conversation.device.replicas.values()))
        acked_s = trio.current_time()
        while True:
            await trio.sleep(min(ACK_S, self._random.expovariate(1 / self._rates.edit_s)))
            if self.is_editing:
                self._edit(own)
                await conversation.push(own)
            if trio.current_time() - acked_s >= ACK_S:
                acked_s = trio.current_time()
                await conversation.acknowledge()

    def _edit(self, replica: Replica) -> None:
        """One change to one document, of any kind."""
        rng = self._random
        collection, document_id = workload.COLLECTION, f"d{rng.randrange(DOCUMENTS)}"
        self.counts.edits += 1
        if (collection, document_id) not in replica.documents:
            replica.edit([["create", collection, document_id]])
            return
        kinds: list[list[Any]] = [
            ["reg.set", collection, document_id, "text", workload.BODY.format(rng.randrange(10**8)) * 2],
            ["reg.set", collection, document_id, "order", rng.randrange(10**6)],
            ["mv.set", collection, document_id, "title", workload.TITLE[: rng.randrange(4, 20)]],
            ["counter.inc", collection, document_id, "count", rng.choice([-1, 1, 2])],
            ["set.add", collection, document_id, "tags", f"tag-{rng.randrange(TAGS)}"],
            ["set.remove", collection, document_id, "tags", f"tag-{rng.randrange(TAGS)}"],
            ["map.put", collection, document_id, "prices", f"key-{rng.randrange(TAGS)}", rng.randrange(100)],
            ["flag.enable" if rng.random() < 0.5 else "flag.disable", collection, document_id, "done"],
        ]
        if rng.random() < 0.02:
            replica.edit([["delete", collection, document_id]])
        else:
            replica.edit(rng.sample(kinds, rng.randrange(1, 4)))

    # -- backends ------------------------------------------------------------------------------------------------

    async def _post(self) -> None:
        """Changes and events of a backend. Only what a restart or a full server explains may fail."""
        http = Http(self._port, {"Authorization": f"Bearer {self._api_key}"})
        try:
            while True:
                await trio.sleep(self._random.expovariate(1 / self._rates.post_s))
                if self.is_editing:
                    await self._post_one(http)
        finally:
            http.close()

    async def _post_one(self, http: Http) -> None:
        n, spaces = self.counts.posts, max(1, self._rates.devices // DEVICES_PER_SPACE)
        target, media, body = _event(n, len(self._tokens)) if n % 2 else _change(n // 2, spaces)
        try:
            status, answer = await http.request("POST", target, {"Content-Type": media}, json.dumps(body).encode())
        except (OSError, trio.BrokenResourceError, h11.RemoteProtocolError):
            self.counts.cut += 1
            return
        if status not in (200, 202, 503):
            raise Broken(f"POST {target} was answered {status}: {answer[:300]!r}")
        self.counts.posts += 1

    # -- others --------------------------------------------------------------------------------------------------

    async def _molest(self) -> None:
        """Now and then somebody sends what makes no sense, and goes."""
        while True:
            await trio.sleep(self._random.expovariate(1 / self._rates.garbage_s))
            parts = garbage.drawn(self._random, f"127.0.0.1:{self._port}", self._tokens[0])
            with suppress(OSError, trio.BrokenResourceError):
                stream = await dialled(self._port)
                try:
                    with trio.move_on_after(HOSTILE_S_MAX):
                        for part in parts:
                            await stream.send_all(part)
                            await trio.sleep(0.05)
                        while await stream.receive_some(1 << 16):
                            pass
                finally:
                    if self._random.random() < 0.5:
                        garbage.reset(stream.socket)
                    stream.socket.close()
            self.counts.hostile += 1


def _single(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What ended a session, of all that ended with it: a broken promise before an end."""
    leaves: list[BaseException] = []
    waiting: list[BaseException] = [group]
    while waiting:
        found = waiting.pop()
        if isinstance(found, BaseExceptionGroup):
            waiting += found.exceptions
        else:
            leaves.append(found)
    return min(leaves, key=lambda leaf: isinstance(leaf, Ended))


def _change(n: int, spaces: int) -> tuple[str, str, dict[str, Any]]:
    document_id = f"h{n % DOCUMENTS}"
    operations = [
        ["create", workload.COLLECTION, document_id],
        ["reg.set", workload.COLLECTION, document_id, "text", workload.BODY.format(n)],
    ]
    return f"/v1/spaces/bench%2Fsoak%2F{n % spaces}/changes", "application/json", {"operations": operations}


def _event(n: int, users: int) -> tuple[str, str, dict[str, Any]]:
    event = {
        "specversion": "1.0", "type": "soak.tick", "source": "/bench/soak", "id": f"event-{n % EVENTS}",
        "subject": f"soak-{n % users}",
        "data": {"notification": {"title": "Tick", "body": workload.TITLE, "category": "soak"}},
    }  # fmt: skip
    return "/v1/events", "application/cloudevents+json", event


def differences(devices: list[Device]) -> list[str]:
    """What is wrong at the end, in words: changes without an outcome, outcomes that no edit explains, replicas of one
    space that differ."""
    found: list[str] = []
    first: dict[str, tuple[str, Replica]] = {}
    for device in devices:
        for space, replica in device.replicas.items():
            if replica.outbox:
                found.append(f"{device.name}: {len(replica.outbox)} changes of {space} got no outcome")
            strange = set(replica.outcomes) - LEGITIMATE
            if strange:
                found.append(f"{device.name}: outcomes {sorted(strange)} in {space}")
            name, other = first.setdefault(space, (device.name, replica))
            if (other.complete, other.documents) != (replica.complete, replica.documents):
                found.append(f"{space}: {name} at {other.complete} and {device.name} at {replica.complete} differ")
    return found
