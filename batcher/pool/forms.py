"""Finds the strictest form of asking that works at a source, by the answers that hold.

Invariant: nothing here waits or sends; a form is judged by answers that parse and fit, never by the absence of an
error. One row alone never takes a form from the others.
"""

from __future__ import annotations

from collections.abc import Sequence

from batcher.calls.forms import Form, Wire

FOUND = "form"
"""The kind of the journal's events that hold the form that was found for a source."""

HOLDS = 3
"""The rows whose answers must hold before a form counts as found."""

_AGAINST = 2
# So many different rows one after another must be refused, or answered without holding, before a found form is doubted.
_REFUSED, _MISSED = 4, 8


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
        forms = [each.form for each in ladder if each.form]
        self._forms = forms
        self._at = forms.index(Form(known)) if known in forms else 0
        self._is_found = known in forms or len(ladder) == 1
        self._said = self.form if self._is_found else None
        self._held = 0
        # The rows that speak against each form; once a form is found, the rows since an answer last held.
        self._against: list[set[int]] = [set() for _ in ladder]
        self._refused: set[int] = set()
        self._missed: set[int] = set()

    @property
    def form(self) -> Form:
        """The form that is tried, or was found."""
        return self._forms[self._at]

    @property
    def is_trying(self) -> bool:
        """Whether it is not known yet which form works."""
        return not self._is_found

    @property
    def is_busy(self) -> bool:
        """Whether the answers that are under way should be waited for: they may show that another form is needed."""
        return not self._is_found and self.in_flight >= HOLDS

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

    def next_step(self, form: Form) -> int | None:
        """Return the step after a form that did not work for a row; None if there is none."""
        step = self._index(form) + 1
        return step if step < len(self._ladder) else None

    def held(self, form: Form) -> None:
        """Record an answer that fits."""
        self._refused.clear()
        self._missed.clear()
        if form is self.form:
            self._held += 1
            self._is_found = self._is_found or self._held >= HOLDS

    def missed(self, form: Form, row: int) -> bool:
        """Record an answer that does not fit; return whether another form should be tried for the row."""
        if self._is_found and form is self.form:
            self._missed.add(row)
            if len(self._missed) < _MISSED or len(self._ladder) == 1:
                return False
            self._begin_again()
            return self.next_step(form) is not None
        self._count(form, row)
        return self.next_step(form) is not None

    def refused(self, form: Form, row: int, *, is_certain: bool) -> bool:
        """Record a refusal; return whether another form should be tried for the row.

        Args:
            form: the form of the request.
            row: the position of its row.
            is_certain: the refusal speaks of the form.
        """
        if self._is_found and form is self.form:
            self._refused.add(row)
            if len(self._ladder) == 1 or len(self._refused) < (_AGAINST if is_certain else _REFUSED):
                return False
            self._begin_again()
        self._count(form, row, certain=is_certain)
        return self.next_step(form) is not None

    def _index(self, form: Form) -> int:
        return self._forms.index(form)

    def _count(self, form: Form, row: int, *, certain: bool = False) -> None:
        """Count a row against a form, and step down from forms that do not work."""
        against = self._against[self._index(form)]
        against.add(row)
        if certain:
            against.add(-1)
            against.add(-2)
        while len(self._against[self._at]) >= _AGAINST and self._at + 1 < len(self._ladder):
            self._at += 1
            self._held = 0
        self._is_found = self._is_found or self._at + 1 == len(self._ladder)

    def _begin_again(self) -> None:
        """Doubt the form that was found: the server has changed its mind."""
        was = self._at
        self._against = [set() for _ in self._ladder]
        self._against[was] = self._refused | self._missed
        self._refused, self._missed = set(), set()
        self._at = self._held = 0
        self._is_found = False
