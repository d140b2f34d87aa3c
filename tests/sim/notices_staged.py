"""What chance seldom brings about in notifications, staged in a share of their runs.

Owns three situations. Somebody turns what is critical off by its name, which alone stops it, and it is posted again and
again. Something waits for a cap nearly as long as it is of use, so that it is of none when a server that was down, or
slow, comes to it. And somebody fills more baskets than may be shown, and pays while the last one waits: it is
cancelled. Must not draw from the stream of `notices.py`: a run in which nothing is staged stays what it was.
"""

import tomllib
from random import Random
from typing import TYPE_CHECKING, Any

from tests.sim.determinism import sleep

if TYPE_CHECKING:
    from tests.sim.notices import NoticesWork

SHARE = 0.2  # of the runs with notifications
ROUNDS_MAX = 4  # of one run: the operator's cap counts what is shown, and each costs the oracle some fields
SWITCHES = ("off", "off", "off", "instant")
PAID_SHARE = 0.4  # of the runs with notifications
PAID_ROUNDS_MAX = 3
SHOWN_S, WAITING_S = 6.0, 18.0  # from when on two baskets are shown, and until when the third waits for the cap
BRIEF = tomllib.loads("""
[category.brief]
priority = "high"
caps = ["1 / 10s"]
expires = "11s"
[workflow.brief]
category = "brief"
trigger = { event = "brief" }
[[workflow.brief.step]]
send = { templates = ["t"] }
""")


class Staged:
    """The situations in one run. `is_on`: whether it has any."""

    def __init__(self, seed: int, profile: str) -> None:
        self.random = Random(f"{profile}/{seed}/notices/staged")
        self.is_on = self.random.random() < SHARE
        self._posted = 0

    def define(self, values: dict[str, Any]) -> None:
        """Add what they need to the definitions."""
        if self.is_on:
            for table, entries in BRIEF.items():
                values[table].update(entries)

    async def run(self, work: "NoticesWork") -> None:
        random, user = self.random, work.world.users[0]
        every_s = work.world.plan.safety_s / (ROUNDS_MAX + 1)
        for _ in range(ROUNDS_MAX):
            await sleep(every_s * random.random())
            used = [each for each in work.world.devices if each.user == user and each.client is not None]
            if used:
                work.choose(random.choice(used), "_preferences", "category:alarm", "frequency", random.choice(SWITCHES))
            await work.post([self._event("brief", user), self._event("brief", user)])
            await sleep(every_s * random.random())
            await work.post([self._event("alarm", user)])

    def _event(self, type: str, user: str) -> dict[str, Any]:
        self._posted += 1
        return event("staged", self._posted, type, user, {"title": f"S{self._posted}"})


class Paid:
    """Baskets, and that they are paid, in one run."""

    def __init__(self, seed: int, profile: str) -> None:
        # A name of the stream with which the seeds of most planted bugs stay what they were.
        self.random = Random(f"{profile}/{seed}/notices/baskets 9")
        self.is_on = self.random.random() < PAID_SHARE
        self._posted = 0

    async def run(self, work: "NoticesWork") -> None:
        random = self.random
        every_s = work.world.plan.safety_s / PAID_ROUNDS_MAX
        for _ in range(PAID_ROUNDS_MAX):
            await sleep(max(0.0, every_s - WAITING_S) * random.random())
            user = random.choice(work.world.users)
            await work.post([self._event("basket", user, key) for key in ("p", "q", "r")])
            await sleep(random.uniform(SHOWN_S, WAITING_S))
            await work.post([self._event("paid", user, "")])

    def _event(self, type: str, user: str, key: str) -> dict[str, Any]:
        self._posted += 1
        return event("paid", self._posted, type, user, {"title": f"P{self._posted}", "key": key, "count": 1})


def event(of: str, number: int, type: str, user: str, data: dict[str, Any]) -> dict[str, Any]:
    return {
        "specversion": "1.0", "id": f"{of}-{number}", "source": "/notices", "type": type, "subject": user, "data": data,
    }  # fmt: skip
