"""Reads the golden bytes with another implementation of Avro, and checks fingerprints against it.

    uv pip install fastavro
    python schemas/tools/check_with_fastavro.py

Exits with an error at the first difference.
"""

import datetime
import io
import json
import pathlib
import uuid

import fastavro
from fastavro.schema import fingerprint, to_parsing_canonical_form

SCHEMAS = pathlib.Path(__file__).resolve().parent.parent
MARKER = b"\xc3\x01"


def as_json(value):
    """What fastavro makes of a value, in the form of the golden JSON."""
    if isinstance(value, uuid.UUID):
        return str(value)
    if isinstance(value, datetime.datetime):
        return round(value.timestamp() * 1000)
    if isinstance(value, bytes):
        return list(value)
    if isinstance(value, dict):
        return {name: as_json(part) for name, part in value.items()}
    if isinstance(value, list):
        return [as_json(part) for part in value]
    return value


def is_same(found, expected):
    """Equality, with floats of 32 bits compared as such."""
    if isinstance(expected, float):
        return abs(found - expected) <= 1e-6 * max(1.0, abs(expected))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(is_same(found[name], expected[name]) for name in expected)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(is_same, found, expected))
    return found == expected


def check(path):
    """One schema of the history: its fingerprint, its golden bytes, and both directions of them."""
    record, expected_fingerprint = path.parent.name, path.stem
    schema = json.loads(path.read_text())
    found_fingerprint = fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO")
    assert found_fingerprint == expected_fingerprint, f"{path}: fastavro says {found_fingerprint}"

    golden = SCHEMAS / "tests" / "golden" / f"{record}.{expected_fingerprint}"
    encoded = golden.with_name(golden.name + ".avro").read_bytes()
    expected = json.loads(golden.with_name(golden.name + ".json").read_text())
    assert encoded[:2] == MARKER and encoded[2:10].hex() == expected_fingerprint, f"{golden}: header"

    body = io.BytesIO(encoded[10:])
    value = fastavro.schemaless_reader(body, schema)
    assert not body.read(), f"{golden}: bytes are left"
    assert is_same(as_json(value), expected), f"{golden}: {as_json(value)} instead of {expected}"

    written = io.BytesIO()
    fastavro.schemaless_writer(written, schema, value)
    assert written.getvalue() == encoded[10:], f"{golden}: fastavro writes other bytes"


def main():
    paths = sorted(SCHEMAS.glob("avro/history/*/*.avsc"))
    assert paths, "no history"
    for path in paths:
        check(path)
        print(f"{path.parent.name} {path.stem}: read and written alike")


if __name__ == "__main__":
    main()
