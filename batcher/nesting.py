"""How deep JSON may be nested.

Invariant: JSON within the limit can be read and written with Python's `json` everywhere in a run. Each level takes one
of the 1,000 nested calls that Python allows, and the caller has used some of them.
"""

from __future__ import annotations

import re

DEEPEST = 200
"""Nested levels of lists and objects."""

TOO_DEEP = f"it is nested deeper than {DEEPEST} levels"

# An unclosed string goes on to the end, so that no place is looked at twice.
_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[\[{]|[\]}]', re.DOTALL)


def is_too_deep(text: str) -> bool:
    """Return whether JSON text has more levels than `DEEPEST`; it need not be valid, and is not parsed."""
    if text.count("[") + text.count("{") <= DEEPEST:
        return False
    depth = 0
    for token in _TOKENS.finditer(text):
        if token.group() in "[{":
            depth += 1
            if depth > DEEPEST:
                return True
        elif token.group() in "]}":
            depth -= 1
    return False
