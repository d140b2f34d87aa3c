"""The demo's story, scene by scene: who is on stage, what they do, what the audience is told.

Owns the cast and the scenes. Processes are `stage.py`'s business, the verdict `verify.py`'s. What is printed as a fact
was read from a device or from the daemon in that moment.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random  # noqa: TID251 - a seeded story, not entropy
from typing import Any

import trio
from rich.console import Console
from rich.padding import Padding
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from syncd.app.demo.stage import ASK_S, Daemon, DeviceProcess

CART, TRIP, PARTY, ROUTE = "home/cart", "home/trip", "party/list", "home/route"
GOODS = ("milk", "bread", "apples", "coffee", "rice", "soap", "cheese", "tomatoes", "pasta", "olives")
EDIT_INTERVAL_S = 0.25  # between two edits of one device while it shops


@dataclass(frozen=True, slots=True)
class Part:
    """One role in the cast: a device, whose it is, and what it replicates."""

    name: str
    user: str
    spaces: tuple[str, ...]


CAST = (
    Part("Ann's phone", "ann", (CART, TRIP, "user/ann")),
    Part("Ben's phone", "ben", (CART, TRIP)),
    Part("kitchen tablet", "ann", (CART, TRIP, "user/ann")),
    Part("Ann's watch", "ann", (CART, "user/ann")),
    Part("Cleo's phone", "cleo", (PARTY,)),
    Part("Dan's phone", "dan", (PARTY,)),
)
GRANTS = {
    "ann": {"home/*": "owner", "user/ann": "owner"},
    "ben": {"home/*": "writer", "user/ben": "owner"},
    "van": {ROUTE: "writer"},
}


def cast(count: int) -> tuple[Part, ...]:
    """The first `count` devices; beyond the six with names come guests at the party, each a stranger."""
    guests = (Part(f"guest {i}'s phone", f"guest{i}", (PARTY,)) for i in range(1, count - len(CAST) + 1))
    return (*CAST[:count], *guests)


def grants_of(user: str) -> dict[str, str]:
    return GRANTS.get(user, {PARTY: "writer", f"user/{user}": "owner"})


class Story:
    """The scenes, in order. Each takes what it needs of the stage and tells what happened."""

    def __init__(self, console: Console, daemon: Daemon, devices: Sequence[DeviceProcess], seed: int) -> None:
        self.console = console
        self.daemon = daemon
        self.devices = {device.name: device for device in devices}
        self.random = Random(seed)
        self.backend_secret = ""
        self.restarts = 0
        self.problems: list[str] = []  # what was promised, and did not hold
        self._began_s = trio.current_time()
        self._scenes = 0

    def tell(self, text: str) -> None:
        line = Table.grid(padding=(0, 2))  # what does not fit the line goes on below the text, not below the time
        line.add_row(f"[dim]{trio.current_time() - self._began_s:6.1f}s[/]", text)
        self.console.print(line, highlight=False)

    def quote(self, command: str, lines: Sequence[str]) -> None:
        """A command and what it printed, as whoever types it sees it."""
        for line in (f"$ {command}", *lines):
            self.console.print(Padding(Text(line, "cyan"), (0, 0, 0, 10), expand=False))

    def scene(self, title: str) -> None:
        self._scenes += 1
        self.console.print()
        self.console.print(f"[bold]{self._scenes}. {title}[/]", highlight=False)

    def on_stage(self, *names: str) -> bool:
        return all(name in self.devices for name in names)

    # -- scenes -----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """The daemon and all devices start; one device fills the shared documents."""
        self.scene("A daemon, and devices that are strangers to each other")
        await self.daemon.start()
        self.tell(f"the daemon serves on {self.daemon.http} (pid {self.daemon.pid}), store in {self.daemon.state}")
        self.backend_secret = await self.daemon.api_key("shop-backend", "events:write")
        self.tell("a backend got an API key that may post events, and nothing else")
        async with trio.open_nursery() as nursery:
            for device in self.devices.values():
                nursery.start_soon(device.start, self.daemon.url)
        for device in self.devices.values():
            await device.wait_until(lambda device=device: device.state == "ready", "a session with the daemon")
        self.tell(f"{len(self.devices)} devices, each a process with a store of its own, are connected")
        ann = self.devices["Ann's phone"]
        plan = ("plan", "summer")
        await ann.commit(
            TRIP, ["create", *plan], ["reg.set", *plan, "destination", "south"], ["counter.inc", *plan, "budget", 500]
        )
        n = await ann.commit(CART, ["create", "item", "milk"], ["counter.inc", "item", "milk", "quantity", 1])
        began_s = trio.current_time()
        outcome = await ann.outcome(CART, n)
        self.tell(
            f"Ann's phone put milk into the cart: {outcome['outcome']} as seq {outcome['seq']},"
            f" on disk {1000 * (trio.current_time() - began_s):.0f} ms later"
        )
        await self._everyone("complete")

    async def shop(self, seconds: float, title: str, absent: Sequence[str] = ()) -> None:
        """Everyone who is not absent edits for a while."""
        self.scene(title)
        shoppers = [device for name, device in self.devices.items() if name not in absent and device.is_running]
        counts = {device.name: 0 for device in shoppers}
        with self._progress() as progress:
            bar = progress.add_task("editing", total=seconds)
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    for device in shoppers:
                        nursery.start_soon(self._edits, device, counts)
                    began_s = trio.current_time()
                    while True:
                        await trio.sleep(0.2)
                        progress.update(bar, completed=trio.current_time() - began_s)
            progress.update(bar, completed=seconds)
        self.tell(
            f"{sum(counts.values())} changes by {len(shoppers)} devices, each answered at once from its own store"
        )

    async def notify(self) -> None:
        """A backend posts an event; it reaches a phone; what the watch has seen, the phone knows."""
        self.scene("A backend posts an event; seen on one device is seen on all")
        event = {
            "specversion": "1.0", "type": "shop.order.shipped", "source": "/shop", "id": "order-17", "subject": "ann",
            "data": {"notification": {"title": "On its way", "body": "Order 17 has shipped", "category": "orders"}},
        }  # fmt: skip
        kind = "application/cloudevents+json"
        answer = await self.daemon.request("POST", "/v1/events", self.backend_secret, event, kind)
        again = await self.daemon.request("POST", "/v1/events", self.backend_secret, event, kind)
        self.tell(
            f"POST /v1/events: {answer['results'][0]['status']}; the same event again: {again['results'][0]['status']}"
        )
        phone = self.devices["Ann's phone"]
        title = "On its way"
        shown = await self.shown(phone, title)
        self.tell(f"Ann's phone shows: {title}: {shown['fields']['body']}")
        if self.on_stage("Ann's watch"):
            watch = self.devices["Ann's watch"]
            await self.shown(watch, title)
            await watch.commit("user/ann", ["flag.enable", "_inbox", shown["id"], "seen"])
            await self.shown(phone, title, "seen")
            self.tell("Ann looked at her watch: her phone shows it as seen")

    async def part(self) -> dict[str, int]:
        """Two phones go offline and edit what the other edits, too. Returns the n of the conflicting changes."""
        self.scene("Two phones go offline, and edit the same things")
        ann, ben = self.devices["Ann's phone"], self.devices["Ben's phone"]
        await self._everyone("complete")
        for device in (ann, ben):
            await device.ask("offline")
        self.tell("Ann's and Ben's phones are offline")
        made: dict[str, int] = {}
        made["ann"] = await ann.commit(TRIP, ["reg.set", "plan", "summer", "destination", "Lisbon"])
        await trio.sleep(0.05)  # so that the two effective times differ visibly
        made["ben"] = await ben.commit(TRIP, ["reg.set", "plan", "summer", "destination", "Bergen"])
        self.tell("Ann sets the destination to Lisbon, Ben sets it to Bergen; neither can see the other's")
        await ann.commit(TRIP, ["counter.inc", "plan", "summer", "budget", 200])
        await ben.commit(TRIP, ["counter.inc", "plan", "summer", "budget", 300])
        self.tell("Ann adds 200 to the budget of 500, Ben adds 300")
        made["ben_milk"] = await ben.commit(CART, ["reg.set", "item", "milk", "note", "the blue one"])
        self.tell("Ben writes a note at the milk")
        deleter = self.devices.get("kitchen tablet")
        if deleter is not None:
            n = await deleter.commit(CART, ["delete", "item", "milk"])
            await deleter.outcome(CART, n)
            self.tell("meanwhile somebody deletes the milk on the kitchen tablet, which is online")
        return made

    async def crash(self, seconds: float) -> None:
        """The daemon dies under load, and so does a device; both come back on what they had on disk."""
        self.scene("kill -9, in the middle of everything")
        absent = ("Ann's phone", "Ben's phone")
        others = [device for name, device in self.devices.items() if name not in absent and device.is_running]
        counts = {device.name: 0 for device in others}
        victim = others[0] if others else None
        async with trio.open_nursery() as nursery:
            for device in others:
                nursery.start_soon(self._edits, device, counts)
            await trio.sleep(seconds / 3)
            known = sum(len(device.acknowledged) for device in self.devices.values())
            await self.daemon.kill()
            rest = "; the devices edit on, offline" if others else ""
            self.tell(f"the daemon was killed with {known} changes acknowledged so far{rest}")
            await trio.sleep(seconds / 3)
            nursery.cancel_scope.cancel()
        if victim is not None:
            await victim.kill()
            self.tell(f"{victim.name} was killed, too, with changes in its outbox")
        await self.daemon.start()
        self.restarts += 1
        self.tell(f"the daemon is back (pid {self.daemon.pid}) on the store that the crash left")
        if victim is not None:
            await victim.start(self.daemon.url)
            depth = (await victim.ask("status"))["outbox"]
            self.tell(f"{victim.name} is back, its outbox ({depth} changes) as it was")

    async def unite(self) -> None:
        """Everyone returns; the story waits until all have everything."""
        self.scene("Everyone returns")
        for name in ("Ann's phone", "Ben's phone"):
            await self.devices[name].ask("online")
        with self._progress() as progress:
            bar = progress.add_task("settling", total=len(self.devices))
            async with trio.open_nursery() as nursery:
                for device in self.devices.values():
                    nursery.start_soon(self._settle, device, progress, bar)
        await self._everyone("complete")
        self.tell("every outbox is empty, every device is complete")

    async def explain(self, made: dict[str, int]) -> None:
        """Why the winner won, and what became of the loser."""
        self.scene("Why is the destination what it is?")
        for who in ("ann", "ben"):
            device = self.devices[f"{who.capitalize()}'s phone"]
            outcome = await device.outcome(TRIP, made[who])
            met = (outcome["detail"] or {}).get("met", [])
            told = "; ".join(f"it met the change at seq {seq} and {verdict}" for _, verdict, seq in met)
            self.tell(
                f"{device.name}'s change: {outcome['outcome']} as seq {outcome['seq']}{'; ' + told if told else ''}"
            )
        said = await self.daemon.command("explain", TRIP, "plan/summer", "destination")
        self.quote(f"syncd explain {TRIP} plan/summer destination", said.splitlines())
        plan = await self.devices["Ben's phone"].document(TRIP, "plan", "summer")
        assert plan is not None, "nobody deletes the plan"
        self.problems += explained_problems(said, plan["fields"])
        self.tell(f"the budget is {plan['fields']['budget']}: increments by both were kept")
        note = await self.devices["Ben's phone"].outcome(CART, made["ben_milk"])
        reason = (note["detail"] or {}).get("reason", "")
        self.tell(f"Ben's note at the milk: {note['outcome']}{f' ({reason}; kept as a dead letter)' if reason else ''}")

    # -- what the scenes share --------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        columns = (TextColumn("        {task.description}"), BarColumn(), TimeElapsedColumn())
        return Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)

    async def _edits(self, device: DeviceProcess, counts: dict[str, int]) -> None:
        while True:
            await trio.sleep(self.random.uniform(0.5, 1.5) * EDIT_INTERVAL_S)
            space = CART if CART in device.spaces else PARTY
            good = self.random.choice(GOODS[1:])
            is_there = await device.document(space, "item", good) is not None
            operations: list[list[Any]] = [] if is_there else [["create", "item", good]]
            kind = self.random.randrange(5)
            if kind == 0:
                operations.append(
                    ["set.add", "item", good, "for", self.random.choice(("breakfast", "dinner", "picnic"))]
                )
            elif kind == 1:
                operations.append(["set.remove", "item", good, "for", self.random.choice(("breakfast", "dinner"))])
            elif kind == 2:
                operations.append(["map.put", "item", good, "asked", device.user, self.random.randrange(9)])
            if kind == 3 and is_there:
                operations.append(["delete", "item", good])
            else:
                operations.append(["counter.inc", "item", good, "quantity", 1])
            with trio.CancelScope(shield=True):  # an answer that is not read would answer the next question
                await device.commit(space, *operations)
            counts[device.name] += 1

    async def inbox(self, device: DeviceProcess) -> list[dict[str, Any]]:
        """Ann's notifications as a device shows them."""
        found: list[dict[str, Any]] = (await device.ask("list", space="user/ann", collection="_inbox"))["documents"]
        return found

    async def shown(self, device: DeviceProcess, title: str, flag: str | None = None) -> dict[str, Any]:
        """A notification in Ann's inbox as a device shows it, once it is there (and has the flag set)."""
        with trio.fail_after(ASK_S):
            while True:
                for each in await self.inbox(device):
                    if each["fields"].get("title") == title and (flag is None or each["fields"].get(flag)):
                        return each
                await trio.sleep(0.02)

    async def _settle(self, device: DeviceProcess, progress: Progress, bar: Any) -> None:
        await device.wait_until(lambda: device.state == "ready", "a session with the daemon")
        await device.ask("wait", **{"for": "settled", "timeout_s": 60.0})
        progress.advance(bar)

    async def _everyone(self, goal: str) -> None:
        """Wait until all devices that are online have all that the most advanced of them has, in each space."""
        running = [device for device in self.devices.values() if device.is_running]
        for device in running:
            await device.ask("wait", **{"for": goal})
        heads: dict[str, int] = {}
        for device in running:
            for row in (await device.ask("status"))["spaces"]:
                heads[row["space"]] = max(heads.get(row["space"], 0), row["complete"])
        for device in running:
            for space in device.spaces:
                await device.ask("wait", space=space, **{"for": {"complete": heads[space]}})


def explained_problems(said: str, fields: dict[str, Any]) -> list[str]:
    """What `explain` did not say of two edits of the destination that met, and of the one that all devices show."""
    found = []
    if fields.get("destination") not in ("Lisbon", "Bergen") or fields.get("budget") != 1000:
        found.append(f"explain: after two edits that met, the plan has {fields}")
    if f'destination (reg) = "{fields.get("destination")}"' not in said:
        found.append(f"explain: it does not tell the value that devices show: {said}")
    if "neither had seen the other" not in said:
        found.append(f"explain: it does not tell that two edits met: {said}")
    return found
