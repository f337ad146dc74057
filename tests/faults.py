"""The messages about wrong settings."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from batcher.errors import SettingsError


def fault(make: Callable[[], object]) -> str:
    """Return the message about wrong settings, and check that it shows no key."""
    with pytest.raises(SettingsError) as caught:
        make()
    error: BaseException | None = caught.value
    while error:
        assert "sk-" not in f"{error!r} {error}"
        error = error.__cause__
    return str(caught.value)
