"""How long a server asks to be left alone."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Final

#: Longer waits are taken for this one: a day.
LONGEST_SECONDS: Final = 86_400.0


def seconds(header: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date (RFC 9110, 10.2.3), 0..LONGEST_SECONDS. None where there is none that can be read."""
    if not header:
        return None
    try:
        value = float(header) if header.strip().replace(".", "", 1).isdigit() else parsedate_to_datetime(header).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(0.0, value), LONGEST_SECONDS)
