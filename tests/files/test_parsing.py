"""What a file says of itself allocates nothing."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from frugalkd.files.parsing import (
    cell,
    header_bytes,
    one_line,
    parse_json,
    printable,
    read_bounded,
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("NaN", "NaN is not a JSON number"),
        ("[-Infinity]", "not a JSON number"),
        ("1e999", "is too large"),
        ("-1e999", "is too large"),
        ("9" * 5000, "Exceeds the limit"),
        ("[" * 100_000, "too deeply"),
        ('{"a":' * 100_000, "too deeply"),
        (b"\xff", "invalid start byte"),
        (b"\xef\xbb\xbf{}", "BOM"),
    ],
)
def test_what_is_no_json_is_a_value_error(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)


@pytest.mark.parametrize(
    ("signs", "million"),
    [
        *((signs, 0.3) for signs in ("[],", "{},", '"ab",', "123456,", '{"a":1},', '["é"],')),
        *((signs, 3) for signs in ("[],", '"ab",', "1.5,")),
    ],
)
@pytest.mark.heavy
def test_dense_json_takes_no_more_than_promised(signs, million):
    content = f"[{signs * int(million * 1e6 / len(signs))}0]".encode()
    tracemalloc.start()
    try:
        value = parse_json(content)
    except ValueError as error:
        value = str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(content) + (64 << 20)
    assert value == "it holds too many values" or value == json.loads(content)


@pytest.mark.heavy
def test_a_long_history_is_not_too_dense():
    record = {f"a name of a field {field}": 1.234567 + field for field in range(25)}
    history = [{**record, "epoch": epoch} for epoch in range(10_000)]
    assert parse_json(json.dumps(history, indent=2)) == history


def test_json_comes_back():
    value = {"a": [1, -2.5, True, None, "é😀\u2028"], "b": {}}
    assert parse_json(json.dumps(value)) == value
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


def test_reading_is_bounded_and_allocates_what_is_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bounded(path, 5) == b"12345"
    with pytest.raises(ValueError, match="larger than 4 bytes"):
        read_bounded(path, 4)
    tracemalloc.start()
    read_bounded(path, 1 << 30)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_a_header_length_is_only_what_is_said(tmp_path):
    path = tmp_path / "file"
    for content, said in (
        (b"", 0),
        (b"1234567", 0),
        (b"\xff" * 8, 2**64 - 1),
        (b"\2" + bytes(9), 2),
    ):
        path.write_bytes(content)
        assert header_bytes(path) == said


def test_text_from_elsewhere_is_one_printable_line():
    family = "👨\u200d👩\u200d👧 a\u200cb"
    for said, shown in (
        ("a\n\tb\u2028c\u00a0d", "a  b c d"),
        ("\x1b[31m\x9b0m\x00", "?[31m?0m?"),
        ("\u202eabc\ud800", "?abc?"),
        (family, family),
    ):
        assert printable(said) == shown
    assert printable("a\x1bb\nc", "") == "ab c"
    assert one_line(" a \n b\x1bc", 5) == "a b?c"


def test_a_negative_number_is_no_formula():
    assert [cell(said) for said in ("-1", "-0.5e-3", "-1+1", "-x", "=1", "+1")] == [
        *("-1", "-0.5e-3", "'-1+1", "'-x", "'=1", "'+1")
    ]
