"""What goes wrong, and when: kills, partitions, resets, clocks, weather, permissions.

Owns the faults that the plan of a run allows, and the operator who starts a dead server again. Everything that it does
can be healed: `world.heal` ends the faults, and then everything must come to rest.
"""

from random import Random
from typing import TYPE_CHECKING

import trio

from tests.sim.determinism import sleep
from tests.sim.device import SimDevice

if TYPE_CHECKING:
    from tests.sim.world import World

STEP_MS_MAX = 30_000  # of the server's clock: a token lives at least 20 s


class Nemesis:
    def __init__(self, world: "World", random: Random) -> None:
        self._world, self._random = world, random
        self._busy: dict[str, None] = {}

    async def run(self, nursery: trio.Nursery) -> None:
        """`nursery`: for faults that last; it ends with the safety phase."""
        plan, random = self._world.plan, self._random
        kinds = sorted(plan.faults - {"power-cut", "stale-token", "auth-down"})
        while kinds:
            await sleep(random.expovariate(1 / plan.fault_every_s))
            kind = random.choice(kinds)
            self._world.trace.record("nemesis", kind)
            self._world.count_fault(kind)
            await self._act(kind, nursery)

    async def _act(self, kind: str, nursery: trio.Nursery) -> None:
        world, random = self._world, self._random
        device = random.choice(world.devices)
        match kind:
            case "kill-server":
                await world.server.kill()
            case "stop-server":
                if world.server.life % 2 and not world.server.is_draining:
                    # In the world's nursery: who is told to stop goes on with it, also when the faults end.
                    world.nursery.start_soon(world.stop_server, random.choice((0.0, 2.0, 10.0)))
            case "kill-device" | "close-device":
                if device.is_on and device.name not in self._busy:
                    self._busy[device.name] = None
                    nursery.start_soon(self._outage, device, kind == "kill-device")
            case "cut":
                devices = world.devices if random.random() < 0.2 else [device]
                nursery.start_soon(self._partition, devices)
            case "reset":
                links = world.network.of(None if random.random() < 0.2 else device.name)
                for link in links:
                    link.reset()
            case "clock":  # a daylight saving time that a device should not follow is a step of an hour
                if random.random() < 0.3:
                    world.server.clock.step(random.randint(-STEP_MS_MAX, STEP_MS_MAX))
                    world.server.clock.drift = random.uniform(-0.01, 0.01)
                else:
                    device.clock.step(random.choice((-86_400_000, -3_600_000, -5000, 5000, 3_600_000, 86_400_000)))
                    device.clock.drift = random.uniform(-0.01, 0.01)
            case "weather":
                weather = world.network.weather[device.name]
                weather.latency_s = random.choice((0.001, 0.05, 0.5, 3.0))
                weather.jitter_s = random.choice((0.0, 0.02, 1.0))
                weather.buffer_bytes = random.choice((120, 700, 4096, 65536))
                weather.short_share = random.choice((0.0, 0.2, 0.6))
            case "grants":
                user, space = random.choice(world.users), random.choice(world.shared_spaces)
                world.roles[user][space] = random.choice((0, 0, 1, 2, 3))
                world.trace.record("nemesis", f"{user} has role {world.roles[user][space]} on {space}")
            case "half-open":
                links = world.network.of(device.name)
                for link in links:
                    link.lose()
            case "stop-reading":
                nursery.start_soon(self._daze, device)
            case "clone":
                if device.is_on and device.name not in self._busy:
                    self._busy[device.name] = None
                    nursery.start_soon(self._clone, device)
            case "store-full":
                nursery.start_soon(self._fill_up)
            case "disk-fails":
                world.server.failing = random.choice(("before", "after"))
            case "hour":
                nursery.start_soon(self._wrong_hour)
            case _:
                raise AssertionError(kind)

    async def _daze(self, device: SimDevice) -> None:
        device.stop_reading()
        await sleep(self._random.choice((5.0, 40.0, 150.0)) * (0.5 + self._random.random()))
        device.read_on()

    async def _clone(self, device: SimDevice) -> None:
        """A copy of a machine runs beside it: of its disk, or of its backup, which has another installation."""
        random, world = self._random, self._world
        device.is_cloned = True
        with_installation = random.random() < 0.5
        try:
            await world.run_clone(device, with_installation, random.choice((5.0, 20.0, 60.0)))
        finally:
            if device.client is not None:
                device.client.go_online()
            del self._busy[device.name]

    async def _fill_up(self) -> None:
        """The disk is full for a while. Reads go on; then an operator makes room."""
        server, random = self._world.server, self._random
        server.fill_up(random.choice((0.89, 0.95, 1.0)))
        await sleep(random.choice((1.0, 10.0, 40.0)))
        await self._world.read_over_http()
        await sleep(random.random())
        server.make_room()

    async def _wrong_hour(self) -> None:
        """Someone sets the server's clock by an hour, as for a summer time that it does not have, and back again."""
        hour_ms = self._random.choice((-3_600_000, 3_600_000))
        self._world.server.clock.step(hour_ms)
        await sleep(5 + self._random.random() * 20)
        self._world.server.clock.step(-hour_ms)

    async def _outage(self, device: SimDevice, is_kill: bool) -> None:
        await (device.kill() if is_kill else device.stop())
        await sleep(self._random.expovariate(1 / 10))
        await device.start(self._world.nursery)
        del self._busy[device.name]

    async def _partition(self, devices: list[SimDevice]) -> None:
        for device in devices:
            self._world.network.cut(device.name)
        await sleep(self._random.choice((1.0, 10.0, 60.0)) * (0.5 + self._random.random()))
        for device in devices:
            self._world.network.mend(device.name)
            if self._random.random() < 0.3:
                for link in self._world.network.of(device.name):
                    link.reset()

    async def operate(self) -> None:
        """Start the server again whenever it is down."""
        server = self._world.server
        while True:
            await server.wait_down()
            await sleep(self._random.expovariate(1 / 5))
            if server.is_down:
                await server.start(self._world.nursery)
