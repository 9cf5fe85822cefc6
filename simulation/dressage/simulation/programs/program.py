"""Writes random workflows: the same generator feeds the equality fuzzing and the simulation.

A construct of the language is one function here, registered by `@construct`. A feature that adds one to the
language adds its function, and from then on it is fuzzed against Python and run through every fault.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from dressage.simulation.programs.data import ATOMS, FIRST, FORMS_BY_TYPE, SHOWN, TARGETS, group_of
from dressage.simulation.programs.forms import HOLE

_HEAD = """\
from __future__ import annotations
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from uuid import UUID
from dressage.flow import Event, Exponential, Saga, Searchable, TaskError, TaskTimeout, WorkflowFailure
from dressage.flow import Rate, UserTask, UserTaskCancelled
from dressage.flow import first_completed, first_successful, gather, inherited, interruptible, publish
from dressage.flow import sleep, sleep_until, task, wait_until, workflow

BEGAN = datetime.fromtimestamp({began_s}, timezone.utc)

told = Event("told", of=int)
filed = Event("filed", of=int)
never = Event("never")
rung = Event("rung", of=int)
chimed = Event("chimed", of=int)

class Declined(WorkflowFailure):
    n: int

class Stolen(Declined):
    owner: str = "nobody"

class Other(WorkflowFailure):
    n: int
    due: Decimal | None = None

@dataclass
class View:
    status: Searchable[str] = "NEW"
    count: int = 0
    gate: int = 0
    due: datetime = BEGAN

@dataclass
class Pair:
    left: int
    right: str = "r"

class Tier(Enum):
    BASIC = "basic"
    GOLD = "gold"

@dataclass
class Item:
    size: int
    tier: Tier = Tier.BASIC
    note: str | None = None
    parts: list[int] = field(default_factory=list)

asked = UserTask("asked", form=Pair)

def plus(x: int, y: int = 1) -> int:
    return x * 2 + y

def echo(text: str, *, times: int = 2) -> str:
    return "|".join([text] * (times % 4))[:40]

"""

_SIGNATURES: Final = (
    "number(x: int) -> int",
    "word(x: int, y: str = 'w') -> str",
    "both(x: int) -> tuple[int, str]",
    "hung(x: int) -> int",
)
TASKS: Final = tuple(signature.partition("(")[0] for signature in _SIGNATURES)
"""The tasks that every program may call; `hung` is never done."""

TOLD: Final = "told"
"""The external event that comes as often as a program waits for it, with an integer; the event `never` never does."""

RINGS: Final = ("rung", "chimed")
"""The external events that interrupt what programs do, with an integer."""

FILED: Final = "filed"
"""The external event that programs wait for at the correlation keys `k0` to `k2`; the key alone says what it brings."""
ASKED: Final = "asked"
"""The user task that programs give to groups; the notes alone say what becomes of it."""

SHOP: Final = "shop"
"""How the subjects begin that programs publish on, and the stream that captures them."""

FAILURES: Final = ("Declined", "Stolen", "Other")

Write = Callable[["Program", int], None]
CONSTRUCTS: dict[str, Write] = {}
"""Statements by name. How often one is chosen is how often `_POOL` holds it."""

VIEWERS: dict[str, Write] = {}
"""Functions whose calls wait for the view, or change it, by their names, each with what writes its statements."""

PLACES: Final = ("except", "finally", "loop-else", "try-else")
"""The blocks of a construct that are told apart from the others of it."""

LEAVING: Final = ("raise", "return", "break", "continue", "again")
"""What may end a block."""

_WRITTEN_BY: Final = {"except": "handled", "finally": "handled", "loop-else": "loop", "try-else": "handled"}
"""A construct that writes each of the places."""

_POOL: list[str] = []
_NESTED: list[str] = []


def can_nest(outer: str, inner: str) -> bool:
    """Whether a construct can stand directly inside of another one, or of a place."""
    return outer != "finally" or inner not in ("return", "break", "continue", "again")


def holders() -> list[str]:
    """What other constructs stand in."""
    return [*dict.fromkeys(_NESTED), *PLACES]


def construct(weight: int = 1, *, nested: bool = False) -> Callable[[Write], Write]:
    """Registers a function that writes one statement at a depth; `nested` ones hold blocks of their own."""

    def register(write: Write) -> Write:
        name = write.__name__
        CONSTRUCTS[name] = write
        (_NESTED if nested else _POOL).extend([name] * weight)
        return write

    return register


def viewer(write: Write) -> Write:
    """Registers what writes a function of this name that waits for the view, or changes it meanwhile."""
    VIEWERS[write.__name__] = write
    return write


class Program:
    """One random workflow function, with the functions that it awaits. Loops are short, so that every program ends.

    `naps` is how a duration is written from an integer expression, `moments` how a moment is, in which `BEGAN` stands
    for `began_s`, in seconds since 1970; `task_options` are those of each task;
    `length` is how many statements stand at the top; one that `parks` sleeps for a month before its end if x is 3.
    One that `tells` publishes at its begin and at its end. In a `sure` one no race depends on how long anything takes.
    `wish` is a construct, and one that it is likely to stand directly in, for pairs that chance alone seldom writes.
    """

    def __init__(
        self,
        seed: int,
        *,
        name: str = "flow",
        naps: str = "timedelta(microseconds={})",
        moments: str = "BEGAN + timedelta(milliseconds=40 * ({}) % 400)",
        began_s: int = 1_800_000_000,
        task_options: str = "",
        length: tuple[int, int] = (2, 6),
        parks: bool = False,
        tells: bool = False,
        sure: bool = False,
        wish: tuple[str, str] = ("", ""),
    ) -> None:
        self.random = random.Random(seed)
        self.name = name
        self.naps = naps
        self.moments = moments
        self.began_s = began_s
        self.task_options = task_options
        self.length = length
        self.parks = parks
        self.tells = tells
        self.sure = sure
        self.wish = wish
        self.lines: list[str] = []
        self.functions: list[str] = []
        """Those that a statement may await, all of them from an int to an int."""

        self.racers: list[str] = []
        """The same, for races: none of them ends before it has waited for something."""

        self.in_function = False
        self.nest_max = 3
        """So many constructs with blocks of their own, and parts of such, stand inside of each other."""

        self.in_final = False
        self.loops = 0
        self.in_loop: list[str] = []
        self.caught: list[str] = []
        self.around: list[str] = []
        """What the place that is written stands in, from the outside in."""

        self.used: Counter[str] = Counter()
        """How often each construct was written, groups of expressions among them."""

        self.pairs: Counter[tuple[str, str]] = Counter()
        """How often each construct was written directly inside of another one."""

    def text(self) -> str:
        """The whole module."""
        around = self._function("common", 0) + self._child("apart")
        nested = self._function("part", 1) + self._function("piece", 1)
        nested += self._racer("loser", ends=False) + ("" if self.sure else self._racer("racer", ends=True))
        nested += "".join(self._of_the_view(name, write) for name, write in VIEWERS.items())
        if self.sure:
            # An event that interrupts does nothing that would be noticed.
            nested += f"    async def quiet(x: int) -> None:\n        await sleep({self.naps.format('3')})\n"
        self.write(1, "a, b, s = 3, x, 't'")
        self.write(1, "view = View()" if self.random.random() < 0.7 else "view, t = View(), await word(x)")
        self.write(1, "t = 'u'")
        if self.tells:
            self.write(1, f"await publish('{SHOP}.begun', x)")
        first = len(self.lines)
        self.block(1, self.random.randint(*self.length))
        if self.parks:
            self.write(1, "if x == 3:")
            self.write(2, "await sleep(timedelta(days=30))")
        self.write(1, f"a = {self.integer()}")
        if self.tells:
            self.write(1, f"await publish(f'{SHOP}.ended.{{a}}', [s, b])")
        told = self._with_first_values(1, first)
        self.write(1, f'return f"{{a}}|{{b}}|{{s}}|{{t}}|{{view.count}}|{{view.status}}{told}"')
        decorator = f"@task({self.task_options})" if self.task_options else "@task"
        tasks = "".join(f"{decorator}\nasync def {each}: raise NotImplementedError\n" for each in _SIGNATURES)
        head = _HEAD.replace("{began_s}", str(self.began_s))
        around += "CHOICES = {0: number, 1: apart, 2: number}\n"
        head += f'{tasks}\n{around}\n@workflow(name="{self.name}")\nasync def flow(x: int) -> str:\n'
        return head + nested + "".join(self.lines)

    def _function(self, name: str, depth: int, inherits: str = "") -> str:
        """An async function from an int to an int, with variables of its own; it may await those before it. It
        `inherits` one of them, if it is a workflow."""
        lines, self.lines = self.lines, []
        # What a function holds stands in the spec once for each call of it.
        self.in_function, self.nest_max = True, 1
        more = f", {inherits}: int = inherited()" if inherits else ""
        self.write(depth, f"async def {name}(x: int{more}) -> int:")
        self.write(depth + 1, "a, s, t = 3, 't', 'u'" if inherits == "b" else "a, b, s, t = 3, x, 't', 'u'")
        first = len(self.lines)
        self.block(depth + 1, self.random.randint(1, 2))
        self.write(depth + 1, f"return {self.integer()}")
        self._with_first_values(depth + 1, first)
        self.in_function, self.nest_max = False, 3
        self.functions.append(name)
        self.lines, written = lines, self.lines
        return "".join(written)

    def _child(self, name: str) -> str:
        """Another workflow, of which a run is started wherever it is awaited."""
        return f'@workflow(name="{self.name}-{name}")\n{self._function(name, 0, "b")}'

    def _racer(self, name: str, *, ends: bool) -> str:
        """A function for races. One that does not end waits for what never comes, and says so when it has lost."""
        lines, self.lines = self.lines, []
        self.in_function, self.nest_max = True, 1
        self.write(1, f"async def {name}(x: int) -> int:")
        self.write(2, "a, b, s, t = 3, x, 'k', 'u'")
        first = len(self.lines)
        saga = self.random.random() < 0.3
        self.write(2, "async with Saga() as saga:" if saga else "try:")
        if ends:
            self.write(3, f"a = await number({self.integer()})")
        if saga:
            self.write(3, f"saga.undo({self.pick('word, a', 'number, b', 'word, a, y=s')})")
        if ends:
            self.block(3, self.random.randint(0, 2))
        else:
            self.write(3, "await never.wait()")
        if not saga:
            self.final(2)
        self.write(2, f"return {self.integer()}")
        self._with_first_values(2, first)
        self.in_function, self.nest_max = False, 3
        self.racers.append(name)
        self.lines, written = lines, self.lines
        return "".join(written)

    def _of_the_view(self, name: str, write: Write) -> str:
        """A function that waits for what becomes of the view, or changes it meanwhile."""
        lines, self.lines = self.lines, []
        self.in_function, self.nest_max = True, 1
        self.write(1, f"async def {name}(x: int) -> int:")
        self.write(2, "a, b, s, t = 3, x, 'v', 'u'")
        first = len(self.lines)
        write(self, 2)
        self.write(2, f"return {self.integer()}")
        self._with_first_values(2, first)
        self.in_function, self.nest_max = False, 3
        self.lines, written = lines, self.lines
        return "".join(written)

    def _with_first_values(self, depth: int, first: int) -> str:
        """Gives the variables of data that are named from line `first` on their first values in front of it.

        The text of an f-string that shows them all.
        """
        words = set(re.findall(r"[a-z]\w*", "".join(self.lines[first:])))
        named = [name for name in FIRST if name in words]
        lines = [f"{'    ' * depth}{name} = {FIRST[name]}\n" for name in named]
        self.lines[first:first] = lines
        return "".join(f"|{SHOWN[name]}" for name in named if name in SHOWN)

    def write(self, depth: int, line: str) -> None:
        self.lines.append("    " * depth + line + "\n")

    def pick(self, *options: str) -> str:
        return self.random.choice(options)

    # -- data ----------------------------------------------------------------------------------------
    def data(self, kind: str, depth: int = 2) -> str:
        """An expression of a type of `forms`; small values only, whatever loop it stands in."""
        form = self.random.choice(FORMS_BY_TYPE[kind])
        return self.formed(form, depth, {})

    def formed(self, form: str, depth: int, own: dict[str, str]) -> str:
        self.used[group_of(form)] += 1

        def hole(found: re.Match[str]) -> str:
            kind, mark, name = str(found[1]), found[2], found[3]
            if mark == ".":
                return self.random.choice([atom for atom in ATOMS[kind] if atom.isidentifier()])
            return self._smaller(kind, depth - 1, {**own, name: "I"} if name else own)

        return HOLE.sub(hole, form[3:])

    def _smaller(self, kind: str, depth: int, own: dict[str, str]) -> str:
        names = [name for name, its_kind in own.items() if its_kind == kind]
        if names and self.random.random() < 0.5:
            return self.random.choice(names)
        inside = [form for form in FORMS_BY_TYPE[kind] if ":=" not in form and "f'" not in form]
        if depth > 0 and inside and self.random.random() < 0.3:
            return f"({self.formed(self.random.choice(inside), depth, own)})"
        atom = self.random.choice(ATOMS[kind])
        return atom if atom.isidentifier() else f"({atom})"

    def compute(self, depth: int) -> None:
        """Sets a variable of data to an expression of its type; what grows is cut, so that no loop makes it large."""
        kind = self.random.choice(list(TARGETS))
        target, cut = TARGETS[kind]
        self.write(depth, f"{target} = ({self.data(kind)}){cut}")

    # -- expressions -------------------------------------------------------------------------------
    def integer(self, depth: int = 0) -> str:
        kind = self.random.randint(0, 12 if depth < 3 else 3)
        inner = depth + 1
        if kind <= 1:
            return str(self.random.randint(-3, 9))
        if kind <= 3:
            return self.pick("a", "b", "x") if self.in_function else self.pick("a", "b", "x", "view.count")
        if kind <= 6:
            operator = self.pick(*"+-*&|" * 4, "//", "%")
            return f"({self.integer(inner)} {operator} {self.integer(inner)})"
        if kind == 7:
            return f"({self.integer(inner)} if {self.test(inner)} else {self.integer(inner)})"
        if kind == 8:
            return f"len({self.string(inner)})"
        if kind == 9:
            place = self.pick(*"010101", "-1", "-2", self.integer(3))
            both = f"{self.integer(inner)}, {self.integer(inner)}"
            return f"{self.pick(f'[{both}]', f'({both})')}[{place}]"
        if kind == 10:
            return f"{self.pick('min', 'max')}({self.integer(inner)}, {self.integer(inner)})"
        if kind == 11:
            return f"Pair({self.integer(inner)}, right={self.string(inner)}).left"
        return f"len({self.pick('nums', 'words', 'table', 'kinds', 'shelf', 'item.parts')})"

    def string(self, depth: int = 0) -> str:
        kind = self.random.randint(0, 8 if depth < 3 else 2)
        inner = depth + 1
        if kind <= 1:
            return self.pick("'k'", "'Lm '", "''")
        if kind == 2:
            return self.pick("s", "t") if self.in_function else self.pick("s", "t", "view.status")
        if kind == 3:
            return f"({self.string(inner)} + {self.string(inner)})"
        if kind == 4:
            return f"{self.string(inner)}.{self.pick('upper', 'lower', 'strip')}()"
        if kind == 5:
            return f'f"{{{self.variable()}!r:>4}}:{{{self.variable()}}}"'
        if kind == 6:
            return f"Pair({self.integer(inner)}).right"
        if kind == 7:
            return self.pick("item.tier.value", "tier.name", "str(item.note or 'none')", "str(text)")
        key = self.pick(*(["'k'", "'l'"] * 5), "s")
        return f"{{'k': {self.string(inner)}, 'l': {self.string(inner)}}}[{key}]"

    def variable(self) -> str:
        names = ("a", "b", "s", "t", "x")
        return self.pick(*names) if self.in_function else self.pick(*names, "view.count", "view.status")

    def test(self, depth: int = 0) -> str:
        kind = self.random.randint(0, 8 if depth < 3 else 2)
        inner = depth + 1
        if kind <= 2:
            operator = self.pick("<", "<=", "==", "!=", ">", ">=")
            return f"{self.integer(inner)} {operator} {self.integer(inner)}"
        if kind == 3:
            return f"{self.integer(inner)} < {self.integer(inner)} <= {self.integer(inner)}"
        if kind == 4:
            return f"({self.test(inner)} {self.pick('and', 'or')} not {self.test(inner)})"
        if kind == 5:
            return f"{self.string(inner)} {self.pick('in', 'not in')} {self.string(inner)}"
        if kind == 6:
            return self.pick("item.tier is Tier.GOLD", "item.note is None", "tier == item.tier", "item.parts")
        if kind == 7:
            return f"({self.data('B', 1)})"
        return f"({self.integer(inner)} or {self.integer(inner)})"

    def call(self) -> tuple[str, str]:
        """A variable and the call whose result it takes."""
        options = self._deadline() if self.random.random() < 0.12 else ""
        if self.random.random() < 0.5:
            return self.pick("a", "b"), f"await number{options}({self.integer()})"
        return self.pick("s", "t"), f"await word{options}({self.integer()}, y={self.string()})"

    def _deadline(self) -> str:
        """Options of a call that is done in time, or may be."""
        long = self.sure or self.random.random() < 0.3
        time = "days=30" if long else f"milliseconds={self.random.randint(2, 60)}"
        return f".options(deadline=timedelta({time}))"

    def hung(self) -> str:
        """A call that is not done in time."""
        kind = self.pick("deadline", "timeout", "heartbeat") if self.sure else "deadline"
        time = f"timedelta(milliseconds={self.random.randint(1, 2000 if self.sure else 60)})"
        return f"await hung.options({kind}={time})({self.integer()})"

    # -- statements --------------------------------------------------------------------------------
    def block(self, depth: int, size: int) -> None:
        """Writes some statements; the last may leave the block."""
        for _ in range(size):
            self.statement(depth)
        if depth > 1 and self.random.random() < (0.9 if self._is_wished() else 0.6 if self.in_else else 0.3):
            if self.random.random() < 0.8:
                # What follows the block stays in reach, whatever else leaves it.
                self.write(depth, f"if {self.test()}:")
                depth += 1
            self.leave(depth)
        elif not size:
            self.write(depth, "pass")

    def statement(self, depth: int) -> None:
        has_room = len(self.around) < self.nest_max
        kind = self._wished(has_room) or self.random.choice([*_POOL, *(_NESTED if has_room else ())])
        if kind == "view" and self.in_function:
            kind = "assign"
        self._note(kind)
        with self.inside(kind):
            CONSTRUCTS[kind](self, depth)

    def _wished(self, has_room: bool) -> str:
        """The construct that is wished here, or one on the way to where it is; most often nothing."""
        inner, outer = self.wish
        if not inner or self.in_function:
            return ""
        if self._is_wished():
            fits = inner in CONSTRUCTS and (has_room or inner not in _NESTED)
            return inner if fits and self.random.random() < 0.7 else ""
        way = _WRITTEN_BY.get(outer, outer)
        if inner in ("break", "continue") and not self.in_loop:
            way = "loop"
        return way if has_room and len(self.around) < 2 and self.random.random() < 0.4 else ""

    def _is_wished(self) -> bool:
        """Whether what is written now stands where the wish wants it."""
        return bool(self.around) and self.around[-1] == self.wish[1]

    def _note(self, kind: str) -> None:
        self.used[kind] += 1
        if self.around:
            self.pairs[self.around[-1], kind] += 1

    @property
    def in_else(self) -> bool:
        """Directly in a place that is rarely written, so that whatever may stand in it has to come often."""
        return bool(self.around) and self.around[-1] in ("loop-else", "try-else")

    @contextmanager
    def inside(self, kind: str) -> Iterator[None]:
        """What is written meanwhile stands in this."""
        self.around.append(kind)
        yield
        self.around.pop()

    def final(self, depth: int) -> None:
        """A `finally` clause."""
        self.write(depth, "finally:")
        caught, self.caught = self.caught, []
        in_loop, self.in_loop = self.in_loop, []
        in_final, self.in_final = self.in_final, True
        with self.inside("finally"):
            self.block(depth + 1, self.random.randint(1, 2))
        self.caught, self.in_loop, self.in_final = caught, in_loop, in_final

    def leave(self, depth: int) -> None:
        # To leave a `finally` body otherwise than by a failure is refused.
        kinds = ["raise"] if self.in_final else ["raise", "return"]
        place = self.around[-1] if self.around else ""
        kinds += ["break", "continue"] * (6 if place == "except" else 3) if self.in_loop else []
        if self.caught:
            rare = self.in_else or place in ("loop", "each", "handled")
            kinds += ["again"] * (60 if rare else 9 if self.in_loop or len(self.around) > 2 else 4)
        kind = self.random.choice(kinds)
        if self._is_wished() and self.wish[0] in kinds:
            kind = self.wish[0]
        self._note(kind)
        if kind in ("break", "continue"):
            self.write(depth, kind)
        elif kind == "again":
            self.write(depth, self.pick("raise", f"raise {self.caught[-1]}".strip()))
        elif kind == "raise":
            failure = self.random.choice(FAILURES)
            cause = self.pick("", " from None")
            more = (
                {"Stolen": ", owner=s", "Other": ", due=Decimal(a)"}.get(failure, "")
                if len(self.lines) % 2
                else ""
            )
            self.write(depth, f'raise {failure}(f"{{{self.variable()}}}", n={self.integer()}{more}){cause}')
        elif self.in_function:
            self.write(depth, self.pick(f"return {self.integer()}", f"return await number({self.integer()})"))
        else:
            # The last of these shows whatever a `finally` on the way changes.
            options = (
                f"return {self.string()}",
                f"return await word({self.integer()})",
                "return f'{a}|{b}|{s}|{t}'",
            )
            self.write(depth, self.pick(*options))
