"""The gates: each rule by hand, and whole lives of people against brute force."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from syncd.notify.civil import instant_ms, parse_quiet_hours, parse_span
from syncd.notify.gates import GATES, SENDS_KEPT, Candidate, Judgement, Person, Sent, free_again_ms, judged
from syncd.notify.policy import Cap, Category, Policy, Preferences, parse_cap, preferences

BERLIN = ZoneInfo("Europe/Berlin")
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
NOON_MS = instant_ms(BERLIN, datetime(2026, 11, 28, 12))
NIGHT_MS = instant_ms(BERLIN, datetime(2026, 11, 28, 23))
POLICY = Policy(
    {"news": Category("news", caps=(parse_cap("2 / 24h"),)), "alert": Category("alert", "critical")},
    caps=(parse_cap("3 / 24h"),),
    quiet_hours=parse_quiet_hours("22:00-08:00"),
)
SOMEBODY = Person(BERLIN, Preferences(), (), 0.5)
NEWS = Candidate("news")


def seen(*hours_ago: float, category: str = "news") -> tuple[Sent, ...]:
    return tuple(Sent(NOON_MS - round(hours * HOUR_MS), category) for hours in hours_ago)


def wishing(**documents: dict[str, object]) -> Person:
    return SOMEBODY._replace(wishes=preferences({name.replace("_", ":"): fields for name, fields in documents.items()}))


def told(judgement: Judgement) -> tuple[str, str | None, str]:
    return judgement.outcome.kind, judgement.outcome.reason, judgement.explanation


@pytest.mark.parametrize(
    ("candidate", "policy", "person", "now_ms", "expected"),
    [
        (NEWS, POLICY, SOMEBODY, NOON_MS, ("sent", None, "Sent at 12:00.")),
        (
            NEWS, replace(POLICY, holdout=0.6), SOMEBODY, NOON_MS,
            ("held_out", "holdout",
             "Not sent: one of the 60% of people who get nothing, so that the rest can be compared."),
        ),
        (
            NEWS, POLICY, wishing(category_news={"frequency": "off"}), NOON_MS,
            ("suppressed", "preference", "Not sent: turned off by the category news."),
        ),
        (
            NEWS, POLICY, wishing(all={"mute_until": NOON_MS + HOUR_MS}), NOON_MS,
            ("suppressed", "mute", "Not sent: everything is muted until 13:00."),
        ),
        (
            NEWS, POLICY, SOMEBODY._replace(suppressed="the account is closed"), NOON_MS,
            ("suppressed", "suppression", "Not sent: the account is closed."),
        ),
        (
            NEWS._replace(in_segment=False), POLICY, SOMEBODY, NOON_MS,
            ("suppressed", "segment", "Not sent: not among those it is for."),
        ),
        (
            NEWS._replace(newer_id="d7"), POLICY, SOMEBODY, NOON_MS,
            ("collapsed", "collapse", "Not sent: a newer one of its kind took its place (d7)."),
        ),
        (
            NEWS._replace(expires_ms=NOON_MS), POLICY, SOMEBODY, NOON_MS,
            ("expired", "expiry", "Not sent: of no use since 12:00."),
        ),
        (
            NEWS, POLICY, wishing(all={"frequency": "weekly"}), NOON_MS,
            ("digested", "preference", "Kept for the weekly digest: weekly by the choice for everything."),
        ),
        (
            NEWS, POLICY, SOMEBODY, NIGHT_MS,
            ("deferred", "quiet hours",
             "Would have been sent at 23:00 but for this: quiet hours 22:00-08:00 end at 2026-11-29"
             " 08:00. It is tried again at 2026-11-29 08:00."),
        ),
        (
            NEWS, replace(POLICY, quiet_action="silence"), SOMEBODY, NIGHT_MS,
            ("sent", None, "Sent at 23:00, without a sound in the quiet hours 22:00-08:00."),
        ),
        (
            NEWS, replace(POLICY, quiet_action="drop"), SOMEBODY, NIGHT_MS,
            ("suppressed", "quiet hours", "Not sent: the quiet hours 22:00-08:00 drop it."),
        ),
        (
            NEWS, POLICY, SOMEBODY._replace(sent=seen(20, 3)), NOON_MS,
            ("deferred", "caps",
             "Would have been sent at 12:00 but for this: cap 2 / 24h of news is full, free again at 16:00."
             " It is tried again at 16:00."),
        ),
        (  # the cap would be free at three in the night, which is no time to send
            NEWS, POLICY, SOMEBODY._replace(sent=seen(9, 3)), NOON_MS,
            ("deferred", "caps",
             "Would have been sent at 12:00 but for this: cap 2 / 24h of news is full, free again at"
             " 2026-11-29 03:00. It is tried again at 2026-11-29 08:00."),
        ),
        (
            NEWS._replace(expires_ms=NIGHT_MS + HOUR_MS), POLICY, SOMEBODY, NIGHT_MS,
            ("expired", "quiet hours", "Not sent: quiet hours 22:00-08:00 end at 2026-11-29 08:00."),
        ),
        (  # every reason is told
            NEWS, POLICY, SOMEBODY._replace(sent=seen(3, 2), wishes=preferences({"all": {"frequency": "off"}})),
            NIGHT_MS,
            ("suppressed", "preference",
             "Not sent: turned off by the choice for everything (and cap 2 / 24h of news is full, free"
             " again at 2026-11-29 09:00; quiet hours 22:00-08:00 end at 2026-11-29 08:00)."),
        ),
        (
            Candidate("alert"), replace(POLICY, holdout=1.0),
            SOMEBODY._replace(
                sent=seen(1, 2, 3, 4),
                wishes=preferences({"all": {"frequency": "off", "mute_until": NIGHT_MS * 2}}),
            ),
            NIGHT_MS, ("sent", None, "Sent at 23:00."),
        ),
    ],
)  # fmt: skip
def test_each_gate_says_why(
    candidate: Candidate, policy: Policy, person: Person, now_ms: int, expected: tuple[str, str | None, str]
) -> None:
    judgement = judged(candidate, policy, person, now_ms)
    assert told(judgement) == expected
    assert tuple(verdict.gate for verdict in judgement.verdicts) == GATES


# -- whole lives ------------------------------------------------------------------------------------------------------

caps = st.lists(
    st.tuples(st.integers(1, 4), st.sampled_from(("2h", "24h", "1d", "7d"))).map(lambda c: Cap(c[0], parse_span(c[1]))),
    max_size=2,
).map(tuple)
quiets = st.none() | st.sampled_from(("22:00-08:00", "02:00-03:00", "01:30-02:30", "12:00-13:00", "08:00-22:00")).map(
    parse_quiet_hours
)
zones = st.sampled_from(("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu")).map(ZoneInfo)
# Around the nights on which clocks are changed, north and south.
starts = st.sampled_from((datetime(2026, 3, 27), datetime(2026, 10, 23), datetime(2026, 4, 3), datetime(2026, 11, 28)))
arrivals = st.lists(
    st.tuples(st.integers(0, 5 * 24 * 60), st.sampled_from(("a", "b", "c")), st.none() | st.integers(1, 3000)),
    max_size=25,
)


@given(caps, caps, quiets, zones, starts, arrivals)
@example(
    (Cap(1, parse_span("1d")),),
    (),
    parse_quiet_hours("01:30-02:30"),
    BERLIN,
    datetime(2026, 3, 27),
    [(0, "a", None)] * 5,
)
def test_what_is_sent_keeps_every_cap_quiet_hour_and_expiry_and_waits_no_longer_than_it_must(
    own: tuple[Cap, ...], common: tuple[Cap, ...], quiet: object, zone: ZoneInfo, start: datetime,
    candidates: list[tuple[int, str, int | None]],
) -> None:  # fmt: skip
    """A queue of candidates is judged at its times; what is deferred is judged again when it says. Then all that was
    sent is looked at by the definitions, and each wait minute by minute."""
    policy = Policy({"a": Category("a", caps=own), "b": Category("b"), "c": Category("c", "critical")}, common, quiet)  # type: ignore[arg-type]
    start_ms = instant_ms(zone, start)
    queue: list[tuple[int, int, Candidate]] = sorted(
        (
            start_ms + minute * MINUTE_MS,
            index,
            Candidate(category, expires_ms=life and start_ms + (minute + life) * MINUTE_MS),
        )
        for index, (minute, category, life) in enumerate(candidates)
    )  # type: ignore[type-var]
    sent: list[Sent] = []
    final: dict[int, str] = {}
    while queue:
        now_ms, index, candidate = queue.pop(0)
        person = Person(zone, Preferences(), sent[-SENDS_KEPT:], 0.5)
        outcome = judged(candidate, policy, person, now_ms).outcome
        if outcome.kind == "deferred":
            assert outcome.until_ms is not None and outcome.until_ms > now_ms
            assert not any(
                is_free(candidate, policy, person, at) for at in range(now_ms, outcome.until_ms, 13 * MINUTE_MS)
            )
            assert is_free(candidate, policy, person, outcome.until_ms)
            queue.append((outcome.until_ms, index, candidate))
            queue.sort(key=lambda item: item[:2])
            continue
        assert index not in final
        final[index] = outcome.kind
        if outcome.kind == "sent":
            assert candidate.expires_ms is None or now_ms < candidate.expires_ms
            assert quiet is None or candidate.category == "c" or not policy.quiet_hours.is_quiet(zone, now_ms)  # type: ignore[union-attr]
            if candidate.category != "c":
                sent.append(Sent(now_ms, candidate.category))
    assert len(final) == len(candidates) and set(final.values()) <= {"sent", "expired"}
    for cap in common:
        assert most_within(cap, sent, zone) <= cap.count
    for cap in own:
        assert most_within(cap, [each for each in sent if each.category == "a"], zone) <= cap.count


def is_free(candidate: Candidate, policy: Policy, person: Person, at_ms: int) -> bool:
    """By the definitions: outside quiet hours, and one more keeps every cap."""
    if policy.quiet_hours is not None and policy.quiet_hours.is_quiet(person.zone, at_ms):
        return False
    more = [*person.sent, Sent(at_ms, candidate.category)]
    own = [each for each in more if each.category == candidate.category]
    category = policy.categories[candidate.category]
    return all(most_within(cap, own, person.zone, at_ms) <= cap.count for cap in category.caps) and all(
        most_within(cap, more, person.zone, at_ms) <= cap.count for cap in policy.caps
    )


def most_within(cap: Cap, sent: Sequence[Sent], zone: ZoneInfo, holding_ms: int | None = None) -> int:
    """The most that came within any stretch as long as the cap's span; if given, only where it holds a moment."""
    most = 0
    for first in sent:
        end_ms = cap.span.end_ms(zone, first.at_ms)
        if holding_ms is None or first.at_ms <= holding_ms < end_ms:
            most = max(most, sum(first.at_ms <= each.at_ms < end_ms for each in sent))
    return most


def test_a_cap_is_a_sliding_window_and_no_calendar_day() -> None:
    cap = parse_cap("1 / 24h")
    evening_ms = instant_ms(BERLIN, datetime(2026, 11, 28, 23, 50))
    assert (
        free_again_ms(cap, [Sent(evening_ms, "news")], BERLIN, evening_ms + 20 * MINUTE_MS) == evening_ms + 24 * HOUR_MS
    )
