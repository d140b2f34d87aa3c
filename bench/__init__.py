"""Reproducible measurements of the daemon. `python -m bench` runs them; README.md says what each figure means."""
