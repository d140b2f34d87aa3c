"""Whether a person will come back by themselves: the chance of a session within seven days.

Owns the model and the moment at which its answer falls to a given chance: there the timer of an inactivity trigger
stands, one per person and rule, and nothing is polled. Must not know timers, zones or workflows.

A logistic model on the logarithm of the time since the latest session and of two faded rates (half-lives 28 and 180
days), as of that session. Between sessions only the elapsed time moves, so the crossing has a closed form. Fitted on
110 people and 41,000 moments three days apart; by five-fold cross-validation over people the area under its curve is
0.846, that of the elapsed time alone 0.828 (`python -m bench behaviour`).

Invariants: R1 the chance falls with time, and rises with the rate. R2 at `crossing_ms` the chance is the threshold.
"""

import math
from typing import NamedTuple

from syncd.notify.profile import DAY_MS, HOUR_MS, Profile, rates_at

RATE_FLOOR = 1e-3  # sessions a day: one in three years
_ELAPSED_FLOOR_DAYS = HOUR_MS / DAY_MS
SESSIONS_MIN = 5  # of one who came less often nothing is said
CROSSING_MS_MAX = 3660 * DAY_MS


class Model(NamedTuple):
    """Weights of 1, log(days since + an hour), log(recent rate), log(steady rate); rates in sessions a day."""

    bias: float
    elapsed: float
    recent: float
    steady: float


FITTED = Model(2.074, -0.683, 0.588, 0.051)


def _constant(profile: Profile, model: Model) -> float:
    recent, steady = rates_at(profile, profile.latest_ms)
    return (
        model.bias + model.recent * math.log(recent + RATE_FLOOR) + model.steady * math.log(steady + RATE_FLOOR)
    )  # fmt: skip


def chance(profile: Profile, now_ms: int, model: Model = FITTED) -> float | None:
    """The chance of a session in the next seven days; None if too little is known."""
    if profile.sessions < SESSIONS_MIN:
        return None
    days = max(now_ms - profile.latest_ms, 0) / DAY_MS
    score = _constant(profile, model) + model.elapsed * math.log(days + _ELAPSED_FLOOR_DAYS)
    return 1.0 / (1.0 + math.exp(-score))


def crossing_ms(profile: Profile, threshold: float, model: Model = FITTED) -> int | None:
    """When the chance will have fallen to the threshold (0 < threshold < 1) if no session comes; None if too little is
    known, or it is not within ten years. Not before the latest session."""
    assert model.elapsed < 0 < threshold < 1, "the chance falls, and a threshold is between none and certain"
    if profile.sessions < SESSIONS_MIN:
        return None
    exponent = (math.log(threshold / (1.0 - threshold)) - _constant(profile, model)) / model.elapsed
    if exponent > math.log(CROSSING_MS_MAX / DAY_MS):
        return None
    days = max(math.exp(exponent) - _ELAPSED_FLOOR_DAYS, 0.0)
    return profile.latest_ms + math.ceil(days * DAY_MS)
