"""Texts made of the columns of a row: `{question}\\nAnswer:`."""

from collections.abc import Iterator
from dataclasses import dataclass
from string import Formatter

from diffpo.core.errors import UserError
from diffpo.tasks.datasets import Row, shortened, there_are


@dataclass(frozen=True)
class RowTemplate:
    """A text in which `{column}` stands for a column's value, and `{{` and `}}` for braces.

    It is filled in and nothing else: `{}`, `{a!r}` and `{a:>9}` of Python's format strings are refused, and `{a.b}` is
    the column of that name.
    """

    text: str
    option: str
    """The recipe's key that holds it, for messages."""

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with the text, before there are rows."""
        try:
            pieces = [*Formatter().parse(self.text)]
        except ValueError as error:
            yield f"{error}; write {{column}} for a column, and {{{{ and }}}} for braces"
            return
        columns = [piece for piece in pieces if piece[1] is not None]
        if not columns:
            yield "names no column, so that it is the same for every row; write {column} where its text should be"
        for _, column, spec, conversion in columns:
            if not column or spec or conversion:
                written = f"{{{column}{f'!{conversion}' if conversion else ''}{f':{spec}' if spec else ''}}}"
                yield f"{written} is no column; write {{column}} alone, and {{{{ and }}}} for braces"

    def fill(self, row: Row) -> str:
        """Return the text of a row. Raises UserError for a column that it lacks, or that holds no text or number."""
        return "".join(
            before if column is None else before + self._value(row, column)
            for before, column, _, _ in Formatter().parse(self.text)
        )

    def _value(self, row: Row, column: str) -> str:
        if not row.has(column):
            raise UserError(
                f"{row.location}: {self.option} names column {column!r}, which is not there; {there_are(row, column)}"
            )
        value = row.columns[column]
        if not isinstance(value, str | int | float):
            raise UserError(
                f"{row.location}: {self.option} needs a text or a number in column {column!r}, got {shortened(value)}"
            )
        return str(value)
