"""Signals and presence: people who type, move and come and go while everything else goes wrong.

G1 a signal reaches only who has a subscription on that connection that was not revoked, and never one whom its sender
knew to be denied. G2 on one connection, of one sender and key, no value is older than one before. G3 what is left of
its time is no more than it had. G4 at rest, whoever watches knows of exactly those who are present.
"""

from collections import Counter
from collections.abc import Mapping
from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim.auditor import Violation
from tests.sim.device import SimDevice
from tests.sim.planted import Mutant
from tests.sim.topic import Topic, Work
from tests.sim.wiretap import raw

if TYPE_CHECKING:
    from tests.sim.world import World

KEYS = ("typing", "at", "price")
BURST = 130  # more than a device may say at once: what is too much is refused, and the connection stays


class SignalWork(Work):
    every_s_mean = 0.4
    tolerated_errors = ("signal_refused", "signal_limited")

    def __init__(self, world: "World", random: Random, name: str) -> None:
        super().__init__(world, random, name)
        self._number = 0
        self._ttl_ms: dict[int, int] = {}  # by the number that a signal carries
        self._known: dict[int, int] = {}  # the seq up to which its sender had outcomes when it was sent
        self._told: dict[tuple[str, str], int] = {}  # the greatest seq of an outcome, by device and space
        self._open: dict[tuple[str, str], bool | None] = {}  # by device and space: there is a subscription
        self._last: dict[tuple[str, str, bytes, str], int] = {}  # by device, space, sender and key

    async def act(self, device: SimDevice) -> None:
        assert device.client is not None
        space = device.client.space(self.random.choice(self.world.spaces_of(device.user)))
        what = self.random.random()
        if what < 0.1:
            space.announce({"mood": self.random.randrange(3)})
        elif what < 0.15:
            space.announce(self.random.choice((True, None)))
        else:
            count = self.random.choice((1, 1, 5))
            for _ in range(BURST if what > 0.995 else count):
                self._number += 1
                ttl_ms = self.random.choice((200, 5_000, 60_000))
                self._ttl_ms[self._number] = ttl_ms
                pad = "x" * self.random.choice((0, 0, 3_000))
                if space.signal(self.random.choice(KEYS), [self._number, pad], ttl_s=ttl_ms / 1000):
                    self.count("offered")

    def sent(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        if name == "signal" and body.get("key") is not None and isinstance(body.get("value"), list):
            self._known[body["value"][0]] = self._told.get((node, body["space"]), 0)
        elif name == "unsubscribe" and self._open.get((node, body["space"])):
            self._open[node, body["space"]] = None  # what is under way may cross it
        elif name == "hello":
            for each in [each for each in self._open if each[0] == node]:
                del self._open[each]
            for key in [key for key in self._last if key[0] == node]:
                del self._last[key]

    def received(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        if name == "subscribed":
            self._open[node, body["space"]] = True
        elif name in ("revoked", "expired"):
            self._open[node, body["space"]] = False
        elif name == "outcomes":
            seqs = [entry[3] for entry in body["outcomes"] if entry[3] is not None]
            key = node, body["space"]
            self._told[key] = max([self._told.get(key, 0), *seqs])
        elif name == "signal":
            self._judge(node, body)
        elif name == "presence":
            if self._open.get((node, body["space"]), False) is False:
                raise Violation("G1", f"{node}: presence in {body['space']} without a subscription", node, "server")
            self.count("whole" if body.get("whole") else "change")

    def _judge(self, node: str, body: Mapping[str, Any]) -> None:
        space, key, number = body["space"], body["key"], body["value"][0]
        if self._open.get((node, space), False) is False:
            raise Violation("G1", f"{node}: hears {key} of {space} without a subscription", node, "server")
        user = next((device.user for device in self.world.devices if device.name == node), None)
        said = [(seq, roles[user]) for seq, roles in self.world.auditor.space(space).regrants if user in roles]
        known = self._known.get(number, 0)
        if said and said[-1][0] <= known and said[-1][1] == 0:
            raise Violation("G1", f"{node}: hears {number}, whose sender knew that {user} is denied", node, "server")
        place = (node, space, raw(body["ref"]), key)
        if number <= self._last.get(place, 0):
            raise Violation("G2", f"{node}: {number} of {key} in {space} behind {self._last[place]}", node, "server")
        self._last[place] = number
        if not 0 < body["ttl_ms"] <= self._ttl_ms[number]:
            raise Violation("G3", f"{node}: {body['ttl_ms']} ms are left of {self._ttl_ms[number]}", node, "server")
        self.count("heard")

    def _users(self, space: str) -> Counter[str]:
        """Those who say that they are present."""
        clients = [(device, device.client) for device in self.world.devices if device.client is not None]
        return Counter(
            device.user
            for device, client in clients
            if client.live.can_signal(space) and isinstance(client.live._wishes.get(space), Mapping)
        )

    def unfinished(self) -> list[str]:
        left = []
        for device in self.world.devices:
            client = device.client
            if client is None:
                continue
            for row in client.spaces():
                if client.live.can_signal(row.name) and row.name in client.live._wishes:
                    seen = Counter(member.user for member in client.live.present(row.name))
                    expected = self._users(row.name)
                    if seen != expected or client.live.present_count(row.name) != expected.total():
                        left.append(
                            f"{device.name} sees {dict(seen)} in {row.name}, where {dict(expected)} are present"
                        )
                    self.count("watched")
        return left


MUTANTS = (
    Mutant(
        "signals: whose subscription ended goes on hearing",
        "syncd.net.delivery", "Delivery.deafen", "if channel.seat is not None:", "if False:",
        seeds=((7, "swarm"),),
    ),
    Mutant(
        "presence: who lost the connection stays for ever",
        "syncd.net.live", "Live.unseated", "room.roster.away(seat.ref, until_s)", "pass",
        seeds=((32, "swarm"),),
    ),
)  # fmt: skip

SIGNALLING = Topic("signals", SignalWork, share=0.3, expected=("heard", "whole", "change", "watched"), mutants=MUTANTS)
