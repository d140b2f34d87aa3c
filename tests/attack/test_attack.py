"""Every attack of the table in memory: the documented answer, counted, nothing logged, nothing kept, nobody hurt."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from syncd.app.metrics import Facts, Metrics
from syncd.env.memory import MemoryTransport
from tests.app.test_metrics import samples
from tests.attack.stage import ATTACKER, BYSTANDER, Attack
from tests.attack.table import ATTACKS
from tests.net.harness import World, world

FACTS = Facts(*[0] * 11, True)


class InMemory:
    """A `Target`."""

    has_api = False

    def __init__(self, world: World) -> None:
        self._world, self._port = world, 0

    async def connect(self, host: str = ATTACKER, buffer_bytes: int = 65536) -> MemoryTransport:
        self._port += 1
        return self._world.connect(f"{host}:{self._port}", buffer_bytes)

    def token(self, user: str) -> str:
        return self._world.token(user)


def counted(w: World, attack: Attack) -> float:
    _, body = Metrics(w.hub.counters, lambda: FACTS).text()
    return samples(body).get(attack.counted, 0.0)


@pytest.mark.parametrize("attack", [attack for attack in ATTACKS if not attack.needs_api], ids=lambda a: a.name)
async def test_attack(attack: Attack, autojump_clock: MockClock) -> None:
    async with world() as w:
        bystander = await w.client(1, user="bystander")
        await bystander.subscribe("home/quiet")
        before = counted(w, attack)
        done = trio.Event()
        async with trio.open_nursery() as nursery:

            async def go_on() -> None:
                """As a well-behaved device does, while the attack goes on."""
                while not done.is_set():
                    began_s = trio.current_time()
                    await bystander.push(bystander.change(["create", "c", str(bystander.n)]), space="home/quiet")
                    while (await bystander.receive()).name != "outcomes":
                        pass
                    assert trio.current_time() - began_s < 1
                    await trio.sleep(1)

            nursery.start_soon(go_on)
            assert await attack.run(InMemory(w)) == attack.answer
            done.set()
        assert counted(w, attack) > before, f"counted as {attack.counted}"
        assert w.logs == [] or attack.name == "a reader that never reads", w.logs
        await trio.sleep(60)  # closing handshakes that nobody answers are given up
        await wait_all_tasks_blocked()
        assert w.server.connection_count == 1 and len(w.hub.members) == 1, "only the bystander is left"
        assert w.server._http.bodies_bytes == 0 and w.hub.room_count == 1
        assert w.listener.connect(f"{BYSTANDER}:9")
