"""The app as OpenAPI 3.1, whose schemas are those of the micro service."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

import msgspec

from dressage.connectors.http.routes import ROUTES, WAIT_S, WAIT_S_MAX, Route
from dressage.orchestrator.api import VERSION
from dressage.orchestrator.api_messages import Failed
from dressage.orchestrator.operations import OPERATIONS

_KINDS: Final[dict[type, dict[str, Any]]] = {
    str: {"type": "string"},
    float: {"type": "number", "minimum": 0, "maximum": WAIT_S_MAX, "default": WAIT_S},
}


@cache
def openapi(root: str = "") -> bytes:
    """The description of all paths below the place where the app is mounted, in JSON."""
    return msgspec.json.encode(_openapi(root))


def _openapi(root: str) -> dict[str, Any]:
    kinds = [kind for each in ROUTES for kind in _messages(each)]
    shown, definitions = msgspec.json.schema_components(
        [*kinds, Failed], ref_template="#/components/schemas/{name}"
    )
    schemas = iter(shown)
    paths: dict[str, Any] = {}
    for route in ROUTES:
        paths.setdefault(route.path, {})[route.method.lower()] = _described(
            route, next(schemas), next(schemas)
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Dressage", "version": VERSION},
        "servers": [{"url": root or "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(definitions.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _messages(route: Route) -> tuple[type[msgspec.Struct], type[msgspec.Struct]]:
    operation = OPERATIONS[route.operation]
    return operation.request, operation.answer


def _described(route: Route, request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    parameters += [
        {"name": name, "in": "query", "schema": _KINDS[kind]} for name, kind in (route.query or {}).items()
    ]
    if route.operation == "start":
        parameters.append({"name": "Idempotency-Key", "in": "header", "schema": {"type": "string"}})
    parameters.append({"name": "Dressage-Actor", "in": "header", "schema": {"type": "string"}})
    answers = {"200": _answer("As it is", answer)}
    if route.operation == "start":
        answers = {"201": _answer("It was started", answer), "200": _answer("It was there before", answer)}
    if route.operation == "wait":
        answers |= {"202": _answer("It has not ended in that time", answer)}
    failed = {"$ref": f"#/components/schemas/{Failed.__name__}"}
    answers |= {"default": _answer("An error, with its code", failed)}
    described: dict[str, Any] = {
        "operationId": route.operation if "{key}" not in route.path else "post-by-key",
        "summary": route.about,
        "parameters": parameters,
        "responses": answers,
    }
    if route.body:
        schema: dict[str, Any] = request if route.body == "request" else {}
        described["requestBody"] = {
            "required": route.body == "request",
            "content": {"application/json": {"schema": schema}},
        }
    return described


def _answer(about: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": about, "content": {"application/json": {"schema": schema}}}
