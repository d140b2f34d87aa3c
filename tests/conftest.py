"""Hypothesis profiles: `fast` by default, `long` with `--hypothesis-profile=long` (`make test-long`)."""

import os

from hypothesis import HealthCheck, settings

IS_CI = bool(os.environ.get("CI"))
# A machine under load must not fail a law: no deadline, and no complaint that drawing an example was slow.
QUIET = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "fast", max_examples=100, deadline=None, derandomize=IS_CI, print_blob=True, suppress_health_check=QUIET
)
settings.register_profile("long", max_examples=5_000, deadline=None, print_blob=True, suppress_health_check=QUIET)
settings.load_profile("fast")
