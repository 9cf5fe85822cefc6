"""The statements of the language, each as one function that writes a random one."""

from __future__ import annotations

from typing import Final, NamedTuple

from dressage.simulation.programs.program import SHOP, Program, construct, viewer


@construct()
def assign(program: Program, depth: int) -> None:
    pick, integer, string = program.pick, program.integer, program.string
    program.write(depth, pick(f"a = {integer()}", f"b = {integer()}", f"s = {string()}"))


@construct()
def augment(program: Program, depth: int) -> None:
    operator = program.pick("+", "-", "*")
    program.write(depth, program.pick(f"a {operator}= {program.integer()}", f"t += {program.string()}"))


@construct()
def view(program: Program, depth: int) -> None:
    line = program.pick(
        f"view.count = {program.integer()}",
        f"view.count += {program.integer()}",
        f"view.status = {program.string()}",
        f"view.count = await number({program.integer()})",
        f"view = View(count={program.integer()})",
    )
    program.write(depth, line)


@construct(weight=2)
def call(program: Program, depth: int) -> None:
    target, text = program.call()
    program.write(depth, text if program.random.random() < 0.3 else f"{target} = {text}")


@construct()
def several(program: Program, depth: int) -> None:
    lines = [
        f"a, b = b, {program.integer()}",
        f"a, s = await number({program.integer()}), {program.string()}",
        f"a, b = {program.integer()}, await number(a)",
        f"s, t, a = t, await word(a, s), {program.integer()}",
    ]
    if not program.in_function:
        lines.append(f"view.count, a, view.status = a, await number(view.count), {program.string()}")
    program.write(depth, program.random.choice(lines))


@construct()
def helper(program: Program, depth: int) -> None:
    """Calls of functions without `async`, which are computed inside the expression."""
    integer, string = program.integer, program.string

    def inside() -> str:
        """For a comprehension, in which no variable may be set."""
        text = integer()
        return "a" if ":=" in text else text

    line = program.pick(
        f"a = plus({integer()}, y={integer()})",
        f"b = plus(plus(await number({integer()})))",
        f"a, b = await number({integer()}), plus(y=b, x={integer()})",
        f"s = echo({string()}, times={integer()})",
        f"t = echo(await word(a, {string()}))",
        f"b = sum(plus(n, {inside()}) for n in range(3) if plus(n) < b)",
    )
    program.write(depth, line)


@construct()
def unpack(program: Program, depth: int) -> None:
    program.write(depth, f"a, t = await both({program.integer()})")


@construct(weight=2)
def computed(program: Program, depth: int) -> None:
    """What may well be an error, most often caught."""
    if program.random.random() < 0.3:
        program.compute(depth)
        return
    program.write(depth, "try:")
    program.compute(depth + 1)
    name = f"e{len(program.lines)}"
    program.write(
        depth, f"except {program.pick('Exception', '(LookupError, ValueError, Exception)')} as {name}:"
    )
    program.write(depth + 1, f"{program.pick('s', 't')} = f'{{{name}}}'[:40]")


@construct()
def record(program: Program, depth: int) -> None:
    integer, string, test = program.integer, program.string, program.test
    tier = program.pick("Tier.GOLD", "tier", "item.tier", f"Tier.GOLD if {test()} else Tier.BASIC")
    lines = [
        f"item = Item({integer()})",
        f"item = Item({integer()}, {tier}, note=None if {test()} else {string()})",
        f"item = Item(size={integer()}, parts=[{integer()}, *item.parts[:3]])",
        f"tier = {tier}",
        f"tier = item.tier if {test()} else {tier}",
        f"s = item.note if item.note is not None else {string()}",
        f"a = {{Tier.GOLD: {integer()}, Tier.BASIC: {integer()}}}[{tier}]",
        f"b = item.size if item == Item({integer()}) else sum(item.parts)",
        f"shelf = [item, Item({integer()}, tier={tier})]",
        f"shelf = sorted(shelf, key=lambda each: (each.tier.value, -each.size))[:{integer()} % 3]",
        "t = ','.join(each.tier.value for each in shelf if each.note is None)",
        f"a = sum(each.size for each in shelf if each.tier == {tier.partition(' if')[0]})",
        f"table = {{each.tier.name: each.size for each in shelf}} | {{'k': {integer()}}}",
    ]
    program.write(depth, program.random.choice(lines))


@construct()
def walrus(program: Program, depth: int) -> None:
    integer, string = program.integer, program.string
    lines = [
        f"b = (a := {integer()}) + a * 2",
        f"s = t if (t := {string()}) else (s := {string()}) + t",
        f"b = a if 1 < (a := {integer()}) < 5 else {integer()}",
        f"s, a = {string()}, [a, (a := {integer()}), a][-1]",
        f"a = await number((b := {integer()})) + b",
    ]
    program.write(depth, program.random.choice(lines))


@construct()
def inline(program: Program, depth: int) -> None:
    """An await inside an expression."""
    integer, string, test = program.integer, program.string, program.test
    lines = [
        f"a = {integer()} - await number({integer()})",
        f"a = {integer()} // ({integer()}) - await number({integer()})",
        f"b = [{integer()}, b][a % 3] + await number({integer()})",
        f"b = [await number({integer()}), {integer()}][{integer()} % 2]",
        f"s = await word({integer()}) if {test()} else {string()}",
        f"b = ({integer()} and await number({integer()})) + 1",
        f"a += await number({integer()})",
        f"t = {string()} + f'{{await number(a)}}'",
        f"b = await number(await number({integer()}))",
        f"a = a + await number((a := {integer()}))",
        f"s = s + await word({integer()}, y=(s := {string()}))",
    ]
    program.write(depth, program.random.choice(lines))


@construct()
def sleep(program: Program, depth: int) -> None:
    program.write(depth, f"await {_sleep(program)}")


def _sleep(program: Program) -> str:
    if program.random.random() < 0.3:
        return f"sleep_until({program.moments.format(program.integer())})"
    return f"sleep({program.naps.format(program.integer())})"


@construct()
def published(program: Program, depth: int) -> None:
    """Tells others; now and then on a subject that may be none, which most often is caught."""
    integer, string, test = program.integer, program.string, program.test
    data = program.random.choice(
        [
            integer(),
            string(),
            f"{integer()} if {test()} else None",
            f"[{integer()}, {string()}, x]",
            f"{{'n': {integer()}, 's': [{string()}]}}",
            f"(a, Pair({integer()}, {string()}))",
            "item",
            "[item, *shelf]",
            "{'table': table, 'at': when, 'day': day, 'took': span, 'by': uid}",
            "[m, f, tup, tier, raw]",
        ]
    )
    if program.random.random() < 0.8:
        subject = program.pick(
            f"'{SHOP}.a'", f"f'{SHOP}.{{a}}'", f"f'{SHOP}.{{x}}.{{len(s)}}'", f"'{SHOP}.' + str(b)"
        )
        program.write(depth, f"await publish({subject}, {data})")
        return
    subject = program.pick(
        f"f'{SHOP}.{{s}}'",
        f"'{SHOP}.' + {string()}",
        "s + ' '",
        f"'{SHOP}.{{}}.' + '*'",
        f"'{SHOP}.' + t * 300",
    )
    if program.random.random() < 0.3:
        program.write(depth, f"await publish({subject}, {data})")
        return
    program.write(depth, "try:")
    program.write(depth + 1, f"await publish({subject}, {data})")
    _error_clause(program, depth, program.pick("ValueError", "(LookupError, ValueError)", "Exception"))


@construct(weight=2, nested=True)
def choice(program: Program, depth: int) -> None:
    program.write(depth, f"if {program.test()}:")
    program.block(depth + 1, program.random.randint(0, 2))
    if program.random.random() < 0.4:
        program.write(depth, f"elif {program.test()}:")
        program.block(depth + 1, program.random.randint(0, 2))
    if program.random.random() < 0.5:
        program.write(depth, "else:")
        program.block(depth + 1, program.random.randint(0, 2))


@construct()
def starred(program: Program, depth: int) -> None:
    integer, string = program.integer, program.string
    lines = [
        f"a, *r = [{integer()}, {integer()}, {integer()}]",
        f"*r, s = {string()}, {string()}",
        f"(a, b), s = ({integer()}, {integer()}), {string()}",
        f"s, t = [{string()}, {string()}]",
        f"a = b = {integer()}",
    ]
    program.write(depth, program.random.choice(lines))


@construct()
def awaited(program: Program, depth: int) -> None:
    if not program.functions:
        call(program, depth)
        return
    text = f"await {program.pick(*program.functions)}({program.integer()})"
    program.write(depth, text if program.random.random() < 0.3 else f"{program.pick('a', 'b')} = {text}")


@construct()
def chosen(program: Program, depth: int) -> None:
    """A task, or another workflow, that is looked up; one key in four is of none of them."""
    if "apart" not in program.functions:
        call(program, depth)
        return
    integer, target = program.integer, program.pick("a", "b")
    line = program.pick(
        f"{target} = await CHOICES[{integer()} % 4]({integer()})",
        f"{target} = await CHOICES[await number({integer()}) % 3](await number({integer()}))",
        f"{target}, _ = await gather(CHOICES[{integer()} % 3]({integer()}), CHOICES[0](2))",
        f"if {integer()} % 5 in CHOICES: {target} = await CHOICES[{integer()} % 3]({integer()})",
    )
    if "% 4" not in line or program.random.random() < 0.3:
        program.write(depth, line)
        return
    program.write(depth, "try:")
    program.write(depth + 1, line)
    program.write(depth, "except KeyError:")
    program.write(depth + 1, f"{target} = await number({integer()})")


@construct()
def started(program: Program, depth: int) -> None:
    """A run of another workflow that nobody waits for."""
    if "apart" not in program.functions:
        call(program, depth)
        return
    policy = program.pick("abandon", "request", "cancel") if program.sure else "abandon"
    options = program.pick("", f".options(parent_close='{policy}')")
    program.write(depth, f"await apart{options}.start({program.integer()})")


@construct()
def heard(program: Program, depth: int) -> None:
    """Waits for an event that comes. Not in functions: several branches could wait for it at a time."""
    if program.in_function:
        call(program, depth)
        return
    timeout = program.pick("", "timeout=timedelta(days=30)", "timeout=2_592_000")
    program.write(depth, f"{program.pick('a', 'b', 'view.count')} = await told.wait({timeout})")


@construct()
def keyed(program: Program, depth: int) -> None:
    """Waits at a correlation key, where other runs and other branches may wait, too, for an event that comes. Not in
    functions: in a race Python would have it at once."""
    if program.in_function:
        call(program, depth)
        return
    timeout = program.pick("", "", ", timeout=timedelta(days=30)")
    program.write(depth, f"{program.pick('a', 'b', 'view.count')} = await {_filed(program, timeout)}")


def _filed(program: Program, more: str = "") -> str:
    return f"filed.wait(key='k' + str(({program.integer()}) % 3){more})"


@construct()
def people(program: Program, depth: int) -> None:
    """Gives a user task to a group, which does it in time, or cancels it. Not in functions: in a race Python would have
    it done at once."""
    if program.in_function:
        call(program, depth)
        return
    given = [f"group={program.pick(repr('g'), repr('g'), 's')}", f"notes={program.string()}"]
    program.random.shuffle(given)
    given += [each for each in _OF_PEOPLE if program.random.random() < 0.25]
    line = f"{program.pick('a', 'b')} = (await asked.assign({', '.join(given)})).left"
    if program.random.random() < 0.4:
        program.write(depth, line)
        return
    program.write(depth, "try:")
    program.write(depth + 1, line)
    program.write(depth, f"except {program.pick('UserTaskCancelled', 'Exception')} as person:")
    program.write(depth + 1, "t = f'{person}'[:40]")


_OF_PEOPLE: Final = (
    "due=timedelta(seconds=1)",
    "remind=timedelta(seconds=2)",
    "escalate_after=timedelta(seconds=3), escalate_to='leads'",
    "timeout=timedelta(days=30)",
)


@construct(weight=2, nested=True)
def missed(program: Program, depth: int) -> None:
    """Waits for an event that does not come in time, or for a task that is not done."""
    program.write(depth, "try:")
    if program.random.random() < 0.3:
        gathered(program, depth + 1)
    program.block(depth + 1, program.random.randint(0, 2))
    classes = ["TimeoutError", "OSError", "(LookupError, TimeoutError)", "Exception"]
    if program.random.random() < 0.35:
        program.write(depth + 1, program.hung())
        classes += ["TaskError", "TaskTimeout"]
    else:
        key = program.pick("", "key='k', ", f"key={program.string()}, ")
        key = key.replace("key='',", "key=s[:0],")  # The constant is refused where it is written.
        program.write(depth + 1, f"await never.wait({key}timeout={program.naps.format(program.integer())})")
    _error_clause(program, depth, program.pick(*classes))


@construct()
def gathered(program: Program, depth: int) -> None:
    kinds = [
        program.random.randint(0, 3 if program.functions else 2) for _ in range(program.random.randint(1, 3))
    ]
    if program.functions and program.random.random() < 0.3:
        # The same statements side by side: each branch has variables of its own.
        function, kinds = program.pick(*program.functions), [3, 3]
        calls = ", ".join(f"{function}({program.integer()})" for _ in kinds)
    else:
        calls = ", ".join(_branch(program, kind) for kind in kinds)
    targets = ["_", program.pick("a", "b"), program.pick("s", "t"), program.pick("a", "b")]
    names = ", ".join(targets[kind] for kind in kinds)
    line = f"await gather({calls})"
    program.write(
        depth, line if program.random.random() < 0.3 else f"{names}{',' * (len(kinds) == 1)} = {line}"
    )


def _branch(program: Program, kind: int) -> str:
    if kind == 0:
        if program.random.random() < 0.15:
            return f"never.wait(timeout={program.naps.format(program.integer())})"
        return _sleep(program)
    if kind == 1:
        filed = not program.in_function and program.random.random() < 0.2
        return _filed(program) if filed else f"number({program.integer()})"
    if kind == 2:
        return f"word({program.integer()}, y={program.string()})"
    return f"{program.pick(*program.functions)}({program.integer()})"


@construct()
def fanned(program: Program, depth: int) -> None:
    """A branch for each item of a list, of which only some run at a time."""
    integer, string = program.integer, program.string
    items, names = program.random.choice(
        [
            (f"[{integer()}, {integer()}, {integer()}, {integer()}]", "n"),
            (f"range(({integer()}) % 7)", "n"),
            (f"{string()}", "c"),
            (f"enumerate({string()})", "n, c"),
            (f"{{'k': {integer()}, 'l': {integer()}}}.items()", "c, n"),
            (f"zip([{integer()}, {integer()}, a], {string()})", "n, c"),
        ]
    )
    number = "n" if "n" in names else "len(c)"
    text = "c" if "c" in names else "str(n)"
    calls = [
        (f"number({number} + {integer()})", "sum(got_{0})"),
        (f"word({number}, y={text} + {string()})", "len(''.join(got_{0}))"),
        (f"sleep({program.naps.format(number)})", "len(got_{0})"),
        (f"publish(f'{SHOP}.{{{number}}}', {text})", "len(got_{0})"),
    ]
    calls += [(f"{function}({number} - b)", "sum(got_{0})") for function in program.functions]
    branch, result = program.random.choice(calls)
    only = f" if {number} != {integer()}" if program.random.random() < 0.3 else ""
    written = f"{branch} for {names} in {items}{only}"
    if ":=" in written:  # No variable may be set in a comprehension.
        written, result = "number(n - b) for n in [a, b, x]", "sum(got_{0})"
    written = program.pick(f"*({written})", f"*[{written}]")
    limit = program.pick("", f", limit=({integer()}) % 3", ", limit=2", f", limit=1 + ({integer()}) % 4")
    if "(" in limit and not written.startswith("*["):
        # Python looks at a limit before it goes through a generator: where both may fail it is to be computed before.
        held = f"limit_{len(program.lines)}"
        program.write(depth, f"{held} = {limit.partition('=')[2]}")
        limit = f", limit={held}"
    got = f"got_{len(program.lines)}"
    program.write(depth, f"{got} = await gather({written}{limit})")
    program.write(depth, f"{program.pick('a', 'b')} = {result.format(len(program.lines) - 1)}")


OPEN: Final = 9
"""The gate that each opener leaves behind, whatever else becomes of it; what others make of it is above that."""


@construct()
def agreed(program: Program, depth: int) -> None:
    """Branches that wait for what others make of the view. Not in functions: it has one gate."""
    if program.in_function:
        call(program, depth)
        return
    program.write(depth, f"view.gate = {0 if program.sure else program.integer()}")
    opens, waits = f"view.gate >= {OPEN}", f"waiter({program.integer()})"
    branches = [f"opener({program.integer()})", program.pick(waits, waits, f"wait_until(lambda: {opens})")]
    branches += program.random.choices(branches, k=program.random.randint(0, 1))
    program.random.shuffle(branches)
    # Who is first is certain where it is certain how long everything takes.
    races = ["first_completed"] if not program.sure else []
    function = program.random.choice(["gather", "gather", *races])
    program.write(depth, f"t = str(await {function}({', '.join(branches)}))")


@viewer
def opener(program: Program, depth: int) -> None:
    """Opens the gate at its end, and not before it has waited for something."""
    program.write(depth, "try:")
    for _ in range(program.random.randint(1, 2)):
        program.write(depth + 1, f"a = await number({program.integer()})")
        if not program.sure:
            program.write(depth + 1, f"view.gate = {program.integer()}")
    program.block(depth + 1, program.random.randint(0, 1))
    program.write(depth, "finally:")
    program.write(depth + 1, f"view.gate = {OPEN}")


@viewer
def waiter(program: Program, depth: int) -> None:
    if program.random.random() < 0.3:
        call(program, depth)
    kind = program.random.randint(0, 2)
    if kind == 0:
        timeout = program.pick("", ", timeout=timedelta(days=30)")
        program.write(depth, f"await wait_until(lambda: view.gate >= {OPEN}{timeout})")
    else:
        never, nap = "view.gate < -99", program.naps.format(program.integer())
        condition = never if program.sure else program.pick(never, *_conditions(program))
        if not program.sure:
            nap = f"timedelta(milliseconds=10 * ({program.integer()}) % 90)"
        program.write(depth, "try:")
        program.write(depth + 1, f"await wait_until(lambda: {condition}, timeout={nap})")
        program.write(depth, f"except {program.pick('TimeoutError', 'OSError', 'Exception')}:")
        program.write(depth + 1, program.pick("a = -1", "b += x"))
    if not program.sure:
        program.write(depth, "a = view.gate")
        if program.random.random() < 0.5:
            program.write(depth, f"view.gate = max({OPEN}, a) + 1")


def _conditions(program: Program) -> list[str]:
    def integer() -> str:
        text = program.integer()
        # Nothing can be set where it is looked at again and again.
        return text if ":=" not in text else "x"

    return [
        f"view.gate > {integer()}",
        f"view.gate == {OPEN + 1}",
        f"x < view.gate <= {integer()} or view.gate > {OPEN}",
        f"{integer()} // view.gate > 0",
        f"view.gate in [{integer()}, {integer()}, {integer()}]",
    ]


@construct()
def rearmed(program: Program, depth: int) -> None:
    """A branch that sleeps until a moment which another one moves. Not in functions: the view has one."""
    if program.in_function:
        call(program, depth)
        return
    program.write(depth, f"view.due = {program.moments.format(program.integer())}")
    sleeps = program.pick(f"sleeper({program.integer()})", "sleep_until(lambda: view.due)")
    branches = [f"mover({program.integer()})", sleeps]
    branches += program.random.choices(branches, k=program.random.randint(0, 1))
    program.random.shuffle(branches)
    races = ["first_completed"] if not program.sure else []
    program.write(
        depth, f"await {program.random.choice(['gather', 'gather', *races])}({', '.join(branches)})"
    )


@viewer
def sleeper(program: Program, depth: int) -> None:
    if program.random.random() < 0.3:
        call(program, depth)
    # What fails where it is looked at again is left out where no branch is looked at by itself.
    more = program.naps.format("7" if program.sure else program.integer())
    later = "" if program.random.random() < 0.5 else f" + {more}"
    program.write(depth, f"await sleep_until(lambda: view.due{later})")
    if not program.sure:
        call(program, depth)


@viewer
def mover(program: Program, depth: int) -> None:
    """Moves the moment after it has waited for something."""
    for _ in range(program.random.randint(1, 2)):
        program.write(depth, f"a = await number({program.integer()})")
        moment = program.moments.format(program.integer())
        program.write(depth, program.pick(f"view.due = {moment}", "view.due += timedelta(milliseconds=60)"))


@construct()
def interrupted(program: Program, depth: int) -> None:
    """What events interrupt. Not in functions: several branches could wait for one at a time."""
    if program.in_function:
        call(program, depth)
        return
    number = program.integer()
    bodies = [
        ("a", f"number({number})"),
        ("s", f"word({number}, y={program.string()})"),
        ("", _sleep(program)),
        ("b", f"sleeper({number})"),
        *((program.pick("a", "b"), f"{each}({number})") for each in [*program.functions, *program.functions]),
    ]
    if not program.sure:
        bodies += [("b", f"{each}({number})") for each in ("racer", "opener", "mover")]
    target, body = program.random.choice(bodies)
    handlers = ["quiet"] if program.sure else ["ringer", "ringer", "number", "word"]
    names = ["rung", "chimed"][: program.random.randint(1, 2)]
    rings = ", ".join(f"{name}.interrupts({program.random.choice(handlers)})" for name in names)
    line = f"await interruptible({body}, {rings})"
    program.write(depth, f"{target} = {line}" if target and program.random.random() < 0.7 else line)


@viewer
def ringer(program: Program, depth: int) -> None:
    """What an event does that interrupts."""
    program.write(depth, f"a = await number({program.integer()})")
    moment = program.moments.format(program.integer())
    program.write(depth, program.pick(f"view.gate = {program.integer()}", f"view.due = {moment}", "b = a"))
    program.block(depth, program.random.randint(0, 1))


class _Racer(NamedTuple):
    """A branch of a race, and the variable for its result."""

    call: str
    target: str


@construct()
def raced(program: Program, depth: int) -> None:
    """A race; what is written of it depends on who wins."""
    function = program.pick("first_completed", "first_successful")
    racers, twins = _sure_racers(program, function) if program.sure else (_racers(program, function), False)
    race = f"await {function}({', '.join(racer.call for racer in racers)})"
    if {racer.target for racer in racers} == {"a"} and (twins or program.random.random() < 0.6):
        program.write(depth, f"{program.pick('_, a', '_, b', *([] if twins else ['a, b', 'b, a']))} = {race}")
        return
    program.write(depth, f"match {race}:")
    for place in sorted(program.random.sample(range(len(racers)), program.random.randint(1, len(racers)))):
        target = racers[place].target
        program.write(depth + 1, f"case {place}, {target}:")
        shown = "t" if target == "_" else target
        program.write(depth + 2, program.pick(f"t += '{place}'", f"t = f'{{{shown}}}'"))
    if program.random.random() < 0.5:
        program.write(depth + 1, "case place, _:")
        program.write(depth + 2, "a = place + 5")


def _sure_racers(program: Program, function: str) -> tuple[list[_Racer], bool]:
    """Branches of which one ends first for certain, or the order of their ends changes nothing; and whether these are
    twins, of which nobody can tell which one was first."""
    number, word, calm = _plain_racers(program)
    timed = _Racer(f"never.wait(timeout={program.naps.format(program.integer())})", "_")
    if program.random.random() < 0.3:
        return [number, number], True
    if function == "first_successful":
        racers = [program.random.choice([number, word]), timed]
    else:
        losers = [_Racer(f"{each}({program.integer()})", "a") for each in program.racers]
        racers = [
            program.random.choice([number, word, timed]),
            program.random.choice([calm, *losers, *losers]),
        ]
        racers += [calm] * program.random.randint(0, 1)
    program.random.shuffle(racers)
    return racers, False


def _racers(program: Program, function: str) -> list[_Racer]:
    """Branches of which at least one ends; which one is first depends on how long they take."""
    number, word, calm = _plain_racers(program)
    nap = f"timedelta(milliseconds=({program.integer()}) % 60)"
    ending = [number, word, _Racer(f"sleep({nap})", "_"), _Racer(f"never.wait(timeout={nap})", "_")]
    names = [each for each in program.racers if function == "first_completed" or each != "loser"]
    options = [*ending, *[_Racer(f"{each}({program.integer()})", "a") for each in names * 3]]
    if function == "first_completed":
        options.append(calm)
    racers = [program.random.choice(ending), *program.random.choices(options, k=program.random.randint(1, 2))]
    program.random.shuffle(racers)
    return racers


def _plain_racers(program: Program) -> tuple[_Racer, _Racer, _Racer]:
    number = _Racer(f"number({program.integer()})", "a")
    word = _Racer(f"word({program.integer()}, y={program.string()})", "s")
    return number, word, _Racer(program.pick("never.wait()", "never.wait(key='k')"), "_")


@construct(weight=2, nested=True)
def matched(program: Program, depth: int) -> None:
    integer, string = program.integer, program.string
    subject, cases = program.random.choice(
        [
            (integer(), ["0 | 1", "int(b) if b > 3", "2", f"a if {program.test()}"]),
            (string(), ["'k' | ''", "str(t) if 'L' in t", "'Lm '"]),
            (f"({integer()}, {string()})", ["(0 | 1, t)", "[a, 'k']", "(a, _) if a < 2", "[_, s, _]"]),
            (f"[{integer()}, {integer()}, a]", ["[0, *_]", "[a, 1, b]", "[b, *r] if len(r) > 2"]),
            (
                f"{{'k': {integer()}, 'l': {string()}}}",
                ["{'k': 0}", "{'k': got, 'm': _}", "{'l': str(text), **r}"],
            ),
            ("item", ["Item(size=0)", "Item(a, Tier.GOLD)", "Item(note=str(text))", "Item(parts=[b, *_])"]),
            ("table", ["{'a': 1}", "{'k': int(got)}", "{'b': int(got), 'a': _}"]),
            ("nums", ["[]", "[int(got)]", "[_, _, *r]", "[int(got) | (int(got), _), *_]"]),
            (f"Pair({integer()}, {string()})", ["Pair(0)", "Pair(a, 'k')", "Pair(right=t) if t"]),
        ]
    )
    program.write(depth, f"match {subject}:")
    for case in program.random.sample(cases, program.random.randint(1, len(cases) - 1)):
        program.write(depth + 1, f"case {case}:")
        program.block(depth + 2, program.random.randint(0, 2))
    if program.random.random() < 0.5:
        program.write(depth + 1, "case _:")
        program.block(depth + 2, program.random.randint(0, 1))


@construct(weight=2, nested=True)
def saga(program: Program, depth: int) -> None:
    name = f"saga{len(program.lines)}"
    program.write(depth, f"async with Saga() as {name}:")
    for _ in range(program.random.randint(1, 2)):
        program.write(depth + 1, f"{program.pick('a', 'b')} = await number({program.integer()})")
        undo = program.pick(f"number, {program.integer()}", f"word, a, y={program.string()}")
        program.write(depth + 1, f"{name}.undo({undo})")
        program.block(depth + 1, program.random.randint(0, 2))


@construct(weight=2, nested=True)
def loop(program: Program, depth: int) -> None:
    program.loops += 1
    counter = f"n{program.loops}"
    program.write(depth, f"{counter} = {program.random.randint(1, 4)}")
    program.write(depth, f"while {counter} > 0" + program.pick(":", f" and {program.test()}:"))
    program.write(depth + 1, f"{counter} -= 1")
    _loop_body(program, depth, counter)


def _loop_body(program: Program, depth: int, counter: str) -> None:
    program.in_loop.append(counter)
    if program.random.random() < 0.3:
        sleep(program, depth + 1)
    program.block(depth + 1, program.random.randint(1, 3))
    program.in_loop.pop()
    if program.random.random() < 0.5:
        program.write(depth, "else:")
        with program.inside("loop-else"):
            program.block(depth + 1, program.random.randint(0, 2))


@construct(weight=2, nested=True)
def each(program: Program, depth: int) -> None:
    program.loops += 1
    integer, string = program.integer, program.string
    numbers = f"[{integer()}, {integer()}, {integer()}]"
    lines = [
        f"for a in range(({integer()}) % 4):",
        f"for b in range(({integer()}) % 4, -1, -1):",
        f"for a in {numbers}:",
        f"for b in reversed({numbers}):",
        f"for s in {string()}:",
        f"for a, s in enumerate({string()}):",
        f"for b, t in enumerate(({string()}, {string()}), start={integer()}):",
        f"for a, s in zip({numbers}, {string()}):",
        f"for a, b in zip(range(3), {numbers}, strict=True):",
        f"for s, a in {{'k': {integer()}, 'l': {integer()}}}.items():",
        f"for s in {{'k': 1, {string()}: 2}}:",
    ]
    program.write(depth, program.random.choice(lines))
    _loop_body(program, depth, "")


@construct(weight=2, nested=True)
def handled(program: Program, depth: int) -> None:
    program.write(depth, "try:")
    program.write(depth + 1, f"{program.pick('a', 'b')} = await number({program.integer()})")
    program.block(depth + 1, program.random.randint(0, 2))
    classes = program.pick("Declined", "Stolen", "Other", "WorkflowFailure", "(Stolen, Other)")
    _clause(program, depth, classes)
    if classes in ("Stolen", "Other") and program.random.random() < 0.8:
        _clause(program, depth, program.pick("Declined", "WorkflowFailure"))
    if program.random.random() < 0.7:
        program.write(depth, "else:")
        with program.inside("try-else"):
            program.block(depth + 1, program.random.randint(1, 2))
    if program.random.random() < 0.3:
        program.final(depth)


@construct(weight=2, nested=True)
def technical(program: Program, depth: int) -> None:
    program.write(depth, "try:")
    program.write(depth + 1, f"a = {program.integer()} // ({program.integer()})")
    program.write(depth + 1, f"b = [{program.integer()}, a][a]")
    gathered(program, depth + 1)
    call(program, depth + 1)
    program.block(depth + 1, program.random.randint(0, 1))
    classes = program.random.sample(
        ["ZeroDivisionError", "LookupError", "(ArithmeticError, IndexError)", "TaskError", "ExceptionGroup"],
        program.random.randint(0, 2),
    )
    if set(classes) == {"LookupError", "(ArithmeticError, IndexError)"}:
        classes.pop()
    if not classes or program.random.random() < 0.4:
        classes.append("Exception")
    if program.random.random() < 0.8:
        for each_class in classes:
            _error_clause(program, depth, each_class)
        if program.random.random() < 0.3:
            program.final(depth)
    else:
        program.final(depth)


@construct()
def parted(program: Program, depth: int) -> None:
    """`except*`. Nothing fails in its clauses: what is raised there was put into a group by the first Pythons 3.11."""
    program.write(depth, "try:")
    for _ in range(program.random.randint(1, 2)):
        gathered(program, depth + 1)
    if program.random.random() < 0.3:
        call(program, depth + 1)
    kinds = ["Stolen", "Declined", "(Other, Stolen)", "TaskError", "WorkflowFailure", "Exception"]
    for place in sorted(program.random.sample(range(len(kinds)), program.random.randint(1, 3))):
        name = f"e{len(program.lines)}"
        program.write(depth, f"except* {kinds[place]} as {name}:")
        program.write(depth + 1, f"{program.pick('s', 't')} = f'{{len({name}.exceptions)}}'")
        if program.random.random() < 0.3:
            program.write(depth + 1, f"t += '{place}'")
    if program.random.random() < 0.3:
        program.write(depth, "else:")
        program.write(depth + 1, "t += 'none'")


_OF_WAITS: Final = (
    "TaskError",
    "TaskTimeout",
    "Exception",
    "TimeoutError",
    "OSError",
    "(LookupError, TimeoutError)",
)
"""What is caught under these names may have a text that is no part of the language: the worker's, or the engine's."""


def _error_clause(program: Program, depth: int, classes: str) -> None:
    told = classes not in _OF_WAITS and program.random.random() < 0.6
    name = f"e{len(program.lines)}" if told else ""
    program.write(depth, f"except {classes} as {name}:" if name else f"except {classes}:")
    if name:
        program.write(depth + 1, f"{program.pick('s', 't')} = f'{{{name}}}'")
    program.caught.append(name)
    with program.inside("except"):
        program.block(depth + 1, program.random.randint(0, 2))
    program.caught.pop()


_FIELDS: Final = {
    "Declined": ("n",),
    "Stolen": ("n", "owner"),
    "Other": ("n", "due"),
    "(Stolen, Other)": ("n",),
    "WorkflowFailure": ("details",),
}
"""What is read of a caught failure, by what its clause names."""


def _clause(program: Program, depth: int, classes: str) -> None:
    name = f"e{len(program.lines)}" if program.random.random() < 0.6 else ""
    program.write(depth, f"except {classes} as {name}:" if name else f"except {classes}:")
    if name:
        read = ("name", "message", *_FIELDS[classes])
        text = "".join(f"{{{name}.{field}}}" for field in read) + f"{{{name}}}"
        target = "s" if program.in_function else program.pick("s", "view.status")
        program.write(depth + 1, f'{target} = f"{text}"')
    program.caught.append(name)
    with program.inside("except"):
        program.block(depth + 1, program.random.randint(0, 2))
    program.caught.pop()
