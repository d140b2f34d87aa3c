"""The demo's scene of somebody who loses access while he edits offline: what he sees, and what the others see.

Owns that scene and its judgement. A token still says that he may write; the space's own list denies him, from one
change on. Nobody had to reach his phone for that: it learns of it when it comes back.

Invariants: A1 what he made while he was denied ends as `forbidden`, and is a dead letter that the owner reads. A2 none
of the space is left on his phone but what he wrote himself and was refused. A3 the others see what they wrote, and
nothing of that. A4 the owner's list names his phone as long as it has not confirmed that its copy is gone. What does
not hold is a problem of the verdict.
"""

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

import trio

from syncd.app.demo.stage import ASK_S, DeviceProcess
from syncd.app.demo.story import Story

PLANS: Final = "home/plans"
PARTY: Final = ("plan", "party")
FORBIDDEN: Final = "forbidden"


@dataclass(frozen=True, slots=True)
class Seen:
    """`outcomes`: of what Ben made while he was denied. `kept`: of these, on his phone; `letters`: of these, as dead
    letters that the owner reads. `left`: documents of the space on his phone. `others`: the fields of the plan on the
    devices of the others. `unconfirmed`: the owner's list of devices, before his came back and at the end."""

    outcomes: tuple[str, ...]
    kept: int
    letters: int
    left: int
    others: tuple[dict[str, Any], ...]
    unconfirmed: tuple[tuple[str, ...], tuple[str, ...]]
    device: str


def problems(seen: Seen) -> list[str]:
    """What of A1 to A4 does not hold."""
    found = []
    if set(seen.outcomes) != {FORBIDDEN}:
        found.append(f"access: what was made after the denial ended as {', '.join(seen.outcomes)}")
    if seen.letters != len(seen.outcomes) or seen.kept != len(seen.outcomes):
        found.append(
            f"access: of {len(seen.outcomes)} refused changes {seen.letters} are dead letters, and {seen.kept} are kept"
            " on the phone that made them"
        )
    if seen.left:
        found.append(f"access: a phone without access still shows {seen.left} documents")
    if any(plan != {"place": "the lake", "for": "Ben"} for plan in seen.others):
        found.append(f"access: the others see {list(seen.others)}")
    if seen.unconfirmed != ((seen.device,), ()):
        found.append(f"access: the owner was told of {seen.unconfirmed} as devices that have not confirmed")
    return found


async def access(story: Story, token: str) -> None:
    """Ann plans a party with Ben, and then for him. `token`: Ann's, with which she reads the space's list."""
    story.scene("Somebody loses access while he edits offline")
    ann, ben = story.devices["Ann's phone"], story.devices["Ben's phone"]
    others = [story.devices[name] for name in ("Ann's phone", "kitchen tablet") if story.on_stage(name)]
    for device in (*others, ben):
        await device.ask("subscribe", space=PLANS)
    for device in others:
        device.spaces = (*device.spaces, PLANS)  # they are compared at the end
    made = await ann.commit(PLANS, ["create", *PARTY], ["reg.set", *PARTY, "place", "the lake"])
    seq = (await ann.outcome(PLANS, made))["seq"]
    await ben.ask("wait", space=PLANS, **{"for": {"complete": seq}})
    await ben.ask("offline")
    mine = [
        await ben.commit(PLANS, ["reg.set", *PARTY, "place", "my garden"]),
        await ben.commit(PLANS, ["create", "plan", "cake"], ["reg.set", "plan", "cake", "kind", "plum"]),
    ]
    story.tell("Ben's phone is offline, and he edits the plans for a party: its place, and a cake")
    before = await _denied(story, ann, token)
    await ben.ask("online")
    outcomes = [await ben.outcome(PLANS, n) for n in mine]
    story.tell(f"Ben's phone is back, and offers both: {', '.join(each['outcome'] for each in outcomes)}")
    after = await _confirmed(story, token)
    left = (await ben.ask("list", space=PLANS, collection="plan"))["documents"]
    kept = (await ben.ask("refused", space=PLANS))["refused"]
    story.tell(
        f"it was told to delete its copy, and confirmed it: {len(left)} documents are left; what he wrote himself"
        f" is kept for him ({len(kept)} changes)"
    )
    letters = (await _asked(story, token, "letters"))["letters"]
    for letter in letters:
        story.tell(f"dead letter {letter['letter']}, for the owner to look at: by {letter['user']}, {letter['reason']}")
    shown = [await device.document(PLANS, *PARTY) for device in others]
    story.tell(f"Ann sees: {_told(shown[0])}")
    cake = [await device.document(PLANS, "plan", "cake") for device in others]
    plans = [each["fields"] for each in (*shown, *cake) if each is not None]
    story.problems += problems(
        Seen(
            tuple(each["outcome"] for each in outcomes), len(kept), len(letters), len(left), tuple(plans),
            (before, after), ben.device,
        )
    )  # fmt: skip


async def _denied(story: Story, ann: DeviceProcess, token: str) -> tuple[str, ...]:
    """Ann denies Ben, and writes on. The devices that have not confirmed since."""
    denial = [["create", "_members", "ben"], ["reg.set", "_members", "ben", "role", "none"]]
    await ann.outcome(PLANS, await ann.commit(PLANS, *denial))
    await ann.outcome(PLANS, await ann.commit(PLANS, ["reg.set", *PARTY, "for", "Ben"]))
    unconfirmed = await _unconfirmed(story, token)
    story.tell(
        "meanwhile it is to be a surprise: Ann gives Ben the role none, and writes for whom the party is;"
        f" the list of devices that have not deleted their copy has {len(unconfirmed)}"
    )
    return unconfirmed


async def _confirmed(story: Story, token: str) -> tuple[str, ...]:
    """The devices that have not confirmed, once there are none, or when it has taken too long."""
    unconfirmed = await _unconfirmed(story, token)
    with trio.move_on_after(ASK_S):
        while unconfirmed:
            await trio.sleep(0.05)
            unconfirmed = await _unconfirmed(story, token)
    return unconfirmed


async def _unconfirmed(story: Story, token: str) -> tuple[str, ...]:
    return tuple(each["device"] for each in (await _asked(story, token, "members"))["unpurged"])


async def _asked(story: Story, token: str, what: str) -> Any:
    return await story.daemon.request("GET", f"/v1/spaces/{quote(PLANS, safe='')}/{what}", token)


def _told(shown: dict[str, Any] | None) -> str:
    fields = {} if shown is None else shown["fields"]
    return ", ".join(f"{name} {value}" for name, value in fields.items())
