"""The options in the help and in the signature of the public functions, for people, editors and notebooks.

Invariant: they are made from `settings.OPTIONS`, as the help of the command line is; nothing is written twice.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from batcher.settings import OPTIONS, Option

P = ParamSpec("P")
T = TypeVar("T")

_COLUMNS = 76  # `help` indents by four


class _Type(str):
    """A type as the code has it; the help shows it without quotation marks."""

    __slots__ = ()

    __repr__ = str.__str__


def with_options(function: Callable[P, T]) -> Callable[P, T]:
    """Show the options of a run by name in a function's signature, and with their help in its docstring.

    Args:
        function: takes the options as `**options`.
    """
    signature = inspect.signature(function)
    own = [each for each in signature.parameters.values() if each.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [each for each in OPTIONS.values() if each.name not in signature.parameters]
    shown = inspect.signature(function).replace(
        parameters=[*map(_unquoted, own), *map(_parameter, options)],
        return_annotation=_Type(signature.return_annotation),
    )
    changed: Any = function
    changed.__signature__ = shown
    changed.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *_help(options)])
    return function


def _unquoted(parameter: inspect.Parameter) -> inspect.Parameter:
    return parameter.replace(annotation=_Type(parameter.annotation))


def _parameter(option: Option) -> inspect.Parameter:
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=_Type(option.type)
    )


def _help(options: list[Option]) -> Iterator[str]:
    """Yield the lines of the options in their groups; a default stands behind the help, if it is not None or False."""
    group = None
    for each in options:
        if each.group is not group:
            group = each.group
            yield f"  {group.partition(' (')[0]}"  # behind it stands how the command line counts them
        text = f"{each.name}: {each.in_python}"
        yield textwrap.fill(text, _COLUMNS, initial_indent=" " * 4, subsequent_indent=" " * 8)
