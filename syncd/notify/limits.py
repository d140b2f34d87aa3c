"""Limits of what is kept for one user, and of what one firing may do. Each with its reason."""

RUNS_MAX = 32  # of one user at once, watches and digests among them: all are read when an event comes for that user
DIRECT_MAX = 8  # beyond them, for notifications that backends post: full of digests is no reason to miss an alert
DECISIONS_KEPT = 200  # of one user, 1 KB each: some weeks of notifications, for whoever asks why
DIGEST_ENTRIES_MAX = 50  # gathered with their titles; further ones are counted as gathered and not shown
DIGEST_SHOWN = 8  # lines of a digest: a lock screen shows four
COUNTS_MAX = 16  # (event, span) of one user that conditions ask for; who was not heard of for longest gives way
PASSES_MAX = 8  # workflows of one user whose throttle remembers what it let pass
EVENT_BYTES_MAX = 8_192  # of an event's data that a run keeps: what its workflow reads of it; APNs takes 4 KiB
PAST_KEPT = 8  # outcomes before the last that a decision remembers
SLOTS_MAX = 48  # moments that are weighed for one notification: two days of hours
RECENT_SESSION_MS = 30 * 60_000  # connections that follow each other so closely are one session
FIRED_AT_ONCE = 256  # timers taken by one command: some 20 ms in which the writer does nothing else
SCANNED_AT_ONCE = 1_024  # timers that are held back, looked at by one command for critical ones among them
LATE_MS = 10 * 60_000  # what is later than this was due while nobody was there, and is caught up with
SMEAR_MS = 10 * 60_000  # over which it is spread, so that not all people are written to in one moment
JUMP_MS = 86_400_000  # by which a wall clock may leap ahead before it is not believed
