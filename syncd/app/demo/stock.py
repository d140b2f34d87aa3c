"""The demo's scene of the last one in stock: two phones without a network want it, and one of them is sure of it.

Owns that scene and its judgement. One phone leases the unit while it has a network, as any shop that sells offline
would; the other comes too late for a lease. What it proves: a sale that was called certain offline is applied, and who
could not be certain was told so before he had sold anything, and hears by an outcome what became of his try.

Invariants: K1 exactly one certain sale. K2 what was sold and applied is exactly what was in stock. K3 who had no lease
is refused on the spot, and nothing is stored of it; an uncertain try is refused by an outcome, with its reason.
What does not hold is a problem of the verdict.
"""

from typing import Any, Final

from syncd.app.demo.stage import DeviceProcess, StageError
from syncd.app.demo.story import Story

SHOP: Final = "home/shop"
CHAIR: Final = ("stock", "chair", "left")
NO_SALE: Final = "precondition"
SOLD_OUT: Final = {"available": 0, "leased": 0, "taken": 1, "total": 1}


def problems(certain: int, sale: str, late_lease: str, try_: str, amounts: dict[str, Any]) -> list[str]:
    """What of K1 to K3 does not hold. `sale`, `late_lease`, `try_`: outcomes; `amounts`: of the stock, by account."""
    found = []
    if certain != 1:
        found.append(f"stock: one chair was there, and {certain} phones were certain of having sold it")
    if sale != "applied":
        found.append(f"stock: a sale that was certain ended as {sale}")
    if late_lease != NO_SALE or try_ != NO_SALE:
        found.append(f"stock: with no chair left, a lease ended as {late_lease} and an uncertain sale as {try_}")
    if amounts != SOLD_OUT:
        found.append(f"stock: one chair was there and one was sold, but the stock has {amounts}")
    return found


async def stock(story: Story) -> None:
    """Ann's phone leases the last chair; both phones go offline and sell it; both come back."""
    story.scene("The last one in stock, and two phones without a network")
    ann, ben = story.devices["Ann's phone"], story.devices["Ben's phone"]
    for phone in (ann, ben):
        await phone.ask("subscribe", space=SHOP)
        phone.spaces = (*phone.spaces, SHOP)  # it is compared with the others at the end
    filled = await ann.commit(SHOP, ["create", *CHAIR[:2]], ["bounded.restock", *CHAIR, 1])
    seq = (await ann.outcome(SHOP, filled))["seq"]
    await ben.ask("wait", space=SHOP, **{"for": {"complete": seq}})
    await _lease(story, ann)
    late = await _lease(story, ben)
    for phone in (ann, ben):
        await phone.ask("offline")
    story.tell("both phones go offline, and each has a customer who wants the chair")
    sales = {phone.name: await _sold(story, phone) for phone in (ann, ben)}
    tried = await ben.commit(SHOP, ["bounded.take", *CHAIR, 1, None])
    story.tell("Ben's phone notes the sale as one that is not certain, and says so to the customer")
    for phone in (ben, ann):  # who is not certain comes first, and still gets nothing
        await phone.ask("online")
        await phone.ask("wait", **{"for": "settled"})
    sale = sales[ann.name]
    ann_outcome = "none" if sale is None else (await ann.outcome(SHOP, sale))["outcome"]
    try_ = await ben.outcome(SHOP, tried)
    story.tell(f"back online, Ben's first: {_told(try_)}; Ann's sale: {ann_outcome}")
    certain = sum(n is not None for n in sales.values())
    story.problems += problems(certain, ann_outcome, late["outcome"], try_["outcome"], await _amounts(story, ben))


async def _lease(story: Story, phone: DeviceProcess) -> dict[str, Any]:
    answer = await phone.ask(
        "lease", space=SHOP, collection=CHAIR[0], id=CHAIR[1], field=CHAIR[2], units=1, ttl_ms=None
    )
    outcome = await phone.outcome(SHOP, answer["n"])
    story.tell(f"{phone.name} asks for a lease of the last chair: {_told(outcome)}")
    return outcome


async def _sold(story: Story, phone: DeviceProcess) -> int | None:
    """The n of a sale that the phone is certain of, or None where it said at once that it cannot be."""
    try:
        answer = await phone.ask("take", space=SHOP, collection=CHAIR[0], id=CHAIR[1], field=CHAIR[2], units=1)
    except StageError as error:
        story.tell(f"refused on the spot, with no network: {error}")
        return None
    story.tell(f"{phone.name} sells the chair, and is certain of it")
    return int(answer["n"])


async def _amounts(story: Story, phone: DeviceProcess) -> dict[str, Any]:
    """The stock's accounts, once all of the space has reached the phone; empty if it shows none."""
    heads = [
        row["complete"]
        for device in story.devices.values()
        if SHOP in device.spaces
        for row in (await device.ask("status"))["spaces"]
        if row["space"] == SHOP
    ]
    await phone.ask("wait", space=SHOP, **{"for": {"complete": max(heads)}})
    shown = await phone.document(SHOP, *CHAIR[:2])
    amounts: dict[str, Any] = {} if shown is None else shown["fields"].get(CHAIR[2], {})
    story.tell(f"the stock as Ben's phone shows it: {', '.join(f'{name} {n}' for name, n in amounts.items())}")
    return amounts


def _told(outcome: dict[str, Any]) -> str:
    reason = (outcome["detail"] or {}).get("reason")
    return f"{outcome['outcome']} ({reason})" if reason else str(outcome["outcome"])
