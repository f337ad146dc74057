"""Finds the strictest form of asking that works at a source, by the answers that hold.

Invariant: nothing here waits or sends. A form is judged by answers that parse and fit, never by the absence of an
error; a row speaks against a form only if a weaker one then held for it, and one row alone takes no form from others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from batcher.calls.forms import Form, Wire

FOUND = "form"
"""The kind of the journal's events that hold the form that was found for a source."""

HOLDS = 3
"""The rows whose answers must hold before a form counts as found."""

_AGAINST = 2
# After so many rows for which nothing held, no further form is tried after an answer: the form is not the reason.
_HOPELESS = 20
# So many rows, one after another, whose answers do not fit let a found form be doubted.
_MISSED = 8


class FormChoice:
    """The form in which the endpoints of one source are asked.

    Args:
        ladder: the forms to try, the strictest first.
        known: the form that an earlier process found.

    Attributes:
        in_flight: requests that have not ended.
    """

    def __init__(self, ladder: Sequence[Wire], known: str = "") -> None:
        self.in_flight = 0
        self._ladder = ladder
        self._forms = [each.form for each in ladder if each.form]
        self._at = self._forms.index(Form(known)) if known in self._forms else 0
        self._is_found = known in self._forms or len(ladder) == 1
        self._said = self.form if self._is_found else None
        self._held = dict.fromkeys(self._forms, 0)
        self._against: dict[Form, set[int]] = {form: set() for form in self._forms}
        # The rows whose answers did not fit since one last did.
        self._missed: set[int] = set()
        # The rows that a list of choices let another answer through for.
        self._unlisted: set[int] = set()

    @property
    def form(self) -> Form:
        """The form that is tried, or was found."""
        return self._forms[self._at]

    @property
    def is_busy(self) -> bool:
        """Whether the answers that are under way should be waited for: they may show that another form is needed."""
        return not self._is_found and self.in_flight >= HOLDS and len(self._missed) < _HOPELESS

    def news(self) -> Form | None:
        """Return the form that was found, if it has not been returned before.

        The last one, to which nothing is left but to stay with it, counts when an answer holds: in none of them may an
        answer hold because of something else, such as a low `max_tokens`.
        """
        if not self._is_found or not self._held or self.form is self._said:
            return None
        self._said = self.form
        return self.form

    def wire(self, step: int) -> Wire:
        """Return what a request adds.

        Args:
            step: the first form that its row may be asked in.
        """
        return self._ladder[max(step, self._at)]

    def step_after(self, form: Form, *, is_fresh: bool = False) -> int | None:
        """Return the step after a form that did not work for a row; None if there is none.

        Args:
            form: that was refused, or whose answer did not fit.
            is_fresh: the endpoint has never answered. Then the weakest form comes next: if that is refused as well,
                the form is not the reason.
        """
        step = self._forms.index(form) + 1
        if step == len(self._forms):
            return None
        return len(self._forms) - 1 if is_fresh else step

    def held(self, form: Form, row: int, failed: Collection[Form]) -> None:
        """Record an answer that fits.

        Args:
            form: in which it was asked for.
            row: the position of its row.
            failed: the forms that have not worked for the row before.
        """
        self._missed.clear()
        self._held[form] += 1
        for stricter in failed:
            self._against[stricter].add(row)
        before = self._at
        while len(self._against[self.form]) >= _AGAINST and self._at + 1 < len(self._forms):
            self._at += 1
        if self._at != before:
            self._is_found = False
        self._is_found = self._is_found or self._held[self.form] >= HOLDS

    def leave(self, form: Form) -> bool:
        """Give up a form of which a whole batch has shown that it does not work, if there is a weaker one.

        Returns:
            Whether it was given up by that.
        """
        if form is not self.form or self._at + 1 == len(self._forms):
            return False
        self._at += 1
        self._is_found = False
        self._missed.clear()
        return True

    def missed(self, form: Form, row: int) -> bool:
        """Record an answer that does not fit; return whether another form should be tried for the row.

        A list of choices that is obeyed admits no other answer. Most servers ignore it, and yet the answers of a good
        model fit: it may be found by them alone, while the server would obey a schema.
        """
        if self._forms.index(form) < self._at:
            return True  # its request had left when the form was given up
        self._missed.add(row)
        if form is Form.CHOICE:
            self._unlisted.add(row)
        if self._is_found and form is Form.CHOICE and len(self._unlisted) <= _HOPELESS:
            return True
        if self._is_found:
            return _MISSED <= len(self._missed) < _MISSED + _HOPELESS
        return len(self._missed) < _HOPELESS
