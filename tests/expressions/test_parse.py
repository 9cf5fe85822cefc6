"""Expressions in configuration: their text, their names, their refusals."""

from __future__ import annotations

import pytest

from dressage.expressions import TypeTable, compile_expression, parse_expression
from dressage.protocol.errors import DefinitionError

EVENT = {"id": "o-1", "lines": [{"sku": "a", "count": 2}], "total": 12.5}


def test_an_expression_over_given_names_has_its_value() -> None:
    expr = parse_expression(" f\"order-{event['id']}-{len(event['lines'])}\" ", ["event"])
    assert compile_expression(expr, TypeTable())({"event": EVENT}) == "order-o-1-1"


def test_a_given_name_hides_a_builtin() -> None:
    with pytest.raises(DefinitionError, match="function is not known"):
        parse_expression("len(event)", ["event", "len"])


@pytest.mark.parametrize(
    ("text", "what", "caret", "advice"),
    [
        ("event['id'] + nowhere", "name nowhere is not known", 14, "the names here are event"),
        ("event.total > ", "this is no expression", 13, ""),
        ("event = 1", "this is no expression", 6, ""),
        ("", "this is no expression", 0, ""),
        ("(line for line in event)", "this is no value", 0, "write `[line for line in event]`"),
        ("open('x')", "function is not known", 0, "the functions here are Decimal, UUID, abs"),
        ("event.items()", "this is no value", 0, "write `list(event.items())`"),
        ("event.format()", "method format() is not part", 6, "use an f-string"),
        ("sum([len(x) for len in event])", "function is not known", 5, "the functions here"),
        ("[each for event['a'] in event]", "variables of its own", 10, "as in `key, value`"),
        ("[x async for x in event]", "`async for`", 13, "let a task"),
        ("event[1:2, 3]", "a slice is no value", 6, "`items[1:3]`"),
        ("sorted(event, key=lambda a, b: a)", "a key takes one item", 18, "lambda item"),
        ("sorted(event, key=str.lower)", "str.lower cannot be called", 18, "lambda item: item.lower()"),
        ("(n := 1)", "no variables to be set", 1, "where it is needed"),
        ("max(*event)", "* in a call", 4, "one by one"),
        ("event['lines'].append(1)", "method append()", 15, "items + [item]"),
        ("'ä' + await_", "name await_ is not known", 6, "event"),
        ("event is 5", "one object", 9, "use =="),
        ("lambda: 1", "a function is no value", 0, "`key=`"),
    ],
)
def test_a_refusal_shows_the_text_and_the_place(text: str, what: str, caret: int, advice: str) -> None:
    with pytest.raises(DefinitionError) as refused:
        parse_expression(text, ["event"])
    said, shown, pointer, *rest = refused.value.message.split("\n")
    assert what in said
    assert shown == f"    {text.strip()}"
    assert abs(len(pointer) - 5 - caret) <= (1 if "no expression" in said else 0)
    assert advice in "".join(rest)


def test_a_text_that_nests_too_deep_is_refused() -> None:
    with pytest.raises(DefinitionError, match="limit expression-depth"):
        parse_expression("-" * 150 + "1", [])
    with pytest.raises(DefinitionError, match="no expression"):
        parse_expression("(" * 5000 + ")" * 5000, [])


def test_what_cannot_be_written_back_is_refused_as_anything_else() -> None:
    """Found by `make fuzz`: `ast.unparse` raises for a control character inside of an f-string's format."""
    text = "f'{b!r:{\"^\x1b\"}{20}+ }' + missing.name(1)"
    with pytest.raises(DefinitionError):
        parse_expression(text, ("b",))
