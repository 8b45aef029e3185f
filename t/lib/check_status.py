#!/usr/bin/env python3
"""Checks the JSON of idempotency_status against docs/status.schema.json.

Reads JSON from standard input, and writes each fault in a line. A member that the schema does not
name is a fault too, although the schema permits it: a later version may add members.
"""

import json
import pathlib
import sys

import jsonschema

SCHEMA = pathlib.Path(__file__).resolve().parents[2] / 'docs/status.schema.json'


def close(node):
    """Forbids members without a name in the schema."""
    if isinstance(node, dict):
        if node.get('type') == 'object' and 'properties' in node:
            node.setdefault('additionalProperties', False)
        for child in node.values():
            close(child)
    elif isinstance(node, list):
        for child in node:
            close(child)


def main():
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    close(schema)
    faults = list(jsonschema.Draft202012Validator(schema).iter_errors(json.load(sys.stdin)))
    for fault in faults:
        print('/'.join(str(part) for part in fault.absolute_path) + ': ' + fault.message)
    sys.exit(1 if faults else 0)


if __name__ == '__main__':
    main()
