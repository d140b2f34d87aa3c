"""What is learned from behaviour, tried on people: is a person there when we think so, and do they come back?

Owns the replay of a file of sessions (CSV, gzipped: user, unix_s, utc_offset_min), in order of time, so that each
decision knows only what came before it. The file is not part of the project; without one the benchmark says so and
reports nothing. `SYNCD_ACTIVITY` names it.

Send time: for each person, on each day with a session from the thirtieth session on, a window of two hours is chosen;
it is a hit if a session of that day began in it. Beside it: the single hour that would have been best for everyone, and
09:00. The population is made of the others. Return: chances at moments three days apart, by models fitted to four
fifths of the people and judged on the last fifth.
"""

import csv
import gzip
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench.measure import Figure, Target
from syncd.notify import profile as behaviour
from syncd.notify.profile import DAY_MS, Profile
from syncd.notify.returning import Model, chance
from syncd.notify.timing import HOURS, WINDOW_H, density, receptiveness

ACTIVITY = Path(
    os.environ.get("SYNCD_ACTIVITY", Path(__file__).resolve().parents[2] / "shared" / "data" / "activity.csv.gz")
)
SESSIONS_BEFORE = 30  # of a person, before the first decision is judged
FOLDS = 5

Sessions = dict[str, list[tuple[int, int]]]  # user -> (wall ms, offset of the clock in s), by time


def sessions(file: Path) -> Sessions:
    people: Sessions = defaultdict(list)
    with gzip.open(file, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            people[row["user"]].append((int(row["unix_s"]) * 1000, int(row["utc_offset_min"]) * 60))
    return {user: sorted(people[user]) for user in sorted(people)}


def run(directory: Path, *, quick: bool, say: Callable[[str], None]) -> list[Figure]:
    if not ACTIVITY.exists():
        say(f"SKIPPED: no file of sessions at {ACTIVITY}; SYNCD_ACTIVITY names one")
        return []
    people = sessions(ACTIVITY)
    say(f"{len(people)} people, {sum(map(len, people.values())):,} sessions")
    return [*_send_time(people), *_return(people, 9 if quick else 3, say)]


# -- send time --------------------------------------------------------------------------------------------------------


def _send_time(people: Sessions) -> list[Figure]:
    shares = {user: _shares(items) for user, items in people.items()}
    total = [sum(share[index] for share in shares.values()) for index in range(2 * HOURS)]
    hits = decisions = 0
    by_hour: Counter[int] = Counter()  # hits of a window that begins at this hour on every day of everyone
    began = time.thread_time()
    for user, items in people.items():
        others = _normalized([total[index] - shares[user][index] for index in range(2 * HOURS)])
        for chosen, hours in _days(items, others):
            decisions += 1
            hits += _is_hit(chosen, hours)
            by_hour.update(start for start in range(HOURS) if _is_hit(start, hours))
    took_us = (time.thread_time() - began) / decisions * 1e6
    rate, best = hits / decisions, by_hour.most_common(1)[0]
    detail = f"{decisions:,} days of {len(people)} people"
    return [
        Figure("behaviour", "send time: days with a hit", "", (rate,), Target(least=0.358), detail),
        Figure(
            "behaviour", "to the best single hour in hindsight", "", (rate / (best[1] / decisions),),
            Target(least=1.08), f"{best[0]}:00: {best[1] / decisions:.3f}",
        ),
        Figure(
            "behaviour", "to 09:00", "", (rate / (by_hour[9] / decisions),), Target(least=1.5),
            f"{by_hour[9] / decisions:.3f}",
        ),
        Figure("behaviour", "learning and choosing, a day", "us", (took_us,), None, "processor time"),
    ]  # fmt: skip


def _days(items: Sequence[tuple[int, int]], others: Sequence[float]) -> Iterator[tuple[int, set[int]]]:
    """(the hour chosen, the hours at which sessions began) of each day that is judged."""
    days: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for at_ms, offset_s in items:
        days[(at_ms // 1000 + offset_s) // 86_400].append((at_ms, offset_s))
    known = behaviour.new(*items[0])
    for day, today in days.items():
        if known.sessions >= SESSIONS_BEFORE:
            spread = density(behaviour.hours_at(known, today[0][0]), others, (day + 3) % 7 >= 5)
            best = max(range(HOURS), key=lambda hour: receptiveness(spread, hour * 3600))
            yield best, {(at_ms // 1000 + offset_s) % 86_400 // 3600 for at_ms, offset_s in today}
        for at_ms, offset_s in today:
            known = behaviour.with_session(known, at_ms, offset_s)


def _is_hit(start: int, hours: set[int]) -> bool:
    return any((start + index) % HOURS in hours for index in range(WINDOW_H))


def _shares(items: Sequence[tuple[int, int]]) -> list[float]:
    """Of a person's sessions, by bin: so a busy person counts as much as another."""
    counts = Counter(behaviour.bin_of(at_ms // 1000 + offset_s) for at_ms, offset_s in items)
    return [counts[index] / len(items) for index in range(2 * HOURS)]


def _normalized(bins: Sequence[float]) -> list[float]:
    halves = (sum(bins[:HOURS]), sum(bins[HOURS:]))
    return [value / halves[index >= HOURS] for index, value in enumerate(bins)]


# -- return -----------------------------------------------------------------------------------------------------------


def _return(people: Sessions, step_days: int, say: Callable[[str], None]) -> list[Figure]:
    moments = {user: list(_moments(items, step_days)) for user, items in people.items()}
    users = list(moments)
    scores, by_elapsed, truth = [], [], []
    for fold in range(FOLDS):
        say(f"return: fold {fold + 1} of {FOLDS}")
        model = fitted([moment for at, user in enumerate(users) if at % FOLDS != fold for moment in moments[user]])
        for user in users[fold::FOLDS]:
            for known, at_ms, came_back in moments[user]:
                found = chance(known, at_ms, model)
                assert found is not None, "moments begin when enough is known"
                scores.append(found)
                by_elapsed.append(-float(at_ms - known.latest_ms))
                truth.append(came_back)
    everyone = fitted([moment for user in users for moment in moments[user]])
    weights = ", ".join(f"{value:.3f}" for value in everyone)
    area, simple = area_under_curve(scores, truth), area_under_curve(by_elapsed, truth)
    return [
        Figure("behaviour", "return within 7 days: area under the curve", "", (area,), None, f"weights {weights}"),
        Figure(
            "behaviour", "to that of the elapsed time alone", "", (area / simple,), Target(least=1.01), f"{simple:.3f}"
        ),
    ]


SESSIONS_FIRST = 10
QUIET_DAYS_MAX = 120  # moments of one who has left are not repeated for ever


def _moments(items: Sequence[tuple[int, int]], step_days: int) -> Iterator[tuple[Profile, int, bool]]:
    """(what is known, the moment, whether a session came within seven days) at even distances."""
    known, index = behaviour.new(*items[0]), 0
    at_ms = items[SESSIONS_FIRST][0]
    while at_ms + 7 * DAY_MS < items[-1][0]:
        while items[index][0] <= at_ms:
            known = behaviour.with_session(known, *items[index])
            index += 1
        if at_ms - known.latest_ms <= QUIET_DAYS_MAX * DAY_MS:
            yield known, at_ms, items[index][0] <= at_ms + 7 * DAY_MS
        at_ms += step_days * DAY_MS


def fitted(moments: Sequence[tuple[Profile, int, bool]], rounds: int = 12) -> Model:
    """The likeliest weights, by Newton's method. The features are read off the model, with one weight at a time."""
    units = [Model(*(float(at == index) for index in range(4))) for at in range(4)]
    rows = [[_logit(chance(known, at_ms, unit)) for unit in units] for known, at_ms, _ in moments]
    weights = [0.0] * 4
    for _ in range(rounds):
        gradient, hessian = [0.0] * 4, [[1e-3 * (i == j) for j in range(4)] for i in range(4)]
        for row, (_, _, came_back) in zip(rows, moments, strict=True):
            expected = 1.0 / (1.0 + math.exp(-sum(w * x for w, x in zip(weights, row, strict=True))))
            for i in range(4):
                gradient[i] += (came_back - expected) * row[i]
                for j in range(4):
                    hessian[i][j] += expected * (1.0 - expected) * row[i] * row[j]
        steps = solved(hessian, gradient)
        weights = [weight + step for weight, step in zip(weights, steps, strict=True)]
        if max(map(abs, steps)) < 1e-6:
            break
    return Model(*weights)


def _logit(share: float | None) -> float:
    assert share is not None, "moments begin when enough is known"
    return math.log(share / (1.0 - share))


def solved(matrix: Sequence[Sequence[float]], right: Sequence[float]) -> list[float]:
    """x with matrix x = right, by elimination with pivots."""
    rows = [[*row, value] for row, value in zip(matrix, right, strict=True)]
    size = len(rows)
    for column in range(size):
        pivot = max(range(column, size), key=lambda at: abs(rows[at][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        for at in range(size):
            if at != column:
                factor = rows[at][column] / rows[column][column]
                rows[at] = [a - factor * b for a, b in zip(rows[at], rows[column], strict=True)]
    return [rows[at][size] / rows[at][at] for at in range(size)]


def area_under_curve(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """The chance that one who came back scores higher than one who did not; equal scores count half."""
    ranked = sorted(zip(scores, truth, strict=True))
    positive, rank_sum, at = sum(truth), 0.0, 0
    while at < len(ranked):
        end = at
        while end < len(ranked) and ranked[end][0] == ranked[at][0]:
            end += 1
        rank_sum += (at + end + 1) / 2 * sum(came_back for _, came_back in ranked[at:end])
        at = end
    return (rank_sum - positive * (positive + 1) / 2) / (positive * (len(ranked) - positive))
