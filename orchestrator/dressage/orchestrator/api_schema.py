"""The operations of the micro service as JSON Schemas (draft 2020-12), for who writes a client in another language."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from dressage.orchestrator.api_messages import Failed
from dressage.orchestrator.operations import OPERATIONS
from dressage.protocol.names import Names

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def api_schema(names: Names) -> dict[str, Any]:
    """One JSON Schema with the definitions of all messages in `$defs`, and by the name of each operation its `subject`,
    what it is `about`, and the schemas of its `request` and `answer`. Whatever goes wrong is answered by `error`."""
    kinds = [kind for each in OPERATIONS.values() for kind in (each.request, each.answer)]
    shown, definitions = msgspec.json.schema_components([*kinds, Failed], ref_template="#/$defs/{name}")
    schemas = iter(shown)
    operations = {
        name: {
            "subject": names.api(name),
            "about": each.about,
            "request": next(schemas),
            "answer": next(schemas),
        }
        for name, each in OPERATIONS.items()
    }
    return {
        "$schema": DIALECT,
        "title": "The micro service of Dressage",
        "operations": operations,
        "error": next(schemas),
        "$defs": dict(sorted(definitions.items())),
    }


def operation_schema(names: Names, operation: str) -> dict[str, Any]:
    """The same for one operation, with the definitions that it needs. Raises `KeyError`."""
    whole = api_schema(names)
    definitions = whole["$defs"]
    shown = whole["operations"][operation] | {"error": whole["error"]}
    needed: dict[str, Any] = {}
    found = _referred(shown)
    while found:
        needed |= {name: definitions[name] for name in found}
        found = {each for name in found for each in _referred(definitions[name])} - needed.keys()
    return {"$schema": DIALECT, **shown, "$defs": dict(sorted(needed.items()))}


# -- for people ------------------------------------------------------------------------------------
def api_reference(names: Names) -> str:
    """The operations, and the values that they name, as a page of Markdown."""
    whole = api_schema(names)
    definitions, told = whole["$defs"], set[str]()
    lines = [_HEAD]
    for name, each in whole["operations"].items():
        asked, answer = (each[side]["$ref"].rpartition("/")[2] for side in ("request", "answer"))
        told |= {asked, answer}
        lines += [f"## {name}", "", f"{each['about']}: `{each['subject']}`.", ""]
        lines += [*_about(definitions[asked]), "Request:", "", *_fields(definitions[asked]), ""]
        lines += ["Answer:", "", *_fields(definitions[answer]), ""]
    lines += ["## Values", ""]
    for name, each in definitions.items():
        if name not in told and "properties" in each:
            lines += [f"### {name}", "", *_about(each), *_fields(each), ""]
    return "\n".join(lines).rstrip() + "\n"


_HEAD = """# All operations

Every operation of the [micro service](api.md#the-micro-service) with its subject, and all fields of its request and of
its answer. An answer that is an error has the fields of [Failed](#failed). `dressage api reference` prints this page,
and `dressage api schema` the same as JSON Schemas, for programs.
"""


def _about(schema: dict[str, Any]) -> list[str]:
    said = " ".join(schema.get("description", "").split())
    return [said, ""] if said else []


def _fields(schema: dict[str, Any]) -> list[str]:
    properties = schema.get("properties", {})
    if not properties:
        return ["Nothing: `{}`."]
    required = set(schema.get("required", ()))
    rows = ["| field | value | |", "| --- | --- | --- |"]
    for name, each in properties.items():
        if name in required:
            rest = "required"
        elif "default" in each:
            rest = f"else `{json.dumps(each['default'])}`"
        else:
            rest = ""
        rows.append(f"| `{name}` | {_kind(each)} | {rest} |")
    return rows


def _kind(schema: dict[str, Any]) -> str:
    """The type of a value in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(map(_kind, schema["anyOf"])))
    if "const" in schema or "enum" in schema:
        return ", ".join(f"`{each}`" for each in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "array":
            members = schema.get("items") or {"anyOf": schema.get("prefixItems", [{}])}
            return f"list of {_kind(members)}" if members and members != {"anyOf": [{}]} else "list"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {_kind(schema['additionalProperties'])}"
        case "string" if schema.get("format") == "date-time":
            return "moment (RFC 3339)"
        case str(kind):
            return kind + _bounds(schema)
        case _:
            return "any JSON"


def _bounds(schema: dict[str, Any]) -> str:
    words = {"minimum": "at least", "maximum": "at most", "maxLength": "of at most"}
    said = [f"{word} {schema[key]:g}" for key, word in words.items() if key in schema]
    unit = " characters" if "maxLength" in schema else ""
    return f", {', '.join(said)}{unit}" if said else ""


def _referred(schema: Any) -> set[str]:
    """The names of the definitions that a schema refers to."""
    match schema:
        case dict():
            here = {schema["$ref"].rpartition("/")[2]} if isinstance(schema.get("$ref"), str) else set[str]()
            return here.union(*map(_referred, schema.values()))
        case list():
            return set[str]().union(*map(_referred, schema))
        case _:
            return set()
