"""Parses rows of delimited text to correctly rounded float64 numbers, for large files in `deepcore.io.tables`.

A number w·10^q with w < 2^53 and |q| ≤ 22 is one exact product or quotient; others are the 128-bit product of w and a
table of powers of five (D. Lemire, "Number parsing at a gigabyte per second", 2021). Cells that this leaves undecided, or
that are not plain numbers, are reported as doubtful.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from deepcore.kernels.codegen.jit import Kernel
from deepcore.kernels.codegen.kernel import In, Out, Size, args

#: Range of powers of ten for which all results are normal numbers, for w from 1 to 2^64.
_MIN_POWER, _MAX_POWER = -300, 288
_EXACT = 22
_MAX_ROWS = 1 << 18

#: Statuses: all complete rows, or as many as fit; a row of another width; text behind a closing quote.
DONE, RAGGED, AFTER_QUOTE = 0, 1, 2


def _number(tools):
    """number(data, p, tens, fives): (value, end), or (0, -1) if no plain number starts at p."""
    high, zeros = tools.multiply_high(), tools.leading_zeros()
    u = np.uint64
    one, low, top, fraction, ones = u(1), u(0x1FF), u(1 << 53), u((1 << 52) - 1), u((1 << 64) - 1)

    def number(data, p, tens, fives):
        negative = data[p] == 45
        if negative or data[p] == 43:
            p += 1
        w, digits, significant, power = u(0), 0, 0, 0
        while 48 <= data[p] <= 57:
            w = w * u(10) + u(data[p] - 48)
            digits += 1
            significant += 1 if w else 0
            p += 1
        if data[p] == 46:
            p += 1
            while 48 <= data[p] <= 57:
                w = w * u(10) + u(data[p] - 48)
                digits += 1
                significant += 1 if w else 0
                power -= 1
                p += 1
        if digits == 0 or significant > 19:
            return 0.0, -1
        if data[p] == 101 or data[p] == 69:
            p += 1
            is_negative_exponent = data[p] == 45
            if is_negative_exponent or data[p] == 43:
                p += 1
            exponent, digits = 0, 0
            while 48 <= data[p] <= 57:
                exponent = min(10 * exponent + np.int64(data[p] - 48), 100000)
                digits += 1
                p += 1
            if digits == 0:
                return 0.0, -1
            power += -exponent if is_negative_exponent else exponent
        if w == u(0):
            value = 0.0
        elif w < top and -_EXACT <= power <= _EXACT:
            value = np.float64(np.int64(w))
            value = value * tens[power] if power >= 0 else value / tens[-power]
        elif power < _MIN_POWER or power > _MAX_POWER:
            return 0.0, -1
        else:
            shift = zeros(np.int64(w))
            w = w << u(shift)
            index = 2 * (power - _MIN_POWER)
            upper, lower = u(high(np.int64(w), np.int64(fives[index]))), w * fives[index]
            if upper & low == low:
                more = u(high(np.int64(w), np.int64(fives[index + 1])))
                lower += more
                if lower < more:
                    upper += one
            if lower == ones and (power < -27 or power > 55):
                return 0.0, -1
            carry = upper >> u(63)
            drop = carry + u(9)
            m = upper >> drop
            exponent = ((217706 * power) >> 16) + 63 + np.int64(carry) - shift + 1023
            if lower <= one and -4 <= power <= 23 and m & u(3) == one and m << drop == upper:
                m -= one  # a tie: round to even
            m = (m + (m & one)) >> one
            if m >= top:
                m >>= one
                exponent += 1
            value = np.int64((m & fraction) | (u(exponent) << u(52))).view(np.float64)
        return -value if negative else value, p

    return tools.inline(number)


@args(
    data=In(np.uint8), begin=Size, end=Size, mark=Size, width=Size, roles=In(np.int64), numbers=Out(np.float64),
    spans=Out(np.int64), doubtful=Out(np.int64), starts=Out(np.int64), tens=In(np.float64), fives=In(np.uint64),
    state=Out(np.int64), count=Size, texts=Size, max_doubtful=Size, max_rows=Size,
)  # fmt: skip
def _rows(tools):
    """Parse rows from `begin` to `end`, where data[end] is a newline; an incomplete last row is left.

    `count` numbers and `texts` texts per row; at most `max_doubtful` doubtful cells and `max_rows` rows. State: the start
    of the next row, rows, doubtful cells, and the detail of a status.
    """
    number = _number(tools)

    def blank(c, mark):
        return c == 32 or c == 11 or c == 12 or (c == 9 and mark != 9)

    blank = tools.inline(blank)

    def kernel(
        data, begin, end, mark, width, roles, numbers, spans, doubtful, starts, tens, fives, state, count, texts,
        max_doubtful, max_rows
    ):  # fmt: skip
        p, nan = begin, np.nan
        row, doubts, status = 0, 0, 0
        state[0] = p
        while p < end and row < max_rows and doubts + count <= max_doubtful and status == 0:
            start, doubts_before, column = p, doubts, 0
            filled, complete = False, False
            while True:
                while blank(data[p], mark):
                    p += 1
                if mark == 32 and (data[p] == 10 or data[p] == 13):  # trailing blanks are not a cell
                    complete = p < end
                    break
                quoted = data[p] == 34
                escaped = False
                first = p
                close = p + 1
                if quoted:
                    while close < end:
                        if data[close] == 34:
                            if data[close + 1] != 34:
                                break
                            escaped = True
                            close += 1
                        close += 1
                    if close >= end:
                        break
                role = roles[column] if column < width else -1
                plain, empty = False, False
                value = nan
                if quoted or role & 1 == 0:
                    inner = p + 1 if quoted else p
                    while blank(data[inner], mark):
                        inner += 1
                    empty = quoted and inner >= close
                    if role & 1 == 0 and not empty and not escaped:
                        value, stop = number(data, inner, tens, fives)
                        if stop >= 0:
                            after = stop
                            while blank(data[after], mark):
                                after += 1
                            c = data[after]
                            if quoted:
                                plain = after == close
                            else:
                                plain = c == mark or c == 10 or c == 13 or (mark == 32 and after > stop)
                            if plain:
                                p = after
                if quoted:
                    last = close + 1
                    p = last
                    while blank(data[p], mark):
                        p += 1
                    c = data[p]
                    if not (c == mark or c == 10 or c == 13 or (mark == 32 and p > last)):
                        status = 2
                        state[3] = p
                        break
                else:
                    last = p
                    if not plain:
                        while not (data[p] == mark or data[p] == 10 or data[p] == 13):
                            if not blank(data[p], mark):
                                last = p + 1
                            elif mark == 32:
                                break
                            p += 1
                        while blank(data[p], mark):
                            p += 1
                        empty = last == first
                filled = filled or not empty
                if role >= 0:
                    if role & 1:
                        offset = 2 * (row * texts + (role >> 1))
                        spans[offset] = first
                        spans[offset + 1] = last
                    else:
                        numbers[row * count + (role >> 1)] = value if plain else nan
                        if not plain and not empty:
                            offset = 4 * doubts
                            doubtful[offset] = row
                            doubtful[offset + 1] = role >> 1
                            doubtful[offset + 2] = first
                            doubtful[offset + 3] = last
                            doubts += 1
                column += 1
                if data[p] == 10 or data[p] == 13:
                    complete = p < end
                    break
                if mark != 32:
                    p += 1
            if not complete or not filled or column != width:
                doubts = doubts_before
                if status == 0 and complete and filled:
                    status = 1
                    state[3] = column
                if not complete or status:
                    break
            else:
                starts[row] = start
                row += 1
            p += 1
            state[0] = p
        state[1] = row
        state[2] = doubts
        return status

    return kernel


_ROWS = Kernel("csv_rows", _rows)


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """10^0 to 10^22, and 5^q as 128 bits with the highest set, truncated (q ≥ 0) or rounded up (q < 0): high, low, …"""
    fives = []
    for q in range(_MIN_POWER, _MAX_POWER + 1):
        power = 5 ** abs(q)
        size = power.bit_length()
        if q >= 0:
            bits = power << 128 - size if size <= 128 else power >> size - 128
        else:
            bits = (1 << size + 127) // power + 1
        fives += [bits >> 64, bits & (1 << 64) - 1]
    return np.array([10.0**i for i in range(_EXACT + 1)]), np.array(fives, np.uint64)


class ParsedRows(NamedTuple):
    """The rows of a block of text: `numbers` (rows, K), NaN where empty or doubtful; `spans` (rows, T, 2), the start and
    end of each text; `doubtful` (D, 4), each a row, a number's column, and the start and end of its text; `starts` of the
    rows. `next` is the start of the next row, `detail` the number of cells or the position that `status` refers to."""

    status: int
    next: int
    numbers: np.ndarray
    spans: np.ndarray
    doubtful: np.ndarray
    starts: np.ndarray
    detail: int


class Rows:
    """Reads rows of `roles`: for each column -1 to skip it, 2·k for number k, 2·t + 1 for text t; `mark`: the
    delimiter's byte, 32 for runs of blanks."""

    def __init__(self, mark: int, roles: np.ndarray):
        self.mark, self.roles = mark, np.ascontiguousarray(roles, np.int64)
        self.numbers = int(((self.roles >= 0) & (self.roles & 1 == 0)).sum())
        self.texts = int(((self.roles >= 0) & (self.roles & 1 == 1)).sum())

    @staticmethod
    def ready(cached_only: bool = False) -> bool:
        """Whether rows can be read; with `cached_only`, only where that needs no compilation."""
        return _ROWS.is_cached() if cached_only else _ROWS.ready()

    def __call__(self, data: np.ndarray, begin: int, end: int) -> ParsedRows:
        """Parse the complete rows of data[begin:end], bytes with a newline at `end`, up to the maximum number of rows."""
        width = len(self.roles)
        # An upper bound: a row has at least one byte per cell.
        max_rows = min((end - begin) // width + 1, _MAX_ROWS)
        max_doubtful = max(4096, self.numbers)
        numbers = np.empty((max_rows, self.numbers))
        spans = np.empty((max_rows, self.texts, 2), np.int64)
        doubtful, starts, state = (
            np.empty((max_doubtful, 4), np.int64),
            np.empty(max_rows, np.int64),
            np.zeros(4, np.int64),
        )
        tens, fives = _tables()
        status = _ROWS.run(
            data=data, begin=begin, end=end, mark=self.mark, width=width, roles=self.roles, numbers=numbers, spans=spans,
            doubtful=doubtful, starts=starts, tens=tens, fives=fives, state=state, count=self.numbers, texts=self.texts,
            max_doubtful=max_doubtful, max_rows=max_rows,
        )  # fmt: skip
        start, rows, doubts, detail = state.tolist()
        return ParsedRows(status, start, numbers[:rows], spans[:rows], doubtful[:doubts], starts[:rows], detail)
