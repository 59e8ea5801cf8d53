"""Who a message is addressed to, as far as its text says: ``@name ...`` anywhere, or ``name: ...`` / ``name, ...`` at the start (IRC)."""

from __future__ import annotations

import re

_AT = re.compile(r"[@＠]([^\s@＠\u2005:：,，]{1,40})")
# "RuntimeError: ..." that is pasted speaks to nobody.
_PREFIX = re.compile(r"^(?!\w*(?:Error|Exception|Warning):)([A-Za-z0-9_\-\[\]|`^{}\\]{2,30})[:,]\s")


def addressees(text: str) -> tuple[str, ...]:
    """Names in the order in which they are addressed, case-folded; empty when the message speaks to the room."""
    names = [match.group(1) for match in _AT.finditer(text)]
    prefix = _PREFIX.match(text)
    if prefix:
        names.insert(0, prefix.group(1))
    return tuple(dict.fromkeys(name.casefold() for name in names))
