"""Type checkers accept what authors write, and complain where they are wrong: mypy and basedpyright, both strict."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
GOOD = REPOSITORY / "tests" / "flow" / "shop.py"
ROOTS = ["sdk", "brokers", "orchestrator", "outbox", "connectors", "analytics", "cli"]

TYPES = """
from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, NotRequired, TypedDict

from pydantic import BaseModel

from dressage.flow import App, Event, Large, Masked, Searchable, sleep_until, task, wait_until, workflow


class Address(TypedDict):
    city: str
    zip: NotRequired[str]


class Size(NamedTuple):
    width: float
    height: float = 1.0


class Applicant(BaseModel):
    name: str
    score: float = 0.5


@dataclass
class Inner:
    city: Searchable[str | None] = None


@dataclass
class View:
    inner: Inner
    token: Masked[str | None] = None
    tags: Searchable[list[str]] | None = None
    due: datetime = datetime(2030, 1, 1, tzinfo=UTC)


app = App("types")


@app.task
def tokenize(number: Masked[str]) -> Masked[str | None]:
    return number.upper()


@app.task
def read(scan: Large[bytes]) -> Large[str | None]:
    return scan.decode()


arrived = Event("scan-arrived", of=Large[bytes])


@workflow
async def reading(scan: Large[bytes]) -> Large[str]:
    text = await read(scan)
    if text is None:
        more: Large[bytes] = await arrived.wait()
        text = await read(more)
    return "none" if text is None else text


@task
async def measure(address: Address, applicant: Applicant) -> Size:
    raise NotImplementedError


@workflow
async def flow(address: Address, number: Masked[str]) -> Masked[str]:
    view = View(Inner())
    token = await tokenize(number)
    if token is None:
        return "none"
    view.token = token
    await sleep_until(view.due)
    await sleep_until(lambda: view.due)
    await wait_until(lambda: view.tags, timeout=5)
    await wait_until(lambda: view.due > datetime(2030, 1, 1, tzinfo=UTC), timeout=timedelta(days=1))
    view.inner = Inner(address["city"])
    home = Address(city=address["city"], zip=address.get("zip", ""))
    width, height = await measure(home, Applicant(name="a", score=1))
    size: Size = await measure(address, Applicant(name="b"))
    area: float = size.width * size[1] + width * height
    return token if area > 1 else number
"""

BAD_TYPES = """
from __future__ import annotations

from typing import NamedTuple, NotRequired, TypedDict

from pydantic import BaseModel

from dressage.flow import Large, Masked, task, workflow


class Address(TypedDict):
    city: str
    zip: NotRequired[str]


class Size(NamedTuple):
    width: float


class Applicant(BaseModel):
    name: str


@task
async def measure(address: Address, applicant: Applicant) -> Size:
    raise NotImplementedError


@task
async def hide(number: Masked[int]) -> Masked[str | None]:
    raise NotImplementedError


@task
async def read(scan: Large[bytes]) -> Large[str | None]:
    raise NotImplementedError


@workflow
async def reading(scan: Large[bytes]) -> Large[str]:
    await read("scan")  # bad: large argument
    text = await read(scan)
    return text  # bad: None of a large value


@workflow
async def flow(address: Address, number: Masked[int]) -> Masked[str]:
    await measure({"zip": ""}, Applicant(name="a"))  # bad: missing key
    await measure(address, Applicant(nome="a"))  # bad: field of a model
    size = await measure(address, Applicant(name="a"))
    first, second = size  # bad: places
    depth = size.depth  # bad: field of a tuple
    street = address["street"]  # bad: key
    await hide("secret")  # bad: masked argument
    token = await hide(number)
    return token  # bad: None under a mask
"""

BAD = """
from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal

from dressage.flow import App, Exponential, Searchable, Workflow, WorkflowFailure, publish
from dressage.flow import sleep, sleep_until, task, wait_until, workflow
from dressage.testing import WorkflowTest


@dataclass
class Order:
    id: str


@dataclass
class View:
    status: Searchable[str] = "NEW"


class Declined(WorkflowFailure):
    code: str
    again_in: timedelta | None = None


app = App("shop")


@task(retries=3)
async def charge(order: Order, price: Decimal) -> str: ...  # type: ignore[empty-body]


@app.task
def reserve(order: Order) -> int:
    return 1


@task(retries="3")  # bad: retries
async def first(order: Order) -> str:
    return order.id


@task(timeout=5)  # bad: timeout
async def second(order: Order) -> str:
    return order.id


@app.task(not_retried=("ValueError",))  # bad: errors
async def third(order: Order) -> str:
    return order.id


@app.handles(charge)  # bad: parameter of handler
def wrong_parameter(order: str, price: Decimal) -> str:
    return order


@app.handles(charge)  # bad: result of handler
async def wrong_result(order: Order, price: Decimal) -> int:
    return 1


@workflow
async def flow(order: Order) -> str:
    view = View()
    charge(order, Decimal(1))  # bad: no await
    await charge.options(deadline="1 h")(order, Decimal(1))  # bad: deadline
    await charge.options(tries=1)(order, Decimal(1))  # bad: unknown option
    await charge.options(deadline=timedelta(hours=1))(order, Decimal(1))
    sleep(timedelta(days=1))  # bad: no await of sleep
    publish("orders.new", order)  # bad: no await of publish
    await publish(order, order)  # bad: subject
    await publish("orders.new")  # bad: no data
    await publish("orders.new", order)
    wait_until(lambda: view.status)  # bad: no await of wait_until
    await wait_until(view.status == "NEW")  # bad: condition
    await wait_until(lambda: view.state == "NEW")  # bad: missing field in a condition
    await sleep_until(timedelta(days=1))  # bad: moment
    await sleep_until(lambda: timedelta(days=1))  # bad: moment that may change
    await charge(order.id, Decimal(1))  # bad: argument
    await charge(order)  # bad: missing argument
    await charge(order, price=Decimal(1), tip=1)  # bad: unknown argument
    await charge.options(backoff=2.0)(order, Decimal(1))  # bad: option
    number: int = await charge(order, Decimal(1))  # bad: result
    view.status = await reserve(order)  # bad: field
    await reserve(order.name)  # bad: missing field
    await sleep("1h")  # bad: duration
    try:
        number = await reserve(order)
    except Declined as error:
        number = error.code  # bad: type of a failure's field
        if number == 1:
            raise Declined(error.details, code="51") from error  # bad: message
        if number == 2:
            raise Declined("no", code=51) from error  # bad: field of a failure
        if number == 3:
            raise Declined("no") from error  # bad: missing field of a failure
        if number == 4:
            raise Declined("no", code="51", tip=1) from error  # bad: unknown field of a failure
        raise Declined(f"no: {error.code}", code=error.code, again_in=timedelta(1)) from error
    return number  # bad: return


@workflow
async def other_flow(order: Order) -> str:
    return order.id


@workflow
async def smaller_flow(name: str) -> int:
    return 1


FLOWS = {"a": other_flow, "b": other_flow}
TYPED: dict[str, Workflow[[Order], str]] = {"a": other_flow}
WRONG: dict[str, Workflow[[Order], str]] = {"a": smaller_flow}  # bad: workflow of a dict


@workflow
async def chooses(order: Order) -> str:
    first: str = await FLOWS[order.id](order)
    await TYPED["a"]("o")  # bad: argument of what is chosen
    wrong: int = await TYPED["a"].options(run_id="1")(order)  # bad: result of what is chosen
    return await TYPED["a"].start(order) + first + str(wrong)


async def outside() -> int:
    Exponential(base=5)  # bad: base
    return await flow(Order("o"))  # bad: output


def test_flow() -> None:
    test = WorkflowTest(flow)
    test.task(charge).returns("receipt").then_fails(Declined("no", code="51"))
    test.task(charge).returns(1)  # bad: result of fake
    test.task(charge).does(lambda order: "receipt")  # bad: parameters of fake
    test.task(reserve).fails(OSError())  # bad: failure of fake
    test.task(charge).was_called_with(Order("o"), "1")  # bad: argument of call
    test.run("o")  # bad: input
    test.run(Order("o")).result.upper()
    wrong: int = test.run(Order("o")).result  # bad: result of run
"""


def complaints_of_mypy(file: Path) -> set[int]:
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--output", "json", str(file)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    errors = [each for each in found if each["severity"] == "error"]
    assert all(Path(each["file"]).name == file.name for each in errors), errors
    return {each["line"] for each in errors}


def complaints_of_pyright(file: Path, folder: Path) -> set[int]:
    config: dict[str, Any] = {
        "include": [str(file)],
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "extraPaths": [str(REPOSITORY / root) for root in ROOTS],
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(config))
    command = [sys.executable, "-m", "basedpyright", "-p", str(folder), "--outputjson"]
    command += ["--pythonpath", sys.executable]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {each["range"]["start"]["line"] + 1 for each in found if each["severity"] == "error"}


@pytest.fixture
def checkers(tmp_path: Path) -> dict[str, Callable[[Path], set[int]]]:
    """Each checker as a function from a file to the lines that it complains about."""
    return {"mypy": complaints_of_mypy, "basedpyright": lambda file: complaints_of_pyright(file, tmp_path)}


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_what_authors_write_is_accepted(
    checker: str, checkers: dict[str, Callable[[Path], set[int]]]
) -> None:
    assert checkers[checker](GOOD) == set()


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
def test_types_of_every_form_are_accepted(
    checker: str, checkers: dict[str, Callable[[Path], set[int]]], tmp_path: Path
) -> None:
    file = tmp_path / "types_of_values.py"
    file.write_text(TYPES)
    assert checkers[checker](file) == set()


@pytest.mark.slow
@pytest.mark.parametrize("checker", ["mypy", "basedpyright"])
@pytest.mark.parametrize("text", [BAD, BAD_TYPES], ids=["calls", "types"])
def test_each_mistake_is_a_complaint_at_its_line(
    text: str, checker: str, checkers: dict[str, Callable[[Path], set[int]]], tmp_path: Path
) -> None:
    file = tmp_path / "mistakes.py"
    file.write_text(text)
    seeded = {
        number: line.split("# bad: ")[1]
        for number, line in enumerate(text.splitlines(), 1)
        if "# bad: " in line
    }
    found = checkers[checker](file)
    missed = [what for number, what in seeded.items() if number not in found]
    assert missed == []
    # Nothing that is right draws a complaint; `number` in the loop of mistakes was declared by one of them.
    assert found - seeded.keys() == set()
