"""Hostile inputs made of valid ones: bytes changed anywhere, and values changed where the format has them.

Each function takes the random numbers that it draws from, so an input is a function of its seed alone.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

Mutation = Callable[[random.Random, bytes, Sequence[bytes]], bytes]
"""(random numbers, an input, all valid inputs of the reader) -> another input."""

_DEEP = 3000  # levels: beyond what Python's recursion allows, and short
_HOSTILE_BYTES = (
    b"\0",
    b"\r",
    b"\r\n",
    b"\n\n\n",
    b"\t",
    b'"',
    b"\\",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xfe\xff\0\0",
    b"\x1f\x8b\x08\0",
    b"\xc3",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    "\u2028\u202e\u00a0".encode(),
    b"\\ud800",
    b"-1",
    b"9" * 400,
    b"9" * 5000,
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"../../etc/passwd",
    b"/etc/passwd",
    b"%s%n{0}{x}",
    b"[" * _DEEP,
    b'{"a":' * _DEEP,
    b"#",
    b"=",
    b",",
    b";",
)
_HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    3,
    255,
    2**16,
    2**31,
    2**32,
    2**63,
    -(2**63) - 1,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    " ",
    "\0",
    "\ud800",
    "\udfff tail",
    "\ufeff",
    "\u202e\u2028",
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "~root",
    "file:///etc/passwd",
    "x" * 5000,
    "1",
    "-1",
    "nan",
    "O",
    "B-PER",
    "__class__",
    [],
    {},
    [[]],
    [None],
    [1, 2],
    ["a", 1],
    {"": None},
    {"a": {"b": []}},
    [0] * 3000,
)
_NUMBERS = (b"0", b"-1", b"1e999", b"-1e999", b"1.5", b"4294967296", b"18446744073709551616", b"9" * 400, b"NaN")


def of_bytes(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Returns the input with one change that knows no format: bits, a cut, a splice, a repeat, hostile bytes."""
    kind = draw.randrange(9)
    at = draw.randrange(len(data) + 1)
    if kind == 0 and data:
        changed = bytearray(data)
        for _ in range(draw.choice((1, 1, 2, 8))):
            changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        return bytes(changed)
    if kind == 1:
        return data[:at] if draw.random() < 0.7 else data[at:]
    if kind == 2:
        other = draw.choice(seeds)
        return data[:at] + other[draw.randrange(len(other) + 1) :]
    if kind == 3:
        size = draw.choice((1, 4, 16, 64))
        return data[:at] + data[at : at + size] * draw.choice((2, 3, 50)) + data[at + size :]
    if kind == 4:
        return data[:at] + data[at + draw.choice((1, 1, 2, 5, 20)) :]
    if kind == 5:
        return data[:at] + draw.randbytes(draw.choice((1, 2, 8))) + data[at:]
    if kind == 6 and data:
        size = draw.choice((1, 2, 4, 8))
        return data[:at] + draw.choice((b"\0", b"\xff", b"\x7f")) * size + data[at + size :]
    return data[:at] + draw.choice(_HOSTILE_BYTES) + data[at:]


def of_lines(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Returns the input with its lines or their cells moved, repeated or left out, or with another line end."""
    kind = draw.randrange(8)
    if kind == 0:
        return data.replace(b"\n", draw.choice((b"\r", b"\r\n", b"\r\r\n", b"\n\n", b"\x0b", "\u2028".encode())))
    if kind == 1:
        encoding = draw.choice(("utf-16", "utf-32", "utf-16-le", "utf-8-sig", "cp1252"))
        return data.decode("utf-8", "replace").encode(encoding, "replace")
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    if kind == 2:
        lines[at:at] = [lines[draw.randrange(len(lines))]] * draw.choice((1, 2, 30))
    elif kind == 3:
        del lines[at]
    elif kind == 4:
        lines.insert(at, draw.choice(draw.choice(seeds).split(b"\n")))
    else:
        mark = draw.choice((b"\t", b" ", b","))
        cells = lines[at].split(mark)
        cell = draw.randrange(len(cells))
        if kind == 5:
            cells[cell] = draw.choice((b"", *_HOSTILE_BYTES))
        elif kind == 6:
            cells[cell:cell] = [cells[draw.randrange(len(cells))]]
        else:
            del cells[cell]
        lines[at] = mark.join(cells)
    return b"\n".join(lines)


def of_json(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Returns JSON with one value, key or element changed; `data` is valid JSON, else its bytes are changed."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return of_bytes(draw, data, seeds)
    holder = [value]
    places = list(_places(holder))
    container, key = draw.choice(places)
    kind = draw.randrange(10)
    if kind <= 3:
        container[key] = draw.choice(_HOSTILE_VALUES)
    elif kind == 4 and container is not holder:
        del container[key]
    elif kind == 5:
        container[key] = _near(draw, container[key])
    elif kind == 6:
        container[key] = draw.choice(([container[key]], {"a": container[key]}, str(container[key])))
    elif kind == 7:
        other, name = draw.choice(places)
        container[key] = json.loads(json.dumps(other[name]))
    elif kind == 8 and isinstance(container, dict):
        container[draw.choice((str(key).upper(), f"{key}s", "", "../x", "\ud800", "a.b"))] = container.pop(key)
    elif isinstance(container, list) and container is not holder:
        container[key:key] = [container[key]] * draw.choice((1, 2, 100))
    else:
        return _raw_number(draw, data)
    return json.dumps(holder[0], ensure_ascii=draw.random() < 0.8).encode("utf-8", "surrogatepass")


def of_json_lines(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Returns JSON a line with the value of one line changed."""
    lines = data.split(b"\n")
    at = draw.randrange(len(lines))
    lines[at] = of_json(draw, lines[at], seeds) if lines[at] else draw.choice(_HOSTILE_BYTES)
    return b"\n".join(lines)


def of_header(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Returns a safetensors file with a length that lies, or another header; its length is right most of the time."""
    length = int.from_bytes(data[:8], "little")
    header, rest = data[8 : 8 + length], data[8 + length :]
    if draw.random() < 0.15:
        claimed = draw.choice((0, 1, 7, length - 1, length + 1, len(data), 100_000_001, 2**32, 2**63, 2**64 - 1))
        return min(max(claimed, 0), 2**64 - 1).to_bytes(8, "little") + data[8:]
    header = of_json(draw, header, [header]) if draw.random() < 0.8 else of_bytes(draw, header, [header])
    return len(header).to_bytes(8, "little") + header + rest


def of_array_header(draw: random.Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Returns an .npy file whose header says another shape, type or order than the numbers after it have."""
    end = data.find(b"\n") + 1
    header = data[10:end].strip()
    kind = draw.randrange(5)
    if kind == 0:
        shape = draw.choice(
            (b"(2305843009213693952,)", b"(-1,)", b"(0,)", b"()", b"(99999999999, 99999)", b"(1, 1, 1)")
        )
        header = header[: header.find(b"(")] + shape + header[header.find(b")") + 1 :]
    elif kind == 1:
        kinds = (b"'|O'", b"'<f2'", b"'<c16'", b"'|S9'", b"[('a', '<f4')]", b"'<U1000000000'", b"'|V0'", b"7", b"'no'")
        first = header.find(b"'", header.find(b":"))
        header = header[:first] + draw.choice(kinds) + header[header.find(b"'", first + 1) + 1 :]
    elif kind == 2:
        header = header.replace(b"False", draw.choice((b"True", b"None", b"'x'", b"__import__('os')")))
    elif kind == 3:
        header = of_bytes(draw, header, [header])
    else:
        return data[:6] + bytes([draw.randrange(5), draw.randrange(3)]) + data[8:]
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    return data[:8] + (len(padded) % 2**16).to_bytes(2, "little") + padded + data[end:]


def mutated(draw: random.Random, seeds: Sequence[bytes], mutations: Sequence[Mutation]) -> bytes:
    """Returns a hostile input: one of the valid ones with one change, or up to four; rarely it is left as it is."""
    data = draw.choice(seeds)
    for _ in range(draw.choice((1, 1, 1, 1, 2, 2, 3, 4)) if draw.random() > 0.01 else 0):
        data = draw.choice(mutations)(draw, data, seeds)
        if len(data) > 2**20:  # what is long is made by a reader's own seeds; here time goes into variety
            data = data[: 2**20]
    return data


def _places(node: Any) -> Any:
    """Yields (container, key) of every value below a list or dictionary."""
    for key in range(len(node)) if isinstance(node, list) else list(node):
        yield node, key
        if isinstance(node[key], list | dict):
            yield from _places(node[key])


def _near(draw: random.Random, value: Any) -> Any:
    """Returns a value of the same kind that is only a little wrong."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return draw.choice(
            (-value, value + 1, value - 1, value * 1000, value / 2 if abs(value) < 1e300 else 0.5, str(value))
        )
    if isinstance(value, str):
        at = draw.randrange(len(value) + 1)
        return draw.choice((value[:at], value + value, value[:at] + draw.choice("\0\ud800 /\n|#%") + value[at:]))
    if isinstance(value, list):
        return draw.choice((value[:-1], value + value, value[::-1], dict.fromkeys(map(str, range(3)), value)))
    return list(value) if isinstance(value, dict) else value


def _raw_number(draw: random.Random, data: bytes) -> bytes:
    """Returns JSON text with a number in it written as another one, which Python's own writer would not write."""
    starts = [at for at in range(1, len(data)) if data[at : at + 1].isdigit() and data[at - 1 : at] in b" [:,"]
    if not starts:
        return data
    first = last = draw.choice(starts)
    while data[last : last + 1] in b"0123456789.e+-" and last < len(data):
        last += 1
    return data[:first] + draw.choice(_NUMBERS) + data[last:]
