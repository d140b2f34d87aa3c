"""What is learned of one person: when they are there, how often, what they care about, what they do with notifications.

Owns the record of a user's behaviour and how an event alters it, in constant time and within `PROFILE_BYTES_MAX`. Must
not know where events come from, nor what is decided by them. Everything is a pure function from record to record.

All counts fade: a count of age t weighs 2^(-t / half-life). They are kept by *forward decay* (Cormode, Shkapenyuk,
Srivastava, Xu: Forward Decay, ICDE 2009): an event at t adds 2^((t - L) / half-life) for a fixed landmark L, and a
reader divides by the weight of its own moment. So an event touches only what it counts, and nothing is aged by a timer.

Invariants: B1 an event that comes late counts as of its own time; the order of arrival does not matter. B2 a profile's
record is `PROFILE_BYTES_MAX` at most, whatever happens. B3 weights stay finite: the landmark moves before they grow
beyond what a 32-bit float holds.
"""

from collections.abc import Mapping
from struct import Struct
from typing import NamedTuple

from syncd.store.tables import ProfileRow

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
PROFILE_BYTES_MAX = 1024

HOURS_HALF_LIFE_MS = 90 * DAY_MS  # measured on 110 people: 30 to 90 days are alike, the longer the steadier
RECENT_HALF_LIFE_MS, STEADY_HALF_LIFE_MS = 28 * DAY_MS, 180 * DAY_MS
TASTE_HALF_LIFE_MS = 30 * DAY_MS  # of what is read and opened
# A landmark moves when the fastest of the weights has grown by 2^20: far from the end of a float, seldom done.
LANDMARK_MS_MAX = 20 * RECENT_HALF_LIFE_MS

CATEGORIES_MAX = 8  # those with the least that is known give way
TOPICS_MAX = 10
LABEL_BYTES_MAX = 20  # of a topic's or category's name as counted; longer ones are told apart by so much of them
_HOURS = Struct("<48f")
NO_HOURS = bytes(_HOURS.size)


class CategoryStats(NamedTuple):
    """What became of notifications of one category, faded. `ignored_in_a_row` does not fade: an open ends it."""

    shown: float
    opened: float
    dismissed: float
    ignored_in_a_row: int


NO_STATS = CategoryStats(0.0, 0.0, 0.0, 0)


class Profile(NamedTuple):
    """One user. Weights are of the landmark: divide by `weight(now, landmark, half_life)` to read them.

    `hours`: sessions by weekday/weekend x local hour, packed. `recent`, `steady`: sessions, with a half-life of 28 and
    180 days. `sessions`: in all. `stay_s`: mean length of a session, exponentially smoothed. `offset_s`: the clock's
    offset at the latest session. `taste`: topic -> weight. `categories`: name -> CategoryStats.
    """

    landmark_ms: int
    first_ms: int
    latest_ms: int
    sessions: int
    offset_s: int
    recent: float
    steady: float
    stay_s: float
    hours: bytes
    taste: Mapping[str, float]
    categories: Mapping[str, CategoryStats]


def of_row(row: ProfileRow) -> Profile:
    """What was learned, from how it is stored."""
    return Profile(*row[:-1], {name: CategoryStats(*stats) for name, stats in row.categories.items()})


def weight(at_ms: int, landmark_ms: int, half_life_ms: int) -> float:
    """What an event at `at_ms` adds."""
    return float(2.0 ** ((at_ms - landmark_ms) / half_life_ms))


def new(now_ms: int, offset_s: int) -> Profile:
    return Profile(now_ms, now_ms, 0, 0, offset_s, 0.0, 0.0, 0.0, NO_HOURS, {}, {})


def bin_of(local_s: int) -> int:
    """The bin of a local time (seconds since 1970-01-01, as the clock shows): 0-23 on weekdays, 24-47 at weekends."""
    days, second = divmod(local_s, 86_400)
    is_weekend = (days + 3) % 7 >= 5  # 1970-01-01 was a Thursday
    return 24 * is_weekend + second // 3600


def with_session(profile: Profile, at_ms: int, offset_s: int) -> Profile:
    """A session began, at a place whose clock is `offset_s` ahead of UTC."""
    profile = _with_landmark(profile, at_ms)
    # Habits go by the clock on the wall, so they move with a person who travels. What was learned elsewhere is not
    # weighed less after a move: most come back, and in a replay of 110 people that rule cost more hits than it won.
    hours = list(_HOURS.unpack(profile.hours))
    hours[bin_of(at_ms // 1000 + offset_s)] += weight(at_ms, profile.landmark_ms, HOURS_HALF_LIFE_MS)
    is_latest = at_ms >= profile.latest_ms
    return profile._replace(
        latest_ms=max(at_ms, profile.latest_ms),
        first_ms=min(at_ms, profile.first_ms),
        sessions=profile.sessions + 1,
        offset_s=offset_s if is_latest else profile.offset_s,
        recent=profile.recent + weight(at_ms, profile.landmark_ms, RECENT_HALF_LIFE_MS),
        steady=profile.steady + weight(at_ms, profile.landmark_ms, STEADY_HALF_LIFE_MS),
        hours=_HOURS.pack(*hours),
    )


STAY_SHARE = 0.2  # of the newest session in the mean: some ten sessions are remembered
STAY_S_MAX = 4 * 3600.0  # an application that was left open tells nothing


def with_stay(profile: Profile, stay_s: float) -> Profile:
    """A session ended after so long."""
    stay_s = min(max(stay_s, 0.0), STAY_S_MAX)
    mean = stay_s if not profile.stay_s else profile.stay_s + STAY_SHARE * (stay_s - profile.stay_s)
    return profile._replace(stay_s=mean)


def with_topic(profile: Profile, topic: str, at_ms: int) -> Profile:
    """Something on a topic was read or opened."""
    profile = _with_landmark(profile, at_ms)
    label = _label(topic)
    taste = dict(profile.taste)
    taste[label] = taste.get(label, 0.0) + weight(at_ms, profile.landmark_ms, TASTE_HALF_LIFE_MS)
    if len(taste) > TOPICS_MAX:
        del taste[min(taste, key=lambda name: (taste[name], name))]
    return profile._replace(taste=taste)


def with_receipt(profile: Profile, category: str, receipt: str, at_ms: int) -> Profile:
    """What became of a notification: `shown`, `opened`, `dismissed` or `ignored`."""
    profile = _with_landmark(profile, at_ms)
    label, adds = _label(category), weight(at_ms, profile.landmark_ms, TASTE_HALF_LIFE_MS)
    stats = profile.categories.get(label, NO_STATS)
    match receipt:
        case "shown":
            stats = stats._replace(shown=stats.shown + adds)
        case "opened":
            stats = stats._replace(opened=stats.opened + adds, ignored_in_a_row=0)
        case "dismissed":
            stats = stats._replace(dismissed=stats.dismissed + adds, ignored_in_a_row=stats.ignored_in_a_row + 1)
        case _:
            assert receipt == "ignored", "receipts are counted by these names"
            stats = stats._replace(ignored_in_a_row=stats.ignored_in_a_row + 1)
    categories = {**profile.categories, label: stats}
    if len(categories) > CATEGORIES_MAX:
        del categories[min(categories, key=lambda name: (categories[name].shown, name != label, name))]
    return profile._replace(categories=categories)


def _label(name: str) -> str:
    return name.encode()[:LABEL_BYTES_MAX].decode(errors="ignore")


def _with_landmark(profile: Profile, at_ms: int) -> Profile:
    """The same profile, with a landmark from which `at_ms` is not too far (B3)."""
    if abs(at_ms - profile.landmark_ms) <= LANDMARK_MS_MAX:
        return profile
    if at_ms < profile.landmark_ms:
        return profile  # an old event weighs next to nothing, and is never a reason to weigh the others more

    def moved(half_life_ms: int) -> float:
        return 1.0 / weight(at_ms, profile.landmark_ms, half_life_ms)

    taste_share = moved(TASTE_HALF_LIFE_MS)
    hours_share = moved(HOURS_HALF_LIFE_MS)
    return profile._replace(
        landmark_ms=at_ms,
        recent=profile.recent * moved(RECENT_HALF_LIFE_MS),
        steady=profile.steady * moved(STEADY_HALF_LIFE_MS),
        hours=_HOURS.pack(*(value * hours_share for value in _HOURS.unpack(profile.hours))),
        taste={topic: value * taste_share for topic, value in profile.taste.items()},
        categories={
            name: stats._replace(
                shown=stats.shown * taste_share,
                opened=stats.opened * taste_share,
                dismissed=stats.dismissed * taste_share,
            )
            for name, stats in profile.categories.items()
        },
    )


# -- reading ----------------------------------------------------------------------------------------------------------


def hours_at(profile: Profile, now_ms: int) -> tuple[float, ...]:
    """The 48 bins as of now: faded counts of sessions."""
    share = 1.0 / weight(now_ms, profile.landmark_ms, HOURS_HALF_LIFE_MS)
    return tuple([value * share for value in _HOURS.unpack(profile.hours)])


def rates_at(profile: Profile, now_ms: int) -> tuple[float, float]:
    """Sessions a day, with a half-life of 28 and of 180 days: faded counts, divided by what one a day would come to."""
    recent = profile.recent / weight(now_ms, profile.landmark_ms, RECENT_HALF_LIFE_MS)
    steady = profile.steady / weight(now_ms, profile.landmark_ms, STEADY_HALF_LIFE_MS)
    return recent / _one_a_day(RECENT_HALF_LIFE_MS), steady / _one_a_day(STEADY_HALF_LIFE_MS)


def _one_a_day(half_life_ms: int) -> float:
    """The faded count of one who comes once a day for ever: the mean life in days."""
    return half_life_ms / DAY_MS / 0.6931471805599453


def affinity_at(profile: Profile, topic: str, now_ms: int) -> float:
    """How much of what this person reads is on a topic: 0 to 1, drawn towards 0 while little is known."""
    share = 1.0 / weight(now_ms, profile.landmark_ms, TASTE_HALF_LIFE_MS)
    total = sum(profile.taste.values()) * share
    return profile.taste.get(_label(topic), 0.0) * share / (total + AFFINITY_PRIOR)


AFFINITY_PRIOR = 3.0  # readings: after three on one topic alone, the affinity is one half


def is_known(profile: Profile, category: str) -> bool:
    """Whether anything is known of a category: it was shown, not long ago."""
    return _label(category) in profile.categories


def category_at(profile: Profile, category: str, now_ms: int) -> CategoryStats:
    """What became of notifications of a category, faded to now."""
    stats = profile.categories.get(_label(category))
    if stats is None:
        return NO_STATS
    share = 1.0 / weight(now_ms, profile.landmark_ms, TASTE_HALF_LIFE_MS)
    shown, opened, dismissed, row = stats
    return CategoryStats(shown * share, opened * share, dismissed * share, row)
