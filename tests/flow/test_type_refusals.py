"""Types, models, masks and marks that a run could not keep are refused at their place, with advice."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest

from dressage.protocol.errors import DefinitionError

MARK = "‸"
"""Stands before the place under which the caret must be."""

PREAMBLE = """\
from __future__ import annotations
import dataclasses, collections
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, TypedDict
import msgspec, pydantic
from pydantic import BaseModel, Field
from dressage.flow import Event, Large, Masked, Searchable, WorkflowFailure, publish, task, workflow

class Declined(WorkflowFailure): ...
class Address(TypedDict):
    city: str
    zip: NotRequired[str]
class Point(NamedTuple):
    x: int
    y: int = 0
class Plain(BaseModel):
    name: str
class Scores(BaseModel):
    each: list[float]
@dataclass
class Card:
    number: Masked[str]
    holder: str = ""
@dataclass
class View:
    token: Masked[str | None] = None
    note: str = ""
@dataclass
class Page:
    text: Large[str]
    number: int = 0
pages = Event("pages", of=Page)
@workflow
async def reads(text: Large[str]) -> str:
    return ""
@task
async def clear(text: str) -> str: ...
@task
async def hidden(text: Masked[str]) -> Masked[str]: ...
@task
async def point() -> Point: ...
@task
async def word() -> str: ...
"""

TYPES = {
    "tuple without types": (
        "P = collections.namedtuple('P', 'x')\n@task\nasync def t(x: ‸P) -> int: ...",
        "P.x has no type",
        "NamedTuple",
    ),
    "tuple with own order": (
        "class P(NamedTuple):\n    x: int\n    def __lt__(self, o: Any) -> bool: return True\n"
        "@task\nasync def t(x: ‸P) -> int: ...",
        "its own __lt__()",
        "compare",
    ),
    "tuple or list": (
        "@task\nasync def t(x: ‸Point | list[int]) -> int: ...",
        "without guessing",
        "use bool",
    ),
    "typed dict or record": (
        "@task\nasync def t(x: ‸Address | Card) -> int: ...",
        "without guessing",
        "use bool",
    ),
    "unsupported in a typed dict": (
        "class A(TypedDict):\n    x: complex\n@task\nasync def t(x: ‸A) -> int: ...",
        "field A.x: type complex",
        "use",
    ),
    "bad default of a tuple": (
        "class P(NamedTuple):\n    x: int = 'a'\n@task\nasync def t(x: ‸P) -> int: ...",
        "default of P.x is not valid: expected int, got str",
        "use bool",
    ),
    "bad default of a dataclass": (
        "@dataclass\nclass D:\n    x: int = 'a'\n@task\nasync def t(x: ‸D) -> int: ...",
        "default of D.x is not valid: expected int, got str",
        "use bool",
    ),
    "bad default of a parameter": (
        "@task\nasync def t(x: ‸int = 'a') -> int: ...",
        "expected int, got str",
        "another default",
    ),
    "half masked": ("@task\nasync def t(x: ‸Masked[str] | int) -> int: ...", "masked by halves", "use bool"),
    "masked in a set": (
        "@task\nasync def t(x: ‸set[Masked[str]]) -> int: ...",
        "a set cannot hold masked",
        "use",
    ),
    "masked keys": (
        "@task\nasync def t(x: ‸dict[Masked[str], int]) -> int: ...",
        "cannot have keys of type",
        "use",
    ),
    "masked and searchable": (
        "@dataclass\nclass V:\n    x: Searchable[Masked[str]]\n@task\nasync def t(x: ‸V) -> int: ...",
        "cannot be searched for",
        "leave one",
    ),
    "half large": ("@task\nasync def t(x: ‸Large[str] | int) -> int: ...", "large by halves", "use bool"),
    "large in a set": (
        "@task\nasync def t(x: ‸set[Large[str]]) -> int: ...",
        "a set cannot hold large",
        "use",
    ),
    "large keys": (
        "@task\nasync def t(x: ‸dict[Large[str], int]) -> int: ...",
        "cannot have keys of type",
        "use",
    ),
    "large and searchable": (
        "@dataclass\nclass V:\n    x: Searchable[Large[str]]\n@task\nasync def t(x: ‸V) -> int: ...",
        "a large value cannot be searched for",
        "leave one",
    ),
    "large and masked": (
        "@task\nasync def t(x: ‸Large[Masked[str]]) -> int: ...",
        "a large value cannot be masked",
        "leave one",
    ),
    "masked and large": (
        "@task\nasync def t(x: ‸Masked[Large[str]]) -> int: ...",
        "a large value cannot be masked",
        "leave one",
    ),
    "masked inside a large one": (
        "@task\nasync def t(x: ‸Large[Card]) -> int: ...",
        "Large[Card] has a masked part, Masked[str]",
        "use",
    ),
    "large inside a masked one": (
        "@task\nasync def t(x: ‸Masked[Page]) -> int: ...",
        "Masked[Page] has a large part, Large[str]",
        "use",
    ),
    "large inside a large one": (
        "@task\nasync def t(x: ‸Large[list[Page]]) -> int: ...",
        "Large[list[Page]] has a large part, Large[str]",
        "use",
    ),
    "large in a TypedDict": (
        "class D(TypedDict):\n    x: Large[str]\n@task\nasync def t(x: ‸D) -> int: ...",
        "a TypedDict cannot hold large values",
        "use",
    ),
    "searchable dict": (
        "@dataclass\nclass V:\n    x: Searchable[dict[str, int]]\n@task\nasync def t(x: ‸V) -> int: ...",
        "V.x is searchable, but dict[str, int] is no scalar",
        "mark fields",
    ),
    "constraint": (
        "@task\nasync def t(x: ‸Annotated[int, msgspec.Meta(gt=0)]) -> int: ...",
        "would not check",
        "leave the constraint",
    ),
    "constraint inside": (
        "@task\nasync def t(x: ‸list[Annotated[int, Field(gt=0)]]) -> int: ...",
        "would not check",
        "leave the constraint",
    ),
    "model: constraint": (
        "class M(BaseModel):\n    x: int = Field(gt=0)\n@task\nasync def t(x: ‸M) -> int: ...",
        "field M.x: a run would not check Gt(gt=0)",
        "check in a task",
    ),
    "model: constrained type": (
        "class M(BaseModel):\n    x: pydantic.PositiveInt\n@task\nasync def t(x: ‸M) -> int: ...",
        "would not check",
        "check",
    ),
    "model: alias": (
        "class M(BaseModel):\n    x: int = Field(alias='y')\n@task\nasync def t(x: ‸M) -> int: ...",
        "has an alias",
        "wire",
    ),
    "model: validator": (
        "class M(BaseModel):\n    x: int\n    @pydantic.field_validator('x')\n    @classmethod\n"
        "    def positive(cls, v: int) -> int: return v\n@task\nasync def t(x: ‸M) -> int: ...",
        "validator of its own, positive()",
        "check in a task",
    ),
    "model: model validator": (
        "class M(BaseModel):\n    x: int\n    @pydantic.model_validator(mode='after')\n"
        "    def whole(self) -> M: return self\n@task\nasync def t(x: ‸M) -> int: ...",
        "validator of its own, whole()",
        "check in a task",
    ),
    "model: before validator": (
        "class M(BaseModel):\n    x: Annotated[int, pydantic.BeforeValidator(int)]\n"
        "@task\nasync def t(x: ‸M) -> int: ...",
        "would not check",
        "check in a task",
    ),
    "model: computed": (
        "class M(BaseModel):\n    x: int\n    @pydantic.computed_field\n    @property\n"
        "    def twice(self) -> int: return 2\n@task\nasync def t(x: ‸M) -> int: ...",
        "computed field",
        "without it",
    ),
    "model: serializer": (
        "class M(BaseModel):\n    x: int\n    @pydantic.field_serializer('x')\n"
        "    def said(self, v: int) -> str: return ''\n@task\nasync def t(x: ‸M) -> int: ...",
        "serializer",
        "without it",
    ),
    "model: post init": (
        "class M(BaseModel):\n    x: int\n    def model_post_init(self, c: Any) -> None: ...\n"
        "@task\nasync def t(x: ‸M) -> int: ...",
        "its own model_post_init()",
        "without it",
    ),
    "model: config": (
        "class M(BaseModel):\n    model_config = {'str_strip_whitespace': True}\n    x: str\n"
        "@task\nasync def t(x: ‸M) -> int: ...",
        "sets str_strip_whitespace",
        "leave the option",
    ),
    "model: extra": (
        "class M(BaseModel):\n    model_config = {'extra': 'forbid'}\n    x: str\n"
        "@task\nasync def t(x: ‸M) -> int: ...",
        "sets extra",
        "leave the option",
    ),
    "struct: forbids unknown fields": (
        "class S(msgspec.Struct, forbid_unknown_fields=True):\n    x: str\n@task\nasync def t(x: ‸S) -> int: ...",
        "forbids unknown fields, which later versions",
        "leave the option",
    ),
    "model: root": (
        "class M(pydantic.RootModel[int]): ...\n@task\nasync def t(x: ‸M) -> int: ...",
        "root or generic",
        "plain types",
    ),
    "model: private": (
        "class M(BaseModel):\n    x: int\n    _y: int = 1\n@task\nasync def t(x: ‸M) -> int: ...",
        "private",
        "fields",
    ),
    "model: moving default": (
        "import uuid\nclass M(BaseModel):\n    x: str = Field(default_factory=lambda: str(uuid.uuid4()))\n"
        "@task\nasync def t(x: ‸M) -> int: ...",
        "may give another value each time",
        "default_factory",
    ),
    "model: bad default": (
        "class M(BaseModel):\n    x: int = 'a'\n@task\nasync def t(x: ‸M) -> int: ...",
        "expected int, got str",
        "use bool",
    ),
    "model: in a union": (
        "@task\nasync def t(x: ‸Plain | int) -> int: ...",
        "a union with more than None",
        "a dataclass",
    ),
    "dataclass of pydantic": (
        "@pydantic.dataclasses.dataclass\nclass D:\n    x: int\n@task\nasync def t(x: ‸D) -> int: ...",
        "changes what it is given",
        "pydantic model",
    ),
}

MASKS = {
    "f-string": "‸note = f'{secret}'",
    "f-string with a spec": "‸note = f'{secret:>20}'",
    "str": "‸note = str(secret)",
    "len": "‸note = len(secret)",
    "method": "‸note = secret.upper()",
    "add": "‸note = secret + 'a'",
    "compare": "if ‸secret == 'a': pass",
    "compare with a masked one": "if ‸secret == other: pass",
    "compare in a chain": "if ‸None == secret == other: pass",
    "less": "if ‸secret < 'a': pass",
    "in a text": "if ‸'a' in secret: pass",
    "in a list": "if ‸secret in ['a']: pass",
    "truth": "if ‸secret: pass",
    "not": "if ‸not secret: pass",
    "or": "‸note = secret or 'a'",
    "conditional": "‸note = 1 if secret else 2",
    "index": "‸note = secret[0]",
    "key": "‸note = {secret: 1}",
    "of a record": "‸note = card.number + 'a'",
    "of a dict": "‸note = box['a'] + 'a'",
    "message": "‸raise Declined(secret)",
    "subject": "‸await publish(secret, 1)",
    "in a subject": "‸await publish(f'orders.{secret}', 1)",
}

OTHERS = {
    "masked to a clear task": ("‸await clear(secret)", "text is str and would show", "Masked[str]"),
    "masked in a clear field": (
        "‸note = Card(card.number, secret)",
        "holder is str and would show",
        "Masked[str]",
    ),
    "masked in a clear field of the view": (
        "view = View()\n    ‸view.note = secret",
        "note is str and would show",
        "Masked[str]",
    ),
    "masked returned": ("‸return secret", "the workflow's result is int and would show", "Masked[int]"),
    "masked declared clear": ("‸note: str = secret", "note would show a masked value", "Masked[str]"),
    "masked published": ("‸await publish('a', secret)", "Masked[str] has a masked part", "by itself"),
    "masked field published": ("‸await publish('a', [card])", "list[Card] has a masked part", "by itself"),
    "masked in a dict published": (
        "‸await publish('a', box)",
        "dict[str, Masked[str]] has a masked part, which would be published",
        "publish what everybody may see",
    ),
    "another type declared": (
        "n: int = ‸await word()",
        "n is declared as int, and this is str",
        "declare what it is",
    ),
    "another value declared": (
        "‸n: int = 'a'",
        "n is declared as int, and this is str",
        "declare what it is",
    ),
    "another record declared": ("‸n: Card = Point(1)", "n is declared as Card, and this is Point", "declare"),
    "attribute of a dict": ("n = ‸address.city", "Address is a dict", '["city"]'),
    "field of a tuple": ("n = ‸at.z", "Point has no field z", "x, y"),
    "dict in place": ("‸address |= {'zip': 'z'}", "Python might change it in place", "address = address |"),
    "too few names": ("a, b, c = ‸await point()", "this has 2 items, not 3", "2 targets"),
    "missing key": ("n = ‸Address(zip='z')", "misses city", "Address(city, zip)"),
    "unknown key": ("n = Address(city='c', ‸street='s')", "no parameter street", "Address(city, zip)"),
    "floats inside a model": (
        "n = ‸Scores(each=[1])",
        "may turn ints inside Scores.each",
        "let a task build it",
    ),
    "text of a tuple": ("‸n = f'{at}'", "no text of its own", "field"),
}


def refused(marked: str, define: Callable[[str], ModuleType]) -> list[str]:
    """What the definition is refused with, after a look at the caret; its last line is the advice."""
    with pytest.raises(DefinitionError) as error:
        define(marked.replace(MARK, ""))
    before = marked[: marked.index(MARK)]
    place, _, caret, _ = error.value.message.split("\n", 3)
    assert place.split(":")[1] == str(before.count("\n") + 1), error.value.message
    assert len(caret) - 1 == len(before.rpartition("\n")[2].lstrip()) + 4, error.value.message
    return error.value.message.splitlines()


@pytest.mark.parametrize("name", TYPES)
def test_a_type_that_a_run_could_not_keep_is_refused(name: str, define: Callable[[str], ModuleType]) -> None:
    marked, what, advice = TYPES[name]
    said = refused(f"{PREAMBLE}{marked}\n", define)
    assert what in "\n".join(said)
    assert advice in said[-1]


def flow(body: str) -> str:
    end = "" if body.startswith((f"{MARK}return", f"{MARK}raise")) else "    return 1\n"
    return (
        f"{PREAMBLE}@workflow\nasync def flow(secret: Masked[str], other: Masked[str], card: Card, at: Point, "
        f"address: Address, box: dict[str, Masked[str]]) -> int:\n    {body}\n{end}"
    )


@pytest.mark.parametrize("name", MASKS)
def test_looking_at_a_masked_value_is_refused(name: str, define: Callable[[str], ModuleType]) -> None:
    said = refused(flow(MASKS[name]), define)
    if name == "message":
        assert "must be a str" in said[0]
    else:
        assert "a masked value is looked at here" in said[0]
        assert "compared with None" in said[-1]


@pytest.mark.parametrize("name", OTHERS)
def test_what_a_type_does_not_allow_is_refused(name: str, define: Callable[[str], ModuleType]) -> None:
    body, what, advice = OTHERS[name]
    said = refused(flow(body), define)
    assert what in "\n".join(said)
    assert advice in said[-1]


def large(body: str) -> str:
    """The same workflow with large values in place of masked ones."""
    return flow(body).replace("Masked[", "Large[")


@pytest.mark.parametrize("name", MASKS)
def test_looking_at_a_large_value_is_refused(name: str, define: Callable[[str], ModuleType]) -> None:
    said = refused(large(MASKS[name]), define)
    if name == "message":
        assert "must be a str" in said[0]
    else:
        assert "a large value is looked at here" in said[0]
        assert "let a task that takes Large[...] look at it" in said[-1]


LARGE = {
    "to a plain task": ("‸await clear(secret)", "text is str and would be given", "Large[str]"),
    "in a plain field": (
        "‸note = Card(card.number, secret)",
        "holder is str and would be given",
        "Large[str]",
    ),
    "returned": ("‸return secret", "the workflow's result is int and would be given", "Large[int]"),
    "declared plain": ("‸note: str = secret", "note would hold a large value", "Large[str]"),
    "published": ("‸await publish('a', secret)", "Large[str] has a large part", "by itself"),
    "a field published": ("‸await publish('a', [card])", "list[Card] has a large part", "by itself"),
    "to a run with an id of its own": (
        "‸await reads.options(run_id='a')(secret)",
        "a run with an id of its own does not find the large values of this one, and reads has some",
        "leave run_id out",
    ),
    "at a correlation key": (
        "note = ‸await pages.wait(key='a')",
        "Page is large, and what comes to a correlation key belongs to no run yet",
        "post to the run by its id",
    ),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_a_large_value_does_not_allow_is_refused(name: str, define: Callable[[str], ModuleType]) -> None:
    body, what, advice = LARGE[name]
    said = refused(large(body), define)
    assert what in "\n".join(said)
    assert advice in said[-1]


def test_a_masked_value_is_no_large_one(define: Callable[[str], ModuleType]) -> None:
    said = refused(flow("‸await reads(secret)"), define)
    assert "text is Large[str] and would show a masked value" in said[0]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("UserTask('u', form=Page)", "its form has a large field"),
        ("F", "it has a masked or large field"),
    ],
)
def test_people_and_failures_have_no_large_values(
    text: str, what: str, define: Callable[[str], ModuleType]
) -> None:
    body = {
        "F": "@dataclass(eq=False)\nclass F(WorkflowFailure):\n    text: Large[str] = ''\n"
        "@workflow\nasync def flow() -> int:\n    raise F(text='a')\n"
    }.get(text, f"from dressage.flow import UserTask\nu = {text}\n")
    with pytest.raises(DefinitionError) as refusal:
        define(PREAMBLE + body)
    assert what in refusal.value.message


UNFOUND = {
    "list of records": "list[Inner]",
    "dict of records": "dict[str, Inner]",
    "masked record": "Masked[Inner]",
    "tuple with names": "Pair",
}


@pytest.mark.parametrize("name", UNFOUND)
def test_a_mark_that_no_path_leads_to_is_refused_where_the_view_is_made(
    name: str, define: Callable[[str], ModuleType]
) -> None:
    text = (
        f"{PREAMBLE}@dataclass\nclass Inner:\n    city: Searchable[str] = ''\n"
        "class Pair(NamedTuple):\n    city: Searchable[str]\n"
        f"@dataclass\nclass Shown:\n    inside: {UNFOUND[name]}\n    status: Searchable[str] = ''\n"
        f"@workflow\nasync def flow(given: {UNFOUND[name]}) -> int:\n    ‸view = Shown(given)\n    return 1\n"
    )
    said = refused(text, define)
    assert "inside" in said[0]
    assert "nothing can be searched for" in said[0]
