"""Malformed files: sound ones with bytes changed, sound ones with their structure changed (by
hypothesis), and some that are built to hurt."""

from __future__ import annotations

import json
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import yaml
from hypothesis import strategies as st

BIG = 1 << 18
"""Bytes of a file that bytes were added to, at most."""

TOKENS = [
    b"NaN", b"-Infinity", b".nan", b".inf", b"-1", b"0", b"1e999", b"1e-999", b"-0.0", b"9" * 400,
    b"9" * 5000, b"18446744073709551616", b"0x" + b"f" * 300, b"null", b"~", b"true", b"{", b"}",
    b"[", b"]", b"[]", b"{}", b'"', b"'", b":", b": ", b",", b"\n", b"\r\n", b"\t", b"\x00",
    b"\xff", b"\xef\xbb\xbf", "\u2028".encode(), "\U0001f600".encode(), b"\\ud800", b"&a [*a]",
    b"*a", b"&a", b"<<: *a", b"!!python/object/apply:os.system ['false']", b"!!binary aGk=",
    b"!!set {a, b}", b"!!omap [a: 1]", b"2020-01-01", b"2020-99-99", b"1:2:3", b"? ", b"- ",
    b"---\n", b"%YAML 9.9\n", b"../../../etc/passwd", b"\x1b[31m", b'{"schema": 2}',
    b"\xed\xa0\x80",
]  # fmt: skip
NUMBERS = [0, 1, 2, 255, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1]


def changed(sound: bytes, draw: random.Random) -> bytes:
    """``sound`` after one to four changes of its bytes."""
    content = bytearray(sound)
    for _ in range(draw.choice([1, 1, 1, 2, 4])):
        draw.choice(_CHANGES)(content, draw)
    return bytes(content[:BIG])


def _place(content: bytearray, draw: random.Random) -> int:
    # What comes first (lengths, headers) gets half of it all.
    end = len(content) if draw.random() < 0.5 else min(len(content), 64)
    return draw.randrange(end) if end else 0


def _flip(content: bytearray, draw: random.Random) -> None:
    if content:
        content[_place(content, draw)] ^= 1 << draw.randrange(8)


def _byte(content: bytearray, draw: random.Random) -> None:
    if content:
        content[_place(content, draw)] = draw.randrange(256)


def _cut(content: bytearray, draw: random.Random) -> None:
    del content[_place(content, draw) :]


def _remove(content: bytearray, draw: random.Random) -> None:
    start = _place(content, draw)
    del content[start : start + draw.choice([1, 2, 8, 64, 512])]


def _repeat(content: bytearray, draw: random.Random) -> None:
    start = _place(content, draw)
    part = content[start : start + draw.choice([1, 8, 64, 4096])]
    content[start:start] = part * draw.choice([1, 1, 2, 30])


def _zero(content: bytearray, draw: random.Random) -> None:
    start = _place(content, draw)
    end = min(len(content), start + draw.choice([8, 64, 512, 4096]))
    content[start:end] = bytes(end - start)


def _append(content: bytearray, draw: random.Random) -> None:
    content += draw.randbytes(draw.choice([1, 7, 64, 4096]))


def _token(content: bytearray, draw: random.Random) -> None:
    start = _place(content, draw)
    content[start:start] = draw.choice(TOKENS)


def _length(content: bytearray, draw: random.Random) -> None:
    number = draw.choice([*NUMBERS, len(content), len(content) - 8, 100_000_001])
    form = draw.choice(["<Q", "<I"])
    packed = struct.pack(form, number & (2**64 - 1 if form == "<Q" else 2**32 - 1))
    start = draw.choice([0, 0, _place(content, draw) & ~3])
    content[start : start + len(packed)] = packed


def _number(content: bytearray, draw: random.Random) -> None:
    found = list(re.finditer(rb"-?\d[\d.e+-]*", bytes(content)[: 1 << 16]))
    if found:
        where = draw.choice(found)
        said = draw.choice([str(draw.choice(NUMBERS)).encode(), draw.choice(TOKENS)])
        content[where.start() : where.end()] = said


def _word(content: bytearray, draw: random.Random) -> None:
    """A word, or what stands between quotes, becomes something else."""
    found = list(re.finditer(rb'"[^"]*"|[A-Za-z_]+', bytes(content)[: 1 << 16]))
    if found:
        where, other = draw.choice(found), draw.choice(found)
        said = draw.choice([other.group(), draw.choice(TOKENS)])
        content[where.start() : where.end()] = said


def _nest(content: bytearray, draw: random.Random) -> None:
    opening, closing = draw.choice([(b"[", b"]"), (b'{"a":', b"}"), (b"{a: ", b"}"), (b"- ", b"")])
    depth = draw.choice([3, 90, 400, 3000, 40_000])
    start = _place(content, draw)
    content[start:start] = opening * depth + closing * draw.choice([depth, 0])


_CHANGES: list[Callable[[bytearray, random.Random], None]] = [
    _flip, _flip, _flip, _byte, _cut, _remove, _repeat, _zero, _append, _token, _length, _number,
    _number, _word, _nest,
]  # fmt: skip


# Structure, by hypothesis.

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from(NUMBERS), st.floats(), st.text(),
    st.sampled_from(["", "..", "/", "a" * 5000, "\n", "\x1b[31m", "\ud800", "mlp", "1", "nan"]),
    st.sampled_from([10**300, -(10**4000), 10**18, -1, 0]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def edited(draw: st.DrawFn, sound: Any) -> Any:
    """A JSON value with some of its parts replaced, removed, renamed or added."""
    value = json.loads(json.dumps(sound))
    for _ in range(draw(st.integers(1, 3))):
        path, here = [], value
        while isinstance(here, (dict, list)) and here and draw(st.integers(0, 5)):
            keys = list(here) if isinstance(here, dict) else list(range(len(here)))
            path.append(draw(st.sampled_from(keys)))
            here = here[path[-1]]
        value = _edit(draw, value, path)
    return value


def _edit(draw: st.DrawFn, value: Any, path: list[Any]) -> Any:
    if not path:
        return draw(values)
    section = value
    for step in path[:-1]:
        section = section[step]
    what = draw(st.sampled_from(["replace", "replace", "replace", "remove", "rename", "add"]))
    if what == "replace" or isinstance(section, list):
        section[path[-1]] = draw(values)
    elif what == "add":
        section[draw(st.text(max_size=8))] = draw(values)
    else:
        old = section.pop(path[-1])
        if what == "rename":
            section[draw(st.text(max_size=8))] = old
    return value


def as_json(value: Any) -> bytes:
    """JSON that may hold NaN and unpaired surrogates, as JSON of others does."""
    return json.dumps(value).encode("utf-8", "surrogatepass")


def as_yaml(value: Any) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def as_lines(value: Any) -> bytes:
    return b"".join(as_json(line) + b"\n" for line in value) if isinstance(value, list) else b"7"


def as_header(value: Any) -> bytes:
    """The header of a store, with a checksum that is right."""
    if isinstance(value, dict):
        plain = {k: v for k, v in value.items() if k not in ("format", "schema", "crc32")}
        value = {**value, "crc32": zlib.crc32(json.dumps(plain, sort_keys=True).encode())}
    return as_json(value)


def as_safetensors(data: bytes) -> Callable[[Any], bytes]:
    """A safetensors file with this header, in front of ``data``."""

    def made(header: Any) -> bytes:
        text = as_json(header)
        return struct.pack("<Q", len(text)) + text + data

    return made


# Built to hurt.


def dense(signs: bytes, size: int) -> bytes:
    """JSON of ``size`` bytes with as many values as can be."""
    return b'{"schema": 1, "x": [' + signs * (size // len(signs)) + b"0]}"


def bombs() -> dict[str, list[bytes]]:
    """Files that hurt, by the kind of the file."""
    million = 1 << 20
    texts = [
        b"[" * million,
        b'{"a":' * million,
        b'{"schema": 1, "x": "' + b"a" * million + b'"}',
        '{{"schema": 1, "x": "{}"}}'.format("\U0001f600" * (million // 4)).encode(),
        b'{"schema": 1, "x": ' + b"9" * million + b"}",
        b'{"schema": 1, "x": 1e' + b"9" * million + b"}",
        b" " * million,
        b"\x00" * million,
        b"\n" * million,
        *(dense(signs, million) for signs in (b"[],", b"{},", b"1,", b'"",', b'{"a":1},', b"1.5,")),
        *(dense(signs, 8 * million) for signs in (b"[],", b'"ab",', b"123456,", b"[[]],", b"{},")),
        b"{" + b",".join(b'"%d":[]' % i for i in range(300_000)) + b"}",
    ]
    doubling = b"a0: &a0 [x, x]\n" + b"".join(
        b"a%d: &a%d [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 60)
    )
    merging = b"a0: &a0 {b: 1}\n" + b"".join(
        b"a%d: &a%d\n  <<: [*a%d, *a%d]\n" % (i, i, i - 1, i - 1) for i in range(1, 40)
    )
    inside = (
        b"name: x\ndata: {path: 'a:b', options: %s}\n"
        b"teacher: {model: {name: mlp}}\nstudent: {model: {name: mlp}}\n"
    )
    options = b"{a: &a {a: [x, x]}, " + b", ".join(
        b"b%d: &b%d {a: [*%s, *%s]}" % (i, i, last, last)
        for i, last in enumerate([b"a", *(b"b%d" % j for j in range(40))])
    )
    recipes = [
        doubling,
        merging,
        inside % (options + b"}"),
        b"name: &a [*a]\n",
        b"name: x\ndata: {name: digits, options: &o {a: *o}}\n",
        inside % b"&o {a: *o}",
        inside % (b"{a: " + b"[" * 300 + b"]" * 300 + b"}"),
        inside % b"{a: !!binary /w==, b: 2020-01-01, c: !!set {d}, e: .nan, f: 0xffff}",
        inside % (b"{a: 0x" + b"f" * 60_000 + b"}"),
        b"? [a, b]\n: c\n",
        b"[" * 3000,
        b"- " * 3000,
        b"a: " * 3000,
        b"[" * 60_000,
        b"[a, " * 20_000,
        b"a,\n" * 20_000,
        b"[" + b"a," * 500_000 + b"]",
        b"x: !!int " + b"9" * 60_000,
        b"x: 0x" + b"f" * 60_000,
        b"seed: 0x" + b"f" * 60_000,
        b"x: " + b"1:" * 30_000 + b"1",
        b"x: |\n" + b"  a\n" * 20_000,
        b"x: !!binary " + b"A" * 60_000,
        b"\xff\xfe" + b"x\x00" * 30_000,
        *texts,
    ]
    huge = [2**63, 2**40, 2**31, 100_000_001, 99_999_999, million]
    safetensors = [struct.pack("<Q", number) + b'{"a": 1}' + b" " * million for number in huge]
    for signs, count in ((b"[", 1000), (b"[", 500_000), (b"{", 500_000), (b"0,", 500_000)):
        text = b'{"a":{"dtype":"U8","shape":[' + signs * count
        safetensors.append(struct.pack("<Q", len(text)) + text)
    many = b",".join(
        b'"%d":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % i for i in range(20_000)
    )
    safetensors.append(struct.pack("<Q", len(many) + 2) + b"{" + many + b"}")
    for dtype in ("BF16", "F8_E4M3", "F8_E5M2", "F4", "C64", "BOOL", "U64", "I8", "F64", "E8M0"):
        header = {"a": {"dtype": dtype, "shape": [0, 2**62], "data_offsets": [0, 0]}}
        safetensors.append(as_safetensors(b"")(header))
        header = {"a": {"dtype": dtype, "shape": [], "data_offsets": [0, 8]}}
        safetensors.append(as_safetensors(bytes(8))(header))
        header = {"a": {"dtype": dtype, "shape": [1], "data_offsets": [0, 1]}}
        safetensors.append(as_safetensors(bytes(1))(header))
    return {"json": texts, "recipe": recipes, "safetensors": safetensors}
