"""Logs: one JSON object per line on stderr.

Owns the form of a line and what must never stand in one. Whoever logs uses the standard library's
`getLogger(__name__)`, with fields of its own by `extra={...}`. Must not decide what is worth logging.

Invariant: L1 no token and no API key leaves by a log, whoever put it into a message or a field: what looks like one is
replaced. Nothing logs credentials on purpose; this is for the library's exception that quotes its input.

A line is written where it is logged, in the loop: whoever collects stderr (journald, a file) must read it, as for most
daemons. A queue would need a bound, and what falls out of it is what one looks for afterwards.
"""

import json
import logging
import re
import sys
from datetime import UTC, datetime
from typing import TextIO

SECRET = re.compile(r"eyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*|sk_[A-Za-z0-9_-]{20,}")
LINE_CHARACTERS_MAX = 64 * 1024  # a traceback of a deep recursion is cut: log collectors drop longer lines whole

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonFormatter(logging.Formatter):
    """`{"time", "level", "logger", "message", fields of the caller..., "error"?}`"""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, object] = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        text = json.dumps(line, default=str, ensure_ascii=False)
        if len(text) > LINE_CHARACTERS_MAX:
            line = {name: str(value)[: LINE_CHARACTERS_MAX // 8] for name, value in line.items()}
            text = json.dumps(line, ensure_ascii=False)[:LINE_CHARACTERS_MAX]
        return SECRET.sub("[secret]", text)


def start(level: str, stream: TextIO | None = None) -> None:
    """Send all logs of this process to `stream` (stderr) from `level` on. Replaces what was set before."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
