"""A comparison: what a connection keeps of one subscription that reconciles.

Owns which step comes next: compare the bucket sums, then answer one question after the other. Must not know how bytes
reach the socket or when a step is taken (`delivery`), nor how documents are compared (`engine/repair`).

Invariants: R1 what is kept is one position and what the device said last: its sums (8 KiB), or one question, which one
frame held. R2 the position is that of the first answer; whatever is told after it was read there or later.
"""

from dataclasses import dataclass

from syncd.engine.repair import Question, compared, refused_question, repaired
from syncd.store.api import Reader
from syncd.wire.errors import MALFORMED, ProtocolError
from syncd.wire.messages import Differ, Repair, Sums


def asked(message: Sums) -> Question | None:
    """The question in a message; None if it has bucket sums. Raises `ProtocolError`."""
    if (message.buckets is None) == (message.of is None):
        raise ProtocolError(MALFORMED, "'sums' has either 'buckets' or 'of'")
    if message.of is None:
        return None
    documents = message.documents or b""
    if (wrong := refused_question(message.of, documents)) is not None:
        raise ProtocolError(MALFORMED, f"'sums': {wrong}")
    return Question(message.of, documents, message.last)


@dataclass(slots=True)
class Comparison:
    """`sums`: bucket sums that are not compared yet. `at`: where the device is going to stand, once it was told.
    `question`: what it holds of some buckets, or what of it is not answered yet."""

    sums: bytes | None
    at: int = 0
    question: Question | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether something of the device's is held here, and a step is due."""
        return self.sums is not None or self.question is not None

    def step(self, tx: Reader, space: str) -> tuple[Differ | Repair | None, bool]:
        """What to tell the device, if anything, and whether it has been told everything: it stands at `at` then."""
        if self.sums is not None:
            differ = compared(tx, space, self.sums)
            self.sums, self.at = None, differ.at
            return differ, not differ.buckets
        if self.question is None:
            return None, False
        repair, self.question = repaired(tx, space, self.question, self.at)
        return (repair if repair.docs or repair.gone or repair.done else None), repair.last
