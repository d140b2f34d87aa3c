"""Members: owners who invite, demote, deny and invite again while everything else goes wrong.

M1 who is denied deletes its copy and says so; who is let in again has everything again. What a role allows at which
seq, and that nothing goes beyond it on any wire, is the auditor's and the wiretap's affair (S11).
"""

from collections.abc import Mapping
from typing import Any

from syncd.core.ids import MEMBERS
from syncd.engine.batch import space_row
from syncd.store import keys
from syncd.store.tables import HOLDERS
from tests.sim.device import SimDevice
from tests.sim.planted import Mutant
from tests.sim.topic import Topic, Work

ROLES = ("none", "none", "reader", "writer", "writer", "owner", "owner")


class MemberWork(Work):
    every_s_mean = 2.0

    def sent(self, node: str, device: bytes, name: str, body: Mapping[str, Any]) -> None:
        if name == "purged":
            self.count("purged")

    async def act(self, device: SimDevice) -> None:
        assert device.client is not None
        name = self.random.choice(self.world.shared_spaces)
        user, role = self.random.choice(self.world.users), self.random.choice(ROLES)
        space = device.client.space(name)
        if space.row.role != "owner" and self.random.random() < 0.9:
            await self._ask_again(device, name)
            return
        found = space.view(MEMBERS, user)
        if found is not None and self.random.random() < 0.15:
            self.world.people[device.name].commit(space, [["delete", MEMBERS, user]])
            return
        make = [] if found is not None else [["create", MEMBERS, user]]
        self.count(f"wants {role}")
        operations = [*make, ["reg.set", MEMBERS, user, "role", role]]
        if self.random.random() < 0.3:
            # What is secret follows at once, in the same batch: nobody who was just denied must hear of it.
            self.world.people[device.name].commit(space, operations)
            operations = [["create", "c", "secret"], ["counter.inc", "c", "secret", "counter", 1]]
        self.world.people[device.name].commit(space, operations)

    async def _ask_again(self, device: SimDevice, name: str) -> None:
        """A person who was turned away tries once more."""
        client = device.client
        if client is None or client.session is None or not client.session.is_shut(name):
            return
        if client.space(name).row.is_subscribed:
            client.space(name).subscribe()
            self.count("asks again")

    def unfinished(self) -> list[str]:
        left = []
        for device in self.world.devices:
            client = device.client
            if client is None or client.session is None:
                continue
            for row in client.spaces():
                if row.is_subscribed and client.session.is_shut(row.name) and self.world.may_read(device, row.name):
                    client.space(row.name).subscribe()
                    left.append(f"{device.name} is let in again to {row.name}")
                # Nobody tells one who does not listen that he may write by now; the next connection tries.
                link = client.session.links.get(row.name)
                if link is not None and link.retry_s == float("inf") and self.world.may_write(device, row.name):
                    client.network_changed()
                    left.append(f"{device.name} may push to {row.name} by now")
                if self._owes_purge(device, row.name) and row.is_subscribed:
                    left.append(f"{device.name} has not confirmed that its copy of {row.name} is gone")
        return left

    def _owes_purge(self, device: SimDevice, space: str) -> bool:
        with self.world.server.store.read() as tx:
            row = space_row(tx, space)
            key = b"" if row is None else keys.holder(row.id, keys.owner(device.user), device.id)
            held = HOLDERS.get(tx, key) if key else None
        return held is not None and held.lost_seq is not None

    def check(self) -> None:
        for name in self.world.shared_spaces:
            audit = self.world.auditor.space(name)
            for _, said in audit.regrants:
                for role in said.values():
                    self.count("roles changed" if role else "denied" if role == 0 else "deleted")


MUTANTS = (
    Mutant(
        "members: the delta goes on behind a change of roles",
        "syncd.engine.batch", "SpaceWork.regranted", "self.deltas.append(self._told())", "pass",
        seeds=((12, "swarm"),),
    ),
    Mutant(
        "members: the denied stay attached",
        "syncd.net.hub", "Hub.publish", "if regrant is not None:", "if False:",
        seeds=((93, "swarm"),),
    ),
    Mutant(
        "members: a token overrides `none`",
        "syncd.engine.members", "role_said", "if said is Role.NONE:", "if False:",
        seeds=((12, "swarm"),),
    ),
    Mutant(
        "members: the last owner can be removed",
        "syncd.engine.members", "check_owner_left", "if left < 1 and", "if False and",
        seeds=((18, "swarm"),),
    ),
    Mutant(
        "members: who has not seen a member's last change may alter it",
        "syncd.engine.members", "check_member", "if last is not None:", "if False:",
        seeds=((18, "swarm"),),
    ),
    Mutant(
        "members: a writer makes owners",
        "syncd.engine.members", "check_member", "if role < Role.OWNER:", "if role < Role.WRITER:",
        seeds=((12, "swarm"),),
    ),
    Mutant(
        "members: a denied device is let in again",
        "syncd.engine.reading", "refused_attach", "if granted < Role.READER:", "if False:",
        seeds=((12, "swarm"),),
    ),
    Mutant(
        "members: the client keeps what it has of a space that it may not read",
        "syncd_client.replica", "take_revoked", "list(drop_synced(tx, message.space))", "[]",
        seeds=((2, "swarm"),),
    ),
)  # fmt: skip

MEMBERSHIP = Topic(
    "members", MemberWork, share=0.3, expected=("purged", "denied", "roles changed", "deleted", "asks again"),
    mutants=MUTANTS,
)  # fmt: skip
