"""Quotas: how much of the store one user or API key may fill with names that it invents.

Owns these limits and the rows that count what each has. Changes need no quota here: they are paced at the edge, and
documents, logs and dead letters have bounds of their own. But a device id, a space and an idempotency key each make
rows of their own for whoever thinks of a new one, and an id costs nothing to think of. Must not know tokens or HTTP.

The counts stand in the store, so no restart forgives them. A space counts to whom its first write came from, and stays;
so does a device, whose place is free again when it is retired, but only so often; an idempotency key goes after its
lifetime, and its count with it. The server has no quota: what it makes by time is for people whom others have named.
"""

from dataclasses import dataclass

from syncd.engine.commands import Author
from syncd.store.tables import HoldingsRow

KEY_PREFIX = "key:"  # of the name under which an API key acts


@dataclass(frozen=True, slots=True)
class Quotas:
    """Each with what it costs the store, about."""

    devices_per_user_max: int = 1_000  # 150 bytes, and as much in each space; each installation of an app makes one
    # Their rows stay, and who loses a right to read is looked up in all of them. One a day for eight years.
    retired_devices_per_user_max: int = 3_000
    spaces_per_user_max: int = 10_000  # 500 bytes; who has more is a backend, and has a key
    spaces_per_key_max: int = 1_000_000  # an inbox for each user of a big app
    idempotency_keys_per_user_max: int = 10_000  # 150 bytes, for 24 hours; one every nine seconds
    idempotency_keys_per_key_max: int = 10_000_000  # 1.5 GB; 115 changes a second for a day, 16 events for a week

    def takes_device(self, held: HoldingsRow) -> bool:
        """Whether who has so much may add a device."""
        all_max = self.devices_per_user_max + self.retired_devices_per_user_max
        return held.devices < self.devices_per_user_max and held.devices + held.retired < all_max

    def spaces_max(self, author: Author) -> int:
        return self.spaces_per_key_max if is_key(author) else self.spaces_per_user_max

    def idempotency_keys_max(self, author: Author) -> int:
        return self.idempotency_keys_per_key_max if is_key(author) else self.idempotency_keys_per_user_max


def is_key(author: Author) -> bool:
    """Whether an API key asks. A user's token over HTTP acts as a device without memory, and counts as its user."""
    return author.kind == "key" and author.user.startswith(KEY_PREFIX)


def nothing(user: str) -> HoldingsRow:
    return HoldingsRow(user, 0, 0, 0)
