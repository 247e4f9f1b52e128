"""Undefined symbols of object files: the linker must resolve them, or the code jumps to address 0."""

from __future__ import annotations

import struct

_LIBM = """exp exp2 expm1 log log2 log10 log1p sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh pow
    fmod cbrt hypot erf erfc lgamma tgamma floor ceil trunc rint nearbyint round copysign fma ldexp fmin fmax sqrt"""
_MEMORY = "memcpy memmove memset memcmp bcmp bzero __bzero _fltused __chkstk"
_ARITHMETIC = """__truncsfhf2 __truncdfhf2 __extendhfsf2 __gnu_f2h_ieee __gnu_h2f_ieee __truncsfbf2 __truncdfbf2
    __powisf2 __powidf2 __multi3 __divti3 __modti3 __udivti3 __umodti3 __floattisf __floattidf __fixsfti __fixdfti"""
#: Functions that a kernel may call: libm, memory and soft arithmetic. No Python, allocation or system calls.
ALLOWED = frozenset(f"{_LIBM} {_MEMORY} {_ARITHMETIC}".split()) | {f"{name}f" for name in _LIBM.split()}


def undefined(data: bytes) -> set[str]:
    """The undefined symbols of a 64-bit ELF, Mach-O or COFF object; ValueError for anything else."""
    try:
        if data[:6] == b"\x7fELF\x02\x01":
            return _elf(data)
        if data[:4] == b"\xcf\xfa\xed\xfe":
            return _mach_o(data)
        if data[:2] in (b"\x64\x86", b"\x64\xaa"):
            return _coff(data)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise ValueError(f"a damaged object file: {error}") from None
    raise ValueError("not an object file of a known format")


def _text(data: bytes, start: int) -> str:
    end = data.find(b"\0", start)
    if start > len(data) or end < 0:
        raise ValueError("a damaged object file: a name outside it")
    return data[start:end].decode()


def _elf(data: bytes) -> set[str]:
    table, size, count = struct.unpack_from("<Q", data, 40)[0], *struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    symbols = set()
    for section in sections:
        if section[1] != 2:  # SHT_SYMTAB
            continue
        names = sections[section[6]][4]
        for offset in range(section[4] + 24, section[4] + section[5], 24):  # the first symbol is a dummy
            name, _, _, section_index = struct.unpack_from("<IBBH", data, offset)
            if section_index == 0:  # SHN_UNDEF
                symbols.add(_text(data, names + name))
    return symbols


def _mach_o(data: bytes) -> set[str]:
    commands = struct.unpack_from("<I", data, 16)[0]
    offset, symbols = 32, set()
    for _ in range(commands):
        kind, size, table, count, names = struct.unpack_from("<IIIII", data, offset)
        if kind == 2:  # LC_SYMTAB
            for i in range(count):
                name, flags, _, _, value = struct.unpack_from("<IBBHQ", data, table + 16 * i)
                # N_UNDF, but neither a debugging entry nor a common block, whose value is its size.
                if not flags & 0xE0 and flags & 0x0E == 0 and value == 0:
                    symbols.add(_text(data, names + name).removeprefix("_"))
        offset += size
    return symbols


def _coff(data: bytes) -> set[str]:
    table, count = struct.unpack_from("<II", data, 8)
    names, symbols, i = table + 18 * count, set(), 0
    while i < count:
        entry = table + 18 * i
        value, section, _, storage, extra = struct.unpack_from("<IhHBB", data, entry + 8)
        if section == 0 and value == 0 and storage in (2, 105):  # external, weak external
            zeros, offset = struct.unpack_from("<II", data, entry)
            short = data[entry : entry + 8].rstrip(b"\0").decode() if zeros else None
            symbols.add(short if short is not None else _text(data, names + offset))
        i += 1 + extra
    return symbols
