"""The demo's scene of notifications: when to tell somebody, and whether at all.

Owns that scene and its judgement. Three people, three reasons not to send at once: one is nudged at the hour at which
she is usually there, one has turned such things off, and one has seen on another device what she would have been
reminded of. Each is decided by the daemon, from what was posted and what devices wrote; nothing is waited for, since a
decision says what it waits for, and is in the store. What it says is looked at again after the daemon was killed.

Invariants: M1 the nudge waits for the moment that weighs most of those that were weighed, or for another of these if
it was drawn to learn about it; the one that weighs most lies where the posted sessions are. M2 what a person turned off
is not sent, and that is the reason. M3 a reminder ends when what it reminds of was seen, and was never in an inbox.
M4 what waits is unharmed by a crash. What does not hold is a problem of the verdict.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import trio

from syncd.app.demo.stage import ASK_S
from syncd.app.demo.story import Story
from syncd.env.real import SystemClock

DEFINITIONS: Final = """
[category.training]
half_life = "2d"

[category.pickup]
caps = ["1 / 4h"]

[template.nudge]
title = "Ten minutes today?"
[template.goal]
title = "You have run {km} km this month"
[template.ready]
title = "Order {order} is ready"
[template.waiting]
title = "Order {order} still waits for you"

[workflow.nudge]
category = "training"
trigger = { inactivity = { p_return_below = 0.5, fallback = "3d" } }
cancel_on = ["session.start"]
window = { within = "1d", at = "best" }
[[workflow.nudge.step]]
send = { templates = ["nudge"] }

[workflow.goal]
category = "training"
trigger = { event = "goal.reached" }
[[workflow.goal.step]]
send = { templates = ["goal"] }

[workflow.pickup]
category = "pickup"
trigger = { event = "order.ready" }
cancel_on = ["seen"]
[[workflow.pickup.step]]
send = { templates = ["ready"] }
[[workflow.pickup.step]]
send = { templates = ["waiting"] }
"""
SCOPES: Final = ("events:write", "notifications:read", "changes:write:user/*")
ZONE: Final = ZoneInfo("Europe/Berlin")  # Emma's; the daemon's own is UTC
HABITS: Final = (19, 8)  # full hours of Emma's clock around which she trains: in the evening, or in the morning
AHEAD_H: Final = 4  # the hour for which a nudge waits is not the present one
DAYS: Final = 21  # on each of which she came,
AWAY_DAYS: Final = 10  # until so many days ago
READY, WAITING = "Order 17 is ready", "Order 17 still waits for you"


def habit_of(now: datetime) -> int:
    """The hour around which Emma usually comes, as of a local time: one that the present is not close to."""
    evening, morning = HABITS
    return evening if morning - AHEAD_H < now.hour <= evening - 1 - AHEAD_H else morning


def sessions(now: datetime, habit: int) -> list[dict[str, Any]]:
    """Emma's sessions as her application's backend has them, each with its time: within 20 minutes of the full hour."""
    events = []
    for day in range(DAYS):
        midnight = (now - timedelta(days=AWAY_DAYS + day)).replace(hour=0, minute=0, second=0, microsecond=0)
        minute = 60 * habit + (20 if day % 2 else -20)
        at = midnight.replace(hour=minute // 60, minute=minute % 60).astimezone(UTC)
        events.append(_event("session.start", "emma", f"session-{day}", at=at))
    return events


def expected_ms(now: datetime, habit: int) -> int:
    """The full hour with which the two hours that hold all of these sessions begin, next time."""
    at = now.replace(hour=habit - 1, minute=0, second=0, microsecond=0)
    if at <= now:
        at += timedelta(days=1)
    return round(at.timestamp() * 1000)


def nudge_problems(nudge: Mapping[str, Any], best_ms: int) -> list[str]:
    """What of M1 does not hold. `nudge`: a decision as the API tells it."""
    weighed = [score["at_ms"] for score in nudge["scores"]]
    if nudge["outcome"] != "deferred" or nudge["reason"] != "timing" or nudge["choice"] is None:
        return [f"notices: a nudge that was to wait for its hour is {nudge['outcome']} by {nudge['reason']}"]
    found = []
    if weighed[0] != best_ms:
        found.append(f"notices: the best moment for the nudge is {_iso(weighed[0])}, and was to be {_iso(best_ms)}")
    is_learning = nudge["choice"]["explored"]
    if nudge["until_ms"] not in (weighed if is_learning else weighed[:1]):
        found.append(f"notices: the nudge waits for {_iso(nudge['until_ms'])}, which is not the best moment")
    return found


def stopped_problems(off: Mapping[str, Any], reminder: Mapping[str, Any], titles: Sequence[str]) -> list[str]:
    """What of M2 and M3 does not hold. `titles`: what Ann's inbox shows at the end."""
    found = []
    if (off["outcome"], off["reason"]) != ("suppressed", "preference"):
        found.append(f"notices: what Ben had turned off is {off['outcome']} by {off['reason']}")
    if (reminder["outcome"], reminder["by"]) != ("cancelled", "seen") or not reminder["past"]:
        found.append(f"notices: a reminder of what was seen is {reminder['outcome']} by {reminder['by']}")
    if READY not in titles or WAITING in titles:
        found.append(f"notices: Ann's inbox has {', '.join(titles)}")
    return found


class Notices:
    """The scene, and what is looked at again later."""

    def __init__(self, story: Story) -> None:
        self._story = story
        self._secret = ""
        self._nudge: Mapping[str, Any] = {}

    async def play(self) -> None:
        """Emma is nudged at her hour, Ben not at all, and Ann no more."""
        story = self._story
        story.scene("When to tell somebody, and whether at all")
        self._secret = await story.daemon.api_key("coach", *SCOPES)
        await self._nudged()
        off = await self._turned_off()
        reminder, titles = await self._seen_elsewhere()
        story.problems += stopped_problems(off, reminder, titles)

    async def after_crash(self) -> None:
        """M4: the nudge waits on, for the same moment."""
        nudge = await self._story.daemon.request("GET", f"/v1/decisions/{self._nudge['id']}", self._secret)
        until_ms = self._nudge["until_ms"]
        if (nudge["outcome"], nudge["until_ms"]) != ("deferred", until_ms):
            self._story.problems.append(f"notices: the nudge was to wait for {_iso(until_ms)}, and is {nudge}")
            return
        self._story.tell(f"Emma's nudge outlived the crash: it waits for {_local(until_ms)} on her clock")

    async def _nudged(self) -> None:
        story, now = self._story, datetime.fromtimestamp(SystemClock().now_ms() / 1000, ZONE)
        habit = habit_of(now)
        chosen = {"profile": {"zone": str(ZONE)}}
        await story.daemon.request("PUT", "/v1/users/emma/preferences", self._secret, chosen)
        await self._post(sessions(now, habit))
        story.tell(
            f"a coach's backend posts Emma's sessions: for {DAYS} days around {habit}:00, none for {AWAY_DAYS} days"
        )
        nudge = self._nudge = await self._decision("emma", lambda each: each["workflow"] == "nudge")
        story.problems += nudge_problems(nudge, expected_ms(now, habit))
        story.tell("by that habit she is not likely to come back by herself, so she is to be nudged; but not just now:")
        said = await story.daemon.command("explain", "decision", nudge["id"])
        story.quote(f"syncd explain decision {nudge['id']}", said.splitlines()[:2])
        for score in nudge["scores"][:3]:
            mark = "  <- it waits for this" if score["at_ms"] == nudge["until_ms"] else ""
            story.tell(f"weighed: {_local(score['at_ms'])}, worth {score['score']:.3f}{mark}")
        if nudge["choice"] is not None and nudge["choice"]["explored"]:
            story.tell("(one time in twenty it is not the best moment that is chosen, to learn about the others)")

    async def _turned_off(self) -> Mapping[str, Any]:
        story, ben = self._story, self._story.devices["Ben's phone"]
        name = ("_preferences", "category:training")
        n = await ben.commit("user/ben", ["create", *name], ["reg.set", *name, "frequency", "off"])
        await ben.outcome("user/ben", n)
        await self._post([_event("goal.reached", "ben", "goal-1", {"km": 100})])
        off = await self._decision("ben", lambda each: each["workflow"] == "goal")
        story.tell(f"Ben turned training off on his phone, and reaches a goal: {off['outcome']}. {off['explanation']}")
        return off

    async def _seen_elsewhere(self) -> tuple[Mapping[str, Any], list[str]]:
        story, phone = self._story, self._story.devices["Ann's phone"]
        watch = story.devices.get("Ann's watch", phone)
        await self._post([_event("order.ready", "ann", "ready-17", {"order": 17})])
        shown = await story.shown(phone, READY)
        reminder = await self._decision("ann", lambda each: each["outcome"] == "deferred")
        story.tell(f"Ann's phone shows: {shown['fields']['title']}. A reminder of it waits: {reminder['explanation']}")
        await story.shown(watch, READY)
        await watch.commit("user/ann", ["flag.enable", "_inbox", shown["id"], "seen"])
        is_decided = lambda each: each["id"] == reminder["id"] and each["outcome"] != "deferred"  # noqa: E731
        reminder = await self._decision("ann", is_decided)
        story.tell(f"she looks at it on {watch.name}: the reminder is {reminder['outcome']}. {reminder['explanation']}")
        await story.shown(phone, READY, "seen")
        titles = [str(each["fields"]["title"]) for each in await story.inbox(phone)]
        return reminder, titles

    async def _post(self, events: list[dict[str, Any]]) -> None:
        kind = "application/cloudevents-batch+json"
        answer = await self._story.daemon.request("POST", "/v1/events", self._secret, events, kind)
        taken = [result["status"] for result in answer["results"]]
        if set(taken) != {"accepted"}:
            self._story.problems.append(f"notices: of {len(events)} events, these became of them: {taken}")

    async def _decision(self, user: str, is_meant: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        """The newest decision about a user of the kind that is meant, once there is one."""
        path = f"/v1/users/{user}/decisions?limit=20"
        with trio.fail_after(ASK_S):
            while True:
                answer = await self._story.daemon.request("GET", path, self._secret)
                found: list[Mapping[str, Any]] = answer["decisions"]
                for each in found:
                    if is_meant(each):
                        return each
                await trio.sleep(0.05)


def _event(
    kind: str, user: str, event_id: str, data: dict[str, Any] | None = None, at: datetime | None = None
) -> dict[str, Any]:
    event = {"specversion": "1.0", "type": kind, "source": "/coach", "id": event_id, "subject": user}
    return event | ({} if data is None else {"data": data}) | ({} if at is None else {"time": at.isoformat()})


def _local(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, ZONE):%a %H:%M}"


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
