"""The statements of the language, each as one function that writes a random one."""

from __future__ import annotations

from dressage.simulation.programs.program import Program, construct


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
        f"view.count, a, view.status = a, await number(view.count), {program.string()}",
        f"s, t, a = t, await word(a, s), {program.integer()}",
    ]
    program.write(depth, program.random.choice(lines))


@construct()
def unpack(program: Program, depth: int) -> None:
    program.write(depth, f"a, t = await both({program.integer()})")


@construct()
def sleep(program: Program, depth: int) -> None:
    program.write(depth, f"await sleep({program.naps.format(program.integer())})")


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


@construct(nested=True)
def loop(program: Program, depth: int) -> None:
    program.loops += 1
    counter = f"n{program.loops}"
    program.write(depth, f"{counter} = {program.random.randint(1, 4)}")
    program.write(depth, f"while {counter} > 0" + program.pick(":", f" and {program.test()}:"))
    program.write(depth + 1, f"{counter} -= 1")
    program.in_loop.append(counter)
    if program.random.random() < 0.3:
        sleep(program, depth + 1)
    program.block(depth + 1, program.random.randint(1, 3))
    program.in_loop.pop()


@construct(weight=2, nested=True)
def handled(program: Program, depth: int) -> None:
    program.write(depth, "try:")
    program.write(depth + 1, f"{program.pick('a', 'b')} = await number({program.integer()})")
    program.block(depth + 1, program.random.randint(0, 2))
    classes = program.pick("Declined", "Stolen", "Other", "WorkflowFailure", "(Stolen, Other)")
    _clause(program, depth, classes)
    if classes in ("Stolen", "Other") and program.random.random() < 0.5:
        _clause(program, depth, "Declined")


def _clause(program: Program, depth: int, classes: str) -> None:
    name = f"e{len(program.lines)}" if program.random.random() < 0.6 else ""
    program.write(depth, f"except {classes} as {name}:" if name else f"except {classes}:")
    if name:
        text = "{" + name + ".name}{" + name + ".message}{" + name + "}{" + name + ".details.get('n', 0)}"
        program.write(depth + 1, f'{program.pick("s", "view.status")} = f"{text}"')
    program.caught.append(name)
    program.block(depth + 1, program.random.randint(0, 2))
    program.caught.pop()
