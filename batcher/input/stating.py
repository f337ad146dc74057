"""States in the prompts what answers must be: in the holes `{labels}` and `{schema}`, or in a line at the end.

Invariant: a row's text never decides: all prompts of a run state the labels in the same way. Templates that hold all
labels stay as they are. A column of the table comes before a hole's meaning.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from batcher.answer.labels import Labels
from batcher.answer.schema import Schema
from batcher.answer.shape import Shape
from batcher.errors import InputError
from batcher.input.messages import with_line
from batcher.input.prompt import Renderer, Template
from batcher.words import option

_STANDS_FOR = {"labels": "the labels", "schema": "the schema"}
_LACKING = {
    "labels": "stands for the labels, and none are given",
    "schema": "stands for the schema, and none is given",
}
_NEAR = 0.7
"""How alike (`difflib`, from 0 to 1) a hole and the one that was probably meant are."""


class Stating(NamedTuple):
    """How the prompts of a run say what answers must be.

    Attributes:
        shape: what answers must be; None: any text will do.
        columns: of the table.
    """

    shape: Shape | None
    columns: Sequence[str]

    @property
    def hole(self) -> str:
        """The hole in whose place the labels or the schema stand; empty if there is none."""
        name = "labels" if isinstance(self.shape, Labels) else "schema" if isinstance(self.shape, Schema) else ""
        return "" if name in self.columns else name

    def check(self, holes: Sequence[str], source: str) -> None:
        """Refuse a hole that is meant for the labels or the schema, and would be searched among the columns.

        Args:
            holes: of a template.
            source: the option that gave it, for the message.

        Raises:
            InputError: a hole is a slip for `{labels}` or `{schema}`, or there are no labels or no schema.
        """
        for hole in holes:
            if hole in self.columns or hole == self.hole:
                continue
            if hole in _STANDS_FOR:
                other = f"; {{{self.hole}}} stands for {_STANDS_FOR[self.hole]}" if self.hole else ""
                raise InputError(f"{source}: {{{hole}}} {_LACKING[hole]} ({option(hole)}){other}")
            if self._means_hole(hole):
                raise InputError(
                    f"{source}: the table has no column {hole!r}: did you mean {{{self.hole}}}, which stands for"
                    f" {_STANDS_FOR[self.hole]}?"
                )

    def oddities(self, holes: Sequence[str]) -> list[str]:
        """Return the notes about columns that stand in holes meant for the labels or the schema, by their names."""
        name = "labels" if isinstance(self.shape, Labels) else "schema" if isinstance(self.shape, Schema) else ""
        if name in holes and name in self.columns:
            return [f"{{{name}}} is the column {name!r} of the table here, not {_STANDS_FOR[name]}"]
        if self.hole in holes:
            return []
        return [
            f"{{{hole}}} is the column {hole!r} of the table, which the model reads; {{{self.hole}}} stands for"
            f" {_STANDS_FOR[self.hole]}"
            for hole in dict.fromkeys(holes)
            if self._means_hole(hole)
        ]

    def _means_hole(self, hole: str) -> bool:
        return bool(self.hole and difflib.get_close_matches(hole.lower(), [self.hole], 1, _NEAR))

    def filled(self, template: str) -> str:
        """Return a template with the labels or the schema in their hole."""
        hole = f"{{{self.hole}}}" if self.hole else ""
        if not hole or hole not in template:
            return template
        shape = self.shape
        text = shape.listed if isinstance(shape, Labels) else shape.text if isinstance(shape, Schema) else ""
        parsed = Template.parse(template, "")  # `{{labels}}` is text
        pieces = [_escaped(parsed.literals[0])]
        for name, literal in zip(parsed.holes, parsed.literals[1:], strict=True):
            pieces += [_escaped(text) if name == self.hole else f"{{{name}}}", _escaped(literal)]
        return "".join(pieces)

    def is_stated(self, *templates: str | None) -> bool:
        """Return whether templates, filled, say what answers must be.

        A schema is a part of the request, and is added to the prompt only if a service needs it there.
        """
        texts = ("".join(Template.parse(each, "").literals) for each in templates if each)
        return self._holds(" ".join(texts))

    def completed(self, template: str, *others: str | None) -> str:
        """Return a filled template with the line that states the labels, unless it or others state them."""
        if not isinstance(self.shape, Labels) or self.is_stated(template, *others):
            return template
        return f"{template}\n\n{_escaped(self.shape.line)}"

    def completing(self, render: Renderer, system: str | None = None) -> Renderer:
        """Return a renderer that adds the line to messages that no template makes, unless the system message has them.

        Args:
            render: of a function, or of a column.
            system: the template of the system message.
        """
        shape = self.shape
        if not isinstance(shape, Labels) or (system and self.is_stated(self.filled(system))):
            return render
        line = shape.line
        return lambda values: with_line(render(values), line)

    def _holds(self, text: str) -> bool:
        if isinstance(self.shape, Labels):
            return self.shape.stated_in(text)
        return isinstance(self.shape, Schema) and self.shape.text in text


ANY = Stating(None, ())
"""Of a run whose answers may be any text."""


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")
