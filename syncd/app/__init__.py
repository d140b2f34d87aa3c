"""The application: configuration, command line, wiring and lifetime.

Nothing imports this package; it imports everything else, and is the only place where the parts meet.
"""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _installed

try:
    VERSION = _installed("syncd")
except PackageNotFoundError:  # run from a source tree that was not installed
    VERSION = "0+source"
