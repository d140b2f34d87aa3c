"""The HTTP API: routes by resource, over the store for reading and the committer for writing."""

from syncd.net.api.service import Api

__all__ = ["Api"]
