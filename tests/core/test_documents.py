"""Lives of documents: what creates, deletes and late updates come to (histories at random are in tests/oracle)."""

from typing import Any

import pytest

from syncd.core.changes import Change, parsed_change
from syncd.core.documents import Applied, Document, Draft, has_unseen
from syncd.core.fields import Observer, OperationRefused


class Space:
    """One document; each change gets the next seq."""

    def __init__(self, *, update_wins: bool = False) -> None:
        self.head = 0
        self.document: Document | None = None
        self.update_wins = update_wins

    def __call__(
        self, *verbs: Any, slot: int = 1, base: int | None = None, memory: bool = True, floor: int = 0
    ) -> Applied:
        """One change of several operations; `base` None: has seen everything."""
        operations = [[verb, "c", "i"] if isinstance(verb, str) else [verb[0], "c", "i", *verb[1:]] for verb in verbs]
        change = parsed_change([1, bytes(8), 0, 0, operations])
        assert isinstance(change, Change)
        by = Observer(self.head if base is None else base, slot, memory, self.head + 1, 0, 1_000)
        draft, step = Draft(self.document, by, self.update_wins), None
        for operation in change.operations:
            step = draft.apply(operation, 1, floor)
        assert step is not None
        self.head += 1
        self.document = draft.document()
        return step

    def refused(self, *verbs: Any, **who: Any) -> str:
        before = self.document
        with pytest.raises(OperationRefused) as refused:
            self(*verbs, **who)
        assert self.document is before
        return refused.value.outcome


def put(value: int, name: str = "f") -> tuple[str, str, int]:
    return ("reg.set", name, value)


def test_an_update_never_makes_a_document() -> None:
    assert Space().refused(put(1)) == "gone"


def test_an_update_never_resurrects() -> None:
    space = Space()
    space("create", put(1))
    space("delete")
    assert space.refused(put(2), slot=2, base=1) == "gone"
    assert space.refused(put(2)) == "gone"


def test_an_update_of_one_life_does_not_touch_the_next() -> None:
    space = Space()
    space("create")
    space("delete")
    space("create")
    assert space.refused(put(1), slot=2, base=1) == "gone"
    assert space.document is not None and space.document.born == 3


def test_creating_twice_without_knowing_merges_both() -> None:
    space = Space()
    space("create", put(1, "f"))
    assert space("create", put(2, "g"), slot=2, base=0).verdict == "applied"
    assert space.document is not None and space.document.makers == ((1, 1), (2, 2))
    assert space.document.visible() == {"f": ["reg", 1], "g": ["reg", 2]} and space.document.born == 1


def test_either_maker_may_update_and_only_who_knows_both_may_delete() -> None:
    space = Space()
    space("create")
    space("create", slot=2, base=0)
    assert space(put(1), slot=2, base=0).verdict == "applied"
    for slot in (1, 2):
        assert space("delete", slot=slot, base=0).verdict == "noop"
    assert space("delete", slot=3, base=1).verdict == "noop"
    assert space("delete", slot=3, base=3).verdict == "applied"


def test_a_delete_that_ends_unseen_work_hands_it_back() -> None:
    space = Space()
    space("create")
    space(put(7), slot=2)
    step = space("delete", slot=1, base=1)
    assert step.verdict == "merged" and step.met == (("ended", 2),) and step.lost == (("document", {"f": ["reg", 7]}),)


def test_own_later_work_does_not_hide_the_unseen_work_of_another() -> None:
    space = Space()
    space("create")
    space(put(1), slot=2)
    space(put(2, "g"), slot=1, base=1)
    assert space("delete", slot=1, base=1).verdict == "merged"


def test_an_api_key_does_not_hide_its_own_unseen_work() -> None:
    """Another operation of the same change must not stand before the earlier change that its author does not know."""
    space = Space()
    space("create")
    space(put(1), slot=5, memory=False)
    step = space(put(2, "g"), "delete", slot=5, memory=False, base=1)
    assert step.verdict == "merged" and step.met == (("ended", 2),)


def test_a_late_delete_of_what_has_changed_is_refused() -> None:
    space = Space()
    space("create")
    space(put(1), slot=2)
    assert space.refused("delete", base=1, floor=2) == "precondition"
    assert space("delete", base=2, floor=2).verdict == "applied", "nothing has changed since it was read"


def test_who_knew_a_document_but_not_its_deletion_does_not_bring_it_back() -> None:
    space = Space()
    space("create", put(1))
    space("delete")
    assert space.refused("create", put(2), slot=2, base=1) == "gone"
    assert space("create", put(2), slot=3, base=0).verdict == "applied", "one who never knew it makes a new one"


def test_a_second_delete_counts_as_knowing_that_it_is_gone() -> None:
    space = Space()
    space("create")
    space("delete", slot=1)
    assert space("delete", slot=2, base=1).verdict == "noop"
    assert space("create", slot=2, base=1).verdict == "applied"


def test_deleting_again_and_again_does_not_lengthen_a_tombstone() -> None:
    space = Space()
    space("create")
    for round_ in range(20):
        space("delete", slot=1 + round_ % 2)
    assert space.document is not None and len(space.document.deletes) == 2 and space.document.rev == 2
    assert not space.document.fields and not space.document.writers


def test_a_change_sees_its_own_earlier_operations() -> None:
    space = Space()
    for memory in (True, False):
        space("create", put(1), put(2), ("expect", "f"), "delete", "create", put(3), memory=memory, slot=1 + memory)
        assert space.document is not None and space.document.visible() == {"f": ["reg", 3]}
        space("delete")


@pytest.mark.parametrize(("base", "passes"), [(1, False), (2, True)])
def test_expect_passes_iff_the_last_writer_was_seen(base: int, passes: bool) -> None:
    space = Space()
    space("create")
    space(put(1), slot=2)
    if passes:
        space(("expect", "f"), put(2), slot=3, base=base)
    else:
        assert space.refused(("expect", "f"), put(2), slot=3, base=base) == "precondition"
    space(("expect", "other"), slot=3, base=1)


def test_expect_takes_an_unseen_deletion_for_a_write() -> None:
    space = Space()
    space("create")
    space("delete")
    assert space.refused(("expect", "f"), slot=3, base=1) == "precondition"
    space(("expect", "f"), slot=3, base=2)


def test_what_alters_nothing_visible_moves_no_rev() -> None:
    space = Space()
    space("create", put(1))
    for nothing in (put(1), "create", ("reg.unset", "never"), ("expect", "f")):
        assert space(nothing).verdict == "noop"
    assert space.document is not None and space.document.rev == 1
    assert space.document.fields["never"].rev == 0


def test_the_latest_writers_tell_of_all() -> None:
    space = Space()
    space("create", slot=1)
    for slot in (2, 3, 2, 2):
        space(put(slot), slot=slot)
    document = space.document
    assert document is not None and document.writers == ((5, 2), (3, 3), (1, 1))
    assert has_unseen(document, Observer(2, 2, True, 6, 0, 0)), "its own work is the last, but 3 is unseen"
    assert not has_unseen(document, Observer(3, 2, True, 6, 0, 0))
    assert not has_unseen(document, Observer(5, 9, True, 6, 0, 0))


# -- where updates win ------------------------------------------------------------------------------------------------


def test_where_updates_win_a_delete_ends_nothing_that_it_had_not_seen() -> None:
    space = Space(update_wins=True)
    space("create", put(1))
    space(put(2), slot=2, base=1)
    step = space("delete", slot=1, base=1)
    assert step == Applied("noop", (("lost", 2),)) and space.document is not None and space.document.is_live
    assert space("delete", slot=1).verdict == "applied"


def test_an_update_that_had_not_seen_the_delete_revives_what_was_there() -> None:
    space = Space(update_wins=True)
    space("create", put(1), put(5, "g"))
    space("delete", base=1)
    step = space(put(2), slot=2, base=1)
    assert step == Applied("merged", (("won", 2),))
    document = space.document
    assert document is not None and document.is_live and document.born == document.rev == 3
    assert document.visible() == {"f": ["reg", 2], "g": ["reg", 5]}


def test_what_alters_nothing_revives_as_well() -> None:
    space = Space(update_wins=True)
    space("create", put(1))
    space("delete")
    assert space(put(1), slot=2, base=1).verdict == "merged"
    assert space("delete", slot=3, base=2).verdict == "noop", "it had not seen that the document lives again"


def test_who_has_seen_a_delete_revives_nothing() -> None:
    space = Space(update_wins=True)
    space("create", put(1))
    space("delete")
    assert space.refused(put(2), slot=2, base=2) == "gone"
    assert space.refused(put(2), slot=3, base=0) == "gone"
    assert space("create", slot=2, base=2).verdict == "applied"
    assert space.document is not None and space.document.visible() == {}


def test_a_create_by_one_who_knew_only_the_document_is_an_update_of_it() -> None:
    space = Space(update_wins=True)
    space("create", put(1))
    space("delete")
    assert space("create", slot=2, base=1).verdict == "merged"
    assert space.document is not None and space.document.visible() == {"f": ["reg", 1]}


def test_an_expect_does_not_pass_what_it_would_revive() -> None:
    space = Space(update_wins=True)
    space("create", put(1))
    space("delete")
    assert space.refused(("expect", "f"), put(2), slot=2, base=1) == "precondition"


def test_a_body_that_is_not_kept_is_not_revived() -> None:
    space = Space(update_wins=True)
    space("create", put(1))
    space("delete")
    assert space.document is not None and space.document.has_body
    space.document = space.document.bodiless()
    assert not space.document.has_body and space.refused(put(2), slot=2, base=1) == "gone"
