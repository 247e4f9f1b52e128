"""Tables in text files such as CSV: columns of numbers and of text, selected by name or number.

A file is read in blocks, so reading takes a few megabytes beside the result. A compiled kernel
(`kernels/cpu/csv_rows.py`) parses large files; Python parses small ones, and all where kernels are off; both give the
same table and errors.

The format: UTF-8, with or without a byte-order mark; lines end in LF, CRLF or CR; cells are separated by tabs, semicolons
or commas, whichever all rows agree on, or by blanks where there are none of those. Blanks around a cell are ignored. A
cell may be quoted ("…", with "" for a quote inside), and then contain delimiters and newlines. A row whose cells are all
empty is skipped. A number is decimal ASCII such as -1.5e-3, in the syntax of Python's float() without underscores.
"""

from __future__ import annotations

import codecs
import itertools
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import numpy as np

from deepcore.config import settings
from deepcore.errors import DataError, DeepcoreError, FileFormatError, suggest
from deepcore.io.files import not_utf8, open_regular
from deepcore.io.foreign import identify

#: Spellings of a missing number, beside an empty cell and nan; case-insensitive.
MISSING = frozenset([b"na", b"n/a", b"null", b"none"])
_BLOCK = 1 << 18
_MAX_ROW = 1 << 21
_MAX_COLUMNS = 1 << 16
#: The least file sizes for which compiling the kernel, or loading it from the cache, pays off.
_KERNEL_BYTES, _CACHED_KERNEL_BYTES = 1 << 22, 1 << 17
_SNIFF_ROWS, _SNIFF_MAX_ROWS = 10, 1000
_MAX_CATEGORIES = 1 << 16
#: Possessive, because backtracking would take time quadratic in a cell's length.
_NUMBER = re.compile(
    rb"[+-]?(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?|[+-]?(?:nan|inf|infinity)", re.IGNORECASE
)
#: Rows whose cells are all empty, with any delimiter.
_EMPTY_ROWS = re.compile(rb'(?:(?:[ \t\v\f,;]++|""(?!"))*+[\r\n]++)*+')
_LINE = re.compile(rb"[^\r\n]+")
_QUOTED = rb'"(?:[^"]++|"")*+"'
_MARKS = {b"\t": "tabs", b";": "semicolons", b",": "commas", b" ": "blanks"}


@dataclass
class TextColumn:
    """codes (N,) int32: the index of each row's text in `categories`, or -1 where the cell is empty."""

    codes: np.ndarray
    categories: tuple[str, ...]


@dataclass
class Table:
    """`numbers` (N, K), NaN where missing, and the columns of text, in the requested order."""

    numbers: np.ndarray
    texts: list[TextColumn]

    def __len__(self) -> int:
        return len(self.numbers)


class _Block(NamedTuple):
    """The complete rows of some text: `numbers` (n, K) float64, the cells of each column of text, the offsets of rows and
    of the next row. `fault`: the invalid number or row that ended the block."""

    numbers: np.ndarray
    texts: list[list[bytes]]
    starts: Sequence[int] | np.ndarray
    next: int
    fault: _Fault | None


class _Fault(NamedTuple):
    kind: str
    at: int
    column: int = 0
    cell: bytes = b""


class TableFile:
    """A table in a file; opening it reads the names and number of its columns.

    names: the column names in the first row, or None. The first row is names if `header` is true, or, with None, if none
    of its cells is a number or it contains all of `expected_names`. `width`: the number of columns.

    Errors: `FileFormatError` for a file that is not UTF-8 text or not a table, `DataError` for one without rows.
    """

    def __init__(self, path, header: bool | None = None, expected_names: Collection[str] = ()):
        self.path = str(path)
        self.names: tuple[str, ...] | None = None
        with open_regular(path) as file:
            self._head(file, header, expected_names)

    # -- columns ------------------------------------------------------------------------------------------
    def column(self, column: int | str) -> int:
        """The number of a column, from 0, by its number (-1 is the last) or name."""
        if isinstance(column, str):
            if self.names is None or column not in self.names:
                fix = "the file has no column names: give the column's number"
                fix = fix if self.names is None else suggest(column, self.names[:1000])
                raise DataError(f"{self.path!r} has no column {column!r}", fix=fix)
            if self.names.count(column) > 1:
                numbers = [str(i) for i, name in enumerate(self.names) if name == column]
                raise DataError(
                    f"{self.path!r} has several columns named {column!r}",
                    received=f"columns {', '.join(numbers)}, counted from 0",
                    fix="rename all but one",
                )
            return self.names.index(column)
        if not -self.width <= column < self.width:
            raise DataError(f"{self.path!r} has no column {column}", expected=f"0 to {self.width - 1}")
        return column % self.width

    def label(self, column: int) -> str:
        """The name of a column in messages."""
        return f"column {column + 1}" + (f" ({_shown(self.names[column])})" if self.names else "")

    def _key(self, column: int) -> str:
        return str(column) if self.names is None else json.dumps(self.names[column][:40], ensure_ascii=False)

    # -- reading ------------------------------------------------------------------------------------------
    def read(
        self,
        numbers: Sequence[int],
        texts: Mapping[int, Sequence[str] | None] | None = None,
        missing: Collection[int] = (),
        number_fix: Callable[[list[int]], str] = lambda columns: "leave out columns of text",
        missing_fix: Callable[[int], str] = lambda column: "fill in missing values, or leave out the row",
        distinct: Collection[int] = (),
        dtype=np.float32,
        missing_texts: Collection[str] = (),
    ) -> Table:
        """Read columns by number: `numbers` as `dtype`, `texts` as categories, either given or collected (None).

        distinct: columns of text, such as ids, of which row i's is `categories[i]`, however often that occurs.
        missing_texts: more spellings of what is missing, such as "?", of numbers and of categories that are collected.
        missing: the columns where a cell may be empty, or a number NaN. number_fix(the columns of text in that row) and
        missing_fix(the column) give the fix in errors for text among numbers and for missing cells.

        Errors: `DataError` with line and column for a row of another width, a cell that is not a number, not finite or
        missing, or a text that is not among the given categories; `FileFormatError` as above.
        """
        texts = texts or {}
        roles = np.full(self.width, -1, np.int64)
        for k, column in enumerate(numbers):
            roles[column] = 2 * k
        for t, column in enumerate(texts):
            roles[column] = 2 * t + 1
        spellings = MISSING | {text.lower().encode() for text in missing_texts}
        parse = self._parser(roles, len(numbers), len(texts), spellings)
        absent = frozenset(missing_texts)
        codes = [_Cells() if column in distinct else _Codes(names, absent) for column, names in texts.items()]
        required = np.array([column not in missing for column in numbers], bool)
        parts: list[np.ndarray] = []
        for data, base, block in self._blocks(parse):
            with np.errstate(over="ignore"):
                values = block.numbers.astype(dtype)
            finite = np.isfinite(values)
            if not finite.all():
                bad = ~finite & (required | ~np.isnan(values))
                for row, k in np.argwhere(bad)[:1].tolist():
                    raise self._not_finite(data, base, int(block.starts[row]), numbers[k], missing_fix, spellings)
            parts.append(values)
            for column, column_codes, cells in zip(texts, codes, block.texts, strict=True):
                try:
                    new_codes = column_codes.add(cells)
                except _TooManyError:
                    raise DataError(
                        f"{self.path!r} has more than {_MAX_CATEGORIES:,} different texts in {self.label(column)}",
                        fix=f"leave it out, if it is an id or free text: ignore = [{self._key(column)}] in [data]",
                    ) from None
                for row in np.flatnonzero(new_codes < (-1 if column in missing else 0))[:1].tolist():
                    position = self._position(base + int(block.starts[row]), column)
                    text = "" if new_codes[row] == -1 else _text(cells[row])
                    raise self._no_category(text, column_codes.names, position, missing_fix(column))
            if block.fault is not None:
                raise self._error(block.fault, data, base, numbers, number_fix, spellings)
        values = np.concatenate(parts) if parts else np.empty((0, len(numbers)), dtype)
        return Table(values, [column_codes.column() for column_codes in codes])

    def _parser(self, roles: np.ndarray, numbers: int, texts: int, spellings: Collection[bytes] = MISSING):
        minimum = min(_KERNEL_BYTES, _CACHED_KERNEL_BYTES)
        if settings.kernels and self._size >= minimum:
            from deepcore.kernels.cpu import csv_rows

            if csv_rows.Rows.ready(cached_only=self._size < _KERNEL_BYTES):
                rows = csv_rows.Rows(self._mark[0], roles)
                return lambda data, begin, end: _parse_by_kernel(rows, spellings, data, begin, end)
        mark, role_list = self._mark, roles.tolist()
        return lambda data, begin, end: _parse_by_python(mark, role_list, numbers, texts, spellings, data, begin, end)

    def _blocks(self, parse) -> Iterator[tuple[bytes, int, _Block]]:
        """Yield (text, its offset in the file, its `_Block`) for each block."""
        with open_regular(self.path) as file:
            file.seek(self._begin)
            check = _Utf8Check(self, self._begin)
            remainder, base, size = b"", self._begin, _BLOCK
            while True:
                block = file.read(size)
                check(block)
                # A newline after the end stops every loop; the last row may lack its own.
                data = b"".join((remainder, block or b"\n", b"\n"))
                begin, end = 0, len(data) - 1
                while begin < end:
                    rows_block = parse(data, begin, end)
                    if len(rows_block.starts) or rows_block.fault:
                        yield data, base, rows_block
                    if rows_block.next == begin:
                        break
                    begin = rows_block.next
                remainder, base = data[begin:end], base + begin
                if not block or len(remainder) > _MAX_ROW:
                    break
                size = max(_BLOCK, len(remainder))
        if remainder:
            raise self._too_long(base)

    # -- the first rows -----------------------------------------------------------------------------------
    def _head(self, file: BinaryIO, header: bool | None, expected_names: Collection[str]) -> None:
        foreign = identify(file.read(512), "")
        if foreign is not None:
            raise FileFormatError(
                f"{self.path!r} is {foreign[0]}, and no table in text", fix="save it as CSV, in UTF-8"
            )
        self._size = file.seek(0, 2)
        file.seek(0)
        data = file.read(3)
        self._begin = 3 if data == codecs.BOM_UTF8 else 0
        check = _Utf8Check(self, 0)
        check(data)
        size, ended, undetermined = 1 << 16, False, False
        rows: list[tuple[int, list[bytes], int]] = []
        data = data[self._begin :]
        while len(rows) < 3 and not ended and not undetermined:
            block = file.read(size)
            check(block)
            data += block or b"\n"
            ended = not block
            empty = _empty_rows(data)
            if empty:
                self._begin, data = self._begin + empty, data[empty:]
            if b"\n" in data or b"\r" in data:
                self._mark, rows, fault, undetermined = self._sniff(data)
                if fault is not None:
                    raise self._error(fault, data, self._begin, (), None)
            if len(data) > _MAX_ROW + _BLOCK:
                raise self._too_long(self._begin + (rows[-1][2] if rows else 0))
            size = max(size, 3 * len(data))
        if not rows:
            raise self._too_long(self._begin) if b'"' in data else DataError(f"{self.path!r} holds no rows")
        _, cells, following = rows[0]
        self.width = len(rows[-1 if len(rows) == 1 else 1][1])
        names = tuple(_text(cell) for cell in cells)
        if header is None:
            header = (bool(expected_names) and set(expected_names) <= set(names)) or not any(map(_is_number, cells))
        if header:
            self._begin += following
            if self._mark == b" ":  # numpy.savetxt writes "# x y"
                names = tuple(name for name in (names[0].lstrip("#"), *names[1:]) if name)
            if self._mark != b" " or len(names) == self.width:
                self.names, self.width = names, len(names)
            if len(rows) < 2 and not undetermined:
                raise DataError(f"{self.path!r} holds no rows below its column names")
        else:
            self.width = len(cells)

    def _sniff(self, data: bytes) -> tuple[bytes, list[tuple[int, list[bytes], int]], _Fault | None, bool]:
        """(delimiter, the first rows, the fault of the row after them, whether more text would not help because so many
        empty rows follow)."""
        candidates: dict[bytes, tuple[list, _Fault | None, bool]] = {}
        for mark in (b"\t", b";", b",", b" "):
            if mark not in data and mark != b" ":
                continue
            rows: list[tuple[int, list[bytes], int]] = []
            fault, row_count = None, 0
            for row in _rows(data, mark, 0, len(data)):
                if isinstance(row, _Fault):
                    fault = row
                    break
                row_count += 1
                if row[1]:
                    rows.append(row)
                if len(rows) == _SNIFF_ROWS or (rows and row_count >= _SNIFF_MAX_ROWS):
                    break
            reached_limit = row_count >= _SNIFF_MAX_ROWS
            candidates[mark] = rows, fault, reached_limit
            widths = {len(cells) for _, cells, _ in rows}
            if fault is None and len(widths) == 1 < min(widths):
                return mark, rows, None, reached_limit
        # Where no delimiter gives rows of one width, the first row decides.
        rows = candidates[b" "][0]
        first = data[rows[0][0] : rows[0][2]] if rows else data
        mark = next((mark for mark in (b",", b";", b"\t") if mark in first), b" ")
        return mark, *candidates[mark]

    # -- errors -------------------------------------------------------------------------------------------
    def _position(self, offset: int, column: int | None = None) -> str:
        return f"line {self.line(offset)}" + ("" if column is None else f", {self.label(column)}")

    def line(self, offset: int) -> int:
        """The line number, from 1, of byte `offset`."""
        lines, last = 1, b""
        with open_regular(self.path) as file:
            while offset > 0 and (block := file.read(min(offset, _BLOCK))):
                lines += block.count(b"\n") + block.count(b"\r") - (last + block).count(b"\r\n")
                offset, last = offset - len(block), block[-1:]
        return lines

    def _too_long(self, offset: int) -> FileFormatError:
        return FileFormatError(
            f"{self.path!r} has a row that does not end",
            expected=f"at most {_MAX_ROW:,} bytes",
            received=f"more from {self._position(offset)} on",
            fix='close the quote (") that the row opens',
        )

    def _error(
        self, fault: _Fault, data: bytes, base: int, numbers: Sequence[int], number_fix, spellings=MISSING
    ) -> DeepcoreError:
        line = self._position(base + fault.at)
        if fault.kind == "quote":
            return FileFormatError(
                f"{self.path!r} has text behind a closing quote",
                received=f"in {line}",
                fix='write a quote inside a quoted cell twice: "say ""so"""',
            )
        if fault.kind == "columns":
            return FileFormatError(
                f"{self.path!r} has too many columns",
                expected=f"at most {_MAX_COLUMNS:,}",
                received=f"more in {line}",
                fix="store it as NPY: numpy.save",
            )
        if fault.kind == "width":
            first = "as the first row names" if self.names else "as in the first row"
            return DataError(
                f"{self.path!r} has rows of different lengths",
                expected=f"{self.width} cells, separated by {_MARKS[self._mark]}, {first}",
                received=f"{fault.column} in {line}",
                fix="quote a cell that holds the delimiter",
            )
        cells, column, text = self._cells(data, fault.at), numbers[fault.column], _text(fault.cell)
        comma = re.fullmatch(r"[+-]?\d+,\d+", text)
        return DataError(
            f"{self.path!r} has a value that is not a number",
            received=f"{_shown(text)} in {line}, {self.label(column)}",
            fix="write numbers with a point: 1.5"
            if comma
            else number_fix([c for c in sorted(numbers) if number_in(cells[c], spellings) is None]),
        )

    def _cells(self, data: bytes, start: int) -> list[bytes]:
        row = next(_rows(data, self._mark, start, len(data)))
        assert not isinstance(row, _Fault)
        return row[1]

    def _not_finite(self, data: bytes, base: int, start: int, column: int, missing_fix, spellings) -> DataError:
        cell = self._cells(data, start)[column]
        received = f"{_shown(_text(cell))} in {self._position(base + start, column)}"
        value = number_in(cell, spellings)
        if value is None or math.isnan(value):
            return DataError(f"{self.path!r} has a missing value", received=received, fix=missing_fix(column))
        return DataError(
            f"{self.path!r} has a number that is infinite, or too large for float32",
            expected=f"at most {np.finfo(np.float32).max:.4g}",
            received=received,
            fix="correct it, or leave out the row",
        )

    def _no_category(self, text: str, names: Collection[str], position: str, missing_fix: str) -> DataError:
        if not text:
            return DataError(f"{self.path!r} has a missing value", received=f"'' in {position}", fix=missing_fix)
        return DataError(
            f"{self.path!r} has a text that is none of its column's categories",
            expected=_list_names(names),
            received=f"{_shown(text)} in {position}",
            fix="correct it, or leave out the row",
        )


def read_numbers(path) -> np.ndarray:
    """All columns of a table of numbers, (N, width) float32; column names are skipped."""
    file = TableFile(path)
    return file.read(range(file.width)).numbers


# -- rows by Python -----------------------------------------------------------------------------------------
def _blanks(mark: bytes) -> bytes:
    return b" \v\f" if mark == b"\t" else b" \t\v\f"


_PATTERNS: dict[bytes, tuple[re.Pattern, re.Pattern]] = {}


def _patterns(mark: bytes) -> tuple[re.Pattern, re.Pattern]:
    """Patterns of a cell with its end, and of a quoted cell followed by anything."""
    if mark not in _PATTERNS:
        blank = b"[" + _blanks(mark) + b"]"
        if mark == b" ":
            cell = rb'(?:(%b)|([^" \t\v\f\r\n][^ \t\v\f\r\n]*+))?+(%b*+[\r\n]|(?<=[^ \t\v\f])%b++)' % (
                _QUOTED,
                blank,
                blank,
            )
        else:
            cell = rb'(?:(%b)%b*+|((?!")[^%b\r\n]*+))([%b\r\n])' % (_QUOTED, blank, mark, mark)
        _PATTERNS[mark] = (re.compile(blank + b"*+" + cell), re.compile(b"%b*+%b%b*+" % (blank, _QUOTED, blank)))
    return _PATTERNS[mark]


def _rows(data: bytes, mark: bytes, begin: int, end: int) -> Iterator[tuple[int, list[bytes], int] | _Fault]:
    """Yield (start, cells, next) of each complete row: cells are stripped, quoted ones keep their quotes; [] where all are
    empty."""
    blanks, separator = _blanks(mark), None if mark == b" " else mark
    if data.find(b'"', begin, end) < 0:
        last = max(data.rfind(b"\n", begin, end), data.rfind(b"\r", begin, end))
        spaced = any(data.find(blank, begin, end) >= 0 for blank in (b" ", b"\t", b"\v", b"\f"))
        for line in _LINE.finditer(data, begin, max(last, begin)):
            cells = line[0].split(separator, _MAX_COLUMNS)
            if spaced:
                cells = [cell.strip(blanks) for cell in cells]
            if len(cells) > _MAX_COLUMNS:
                yield _Fault("columns", line.start())
                return
            yield line.start(), cells if any(cells) else [], line.end() + 1
        if last >= begin:
            yield last, [], last + 1
        return
    pattern, quoted = _patterns(mark)
    while begin < end:
        start, cells = begin, []
        while True:
            match = pattern.match(data, begin, end)
            if match is None:
                behind = quoted.match(data, begin, end)
                if behind is not None and behind.end() < end:
                    yield _Fault("quote", behind.end())
                return
            cell = match[1] or match[2]
            if cell or separator:
                cells.append(cell.rstrip(blanks) if match[1] is None else cell)
            begin = match.end()
            if match[3][-1:] in (b"\r", b"\n"):
                break
            if len(cells) > _MAX_COLUMNS:
                yield _Fault("columns", start)
                return
        yield start, [] if all(map(_is_empty, cells)) else cells, begin


def _empty_rows(data: bytes) -> int:
    """The offset of the first non-empty row, for any delimiter."""
    count = len(data) - len(data.lstrip(b" \t\v\f,;\r\n"))
    count = max(data.rfind(b"\n", 0, count), data.rfind(b"\r", 0, count)) + 1
    match = _EMPTY_ROWS.match(data, count)
    return count if match is None else match.end()


def _parse_by_python(
    mark: bytes,
    roles: list[int],
    numbers: int,
    texts: int,
    spellings: Collection[bytes],
    data: bytes,
    begin: int,
    end: int,
) -> _Block:
    width = len(roles)
    order = [column for column in sorted(range(width), key=lambda c: roles[c]) if roles[column] >= 0]
    number_columns = [c for c in order if roles[c] % 2 == 0]
    text_columns = [c for c in order if roles[c] % 2]
    plain = not data[begin:end].translate(None, b"0123456789+-.eE\r\n" + _blanks(mark) + mark)
    if plain and not texts and mark != b" ":
        block = _plain_numbers(mark, roles, data, begin, end)
        if block is not None:
            return block
    all_numbers = number_columns == list(range(width))
    values: list[list[float]] = []
    columns: list[list[bytes]] = [[] for _ in range(texts)]
    starts: list[int] = []
    fault = None
    for row in _rows(data, mark, begin, end):
        if isinstance(row, _Fault):
            fault = row
            break
        start, cells, following = row
        if not cells:
            begin = following
            continue
        if len(cells) != width:
            fault = _Fault("width", start, len(cells))
            break
        try:
            if not plain:
                raise ValueError
            row_numbers = list(map(float, cells if all_numbers else map(cells.__getitem__, number_columns)))
        except ValueError:
            row_numbers = []
            for k, c in enumerate(number_columns):
                value = number_in(cells[c], spellings)
                if value is None:
                    fault = _Fault("number", start, k, cells[c])
                    break
                row_numbers.append(value)
            if fault:
                break
        values.append(row_numbers)
        starts.append(start)
        for column, c in zip(columns, text_columns):
            column.append(cells[c])
        begin = following
    return _Block(np.array(values, np.float64).reshape(len(values), numbers), columns, starts, begin, fault)


def _plain_numbers(mark: bytes, roles: list[int], data: bytes, begin: int, end: int) -> _Block | None:
    """The fast path for rows of numbers without blanks, quotes and carriage returns; None where it does not apply."""
    end = data.rfind(b"\n", begin, end) + 1
    text = data[begin:end]
    if not text or any(c in text for c in (b"\r", *map(bytes, zip(_blanks(mark))))):
        return None
    codes = np.frombuffer(text, np.uint8)
    marks = np.flatnonzero((codes == mark[0]) | (codes == 10))
    if len(marks) % len(roles) or ((np.arange(1, len(marks) + 1) % len(roles) == 0) != (codes[marks] == 10)).any():
        return None
    try:
        values = np.array(list(map(float, text.replace(mark, b"\n").split(b"\n")[:-1])), np.float64)
    except ValueError:
        return None
    order = sorted((role, column) for column, role in enumerate(roles) if role >= 0)
    starts = begin + np.concatenate(([0], marks[len(roles) - 1 :: len(roles)][:-1] + 1))
    return _Block(values.reshape(-1, len(roles))[:, [column for _, column in order]], [], starts, end, None)


def _parse_by_kernel(rows, spellings: Collection[bytes], data: bytes, begin: int, end: int) -> _Block:
    from deepcore.kernels.cpu import csv_rows

    parsed = rows(np.frombuffer(data, np.uint8), begin, end)
    count, fault = len(parsed.numbers), None
    if parsed.status == csv_rows.RAGGED:
        fault = _Fault("width", parsed.next, parsed.detail)
    elif parsed.status == csv_rows.AFTER_QUOTE:
        fault = _Fault("quote", parsed.detail)
    for row, k, start, stop in parsed.doubtful.tolist():
        value = number_in(data[start:stop], spellings)
        if value is None:
            fault = _Fault("number", int(parsed.starts[row]), k, data[start:stop])
            count = row
            break
        parsed.numbers[row, k] = value
    texts = [[data[start:stop] for start, stop in parsed.spans[:count, t].tolist()] for t in range(rows.texts)]
    return _Block(parsed.numbers[:count], texts, parsed.starts[:count], parsed.next, fault)


# -- cells ----------------------------------------------------------------------------------------------------
def _unquote(cell: bytes) -> bytes:
    """A cell without its quotes."""
    return cell[1:-1].replace(b'""', b'"').strip(b" \t\v\f") if cell.startswith(b'"') else cell


def _text(cell: bytes) -> str:
    return _unquote(cell).decode()


def _is_empty(cell: bytes) -> bool:
    return not cell or (cell[:1] == b'"' and not _unquote(cell))


def _is_number(cell: bytes) -> bool:
    return _NUMBER.fullmatch(_unquote(cell)) is not None


def number_in(cell: bytes, spellings: Collection[bytes] = MISSING) -> float | None:
    """The number in a cell, NaN where it is missing, None where it is not a number."""
    cell = _unquote(cell)
    if _NUMBER.fullmatch(cell):
        return float(cell)
    return float("nan") if not cell or cell.lower() in spellings else None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


def _list_names(names: Collection[str]) -> str:
    return ", ".join(map(_shown, itertools.islice(names, 10))) + (", …" if len(names) > 10 else "")


class _TooManyError(Exception):
    """A column has too many different texts for categories."""


class _Codes:
    """Codes of texts: indices into `categories`, or by first occurrence. -1: empty; -2: not a category."""

    def __init__(self, categories: Sequence[str] | None, absent: Collection[str] = ()):
        self._absent = absent
        self.names = {name: i for i, name in enumerate(categories or ())}
        self._open = categories is None
        self._cells: dict[bytes, int] = {}
        self._parts: list[np.ndarray] = []

    def add(self, cells: list[bytes]) -> np.ndarray:
        for cell in dict.fromkeys(cells):
            if cell not in self._cells:
                if len(self._cells) == _MAX_CATEGORIES:
                    raise _TooManyError
                self._cells[cell] = self._code(_text(cell))
        codes = np.fromiter(map(self._cells.__getitem__, cells), np.int32, len(cells))
        self._parts.append(codes)
        return codes

    def _code(self, name: str) -> int:
        if not name or (self._open and name in self._absent):
            return -1
        return self.names.setdefault(name, len(self.names)) if self._open else self.names.get(name, -2)

    def column(self) -> TextColumn:
        return TextColumn(np.concatenate(self._parts) if self._parts else np.empty(0, np.int32), tuple(self.names))


class _Cells:
    """All texts of a column, in the order of rows. -1: empty."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}
        self._texts: list[str] = []

    def add(self, cells: list[bytes]) -> np.ndarray:
        texts = [_text(cell) for cell in cells]
        self._texts += texts
        return np.array([0 if text else -1 for text in texts], np.int32)

    def column(self) -> TextColumn:
        return TextColumn(np.arange(len(self._texts), dtype=np.int32), tuple(self._texts))


class _Utf8Check:
    """Raises for bytes that are not UTF-8 text; called with each block, and with an empty one at the end."""

    def __init__(self, table: TableFile, offset: int):
        self._table, self._offset = table, offset
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def __call__(self, block: bytes) -> None:
        table = self._table
        if self._offset == 0 and block[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
            raise not_utf8(table.path, block, 0, 1)
        zero = block.find(b"\0")
        if zero >= 0:
            raise FileFormatError(
                f"{table.path!r} holds a null byte, so it is no text",
                received=f"in {table._position(self._offset + zero)}",
                fix="give a CSV file",
            )
        pending = self._decoder.getstate()[0]
        try:
            self._decoder.decode(block, not block)
        except UnicodeDecodeError as error:
            text = pending + block
            line = table.line(self._offset - len(pending) + error.start)
            raise not_utf8(table.path, text, error.start, line) from None
        self._offset += len(block)
