"""`dressage spec show` and `diff`, with and without a server."""

from __future__ import annotations

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest
from click.testing import CliRunner, Result

from dressage.cli.main import main

if TYPE_CHECKING:
    from tests.cli.conftest import Engine  # pyright: ignore[reportMissingImports]

SHOP = """from dressage.flow import WorkflowFailure, sleep, task, workflow

class Declined(WorkflowFailure): ...

@task(retries=RETRIES)
def charge(order: str, amount: int = 1) -> str: ...

@workflow
async def buying(order: str) -> str:
    tries = 0
    while tries < 3:
        tries += 1
        try:
            return await charge(order)
        except Declined as error:
            if tries == LAST:
                raise error
            await sleep(60)
    return "never"
"""
TREE = """buying(order: str) -> str    MODULE, from line 8

   10  tries = 0
   11  while tries < 3:
   12      tries = tries + 1
           try:
   14          $1 = await charge(order=order)  # up to 3 attempts
   14          return $1
           except declined as error:
   16          if tries == 2:
   17              raise error
   18          await sleep(60)
   19  return 'never'
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder: Path, module: str, retries: int = 2, last: int = 2, text: str = SHOP) -> str:
    source = text.replace("RETRIES", str(retries)).replace("LAST", str(last))
    (folder / f"{module}.py").write_text(source)
    return f"{module}:buying"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["spec", *arguments])


# -- show ------------------------------------------------------------------------------------------
def test_a_workflow_is_shown_as_a_tree_with_the_lines_of_its_source(folder: Path) -> None:
    write(folder, "shop_tree")
    done = call("show", "shop_tree")
    assert done.stdout == TREE.replace("MODULE", "shop_tree")


def test_as_json_it_has_nodes_and_tree(folder: Path) -> None:
    shown = json.loads(call("show", write(folder, "shop_json"), "--json").stdout)
    assert shown["signature"] == "buying(order: str) -> str"
    assert shown["nodes"][1] == {
        "node": 1,
        "kind": "branch",
        "line": 11,
        "text": "tries < 3",
        "ways": [{"to": 2, "label": "yes"}, {"to": shown["nodes"][1]["ways"][1]["to"], "label": "no"}],
        "scope": None,
    }
    assert [each["text"] for each in shown["tree"]] == [line[7:].strip() for line in TREE.splitlines()[2:]]


def test_as_mermaid_it_has_every_node_and_way(folder: Path) -> None:
    lines = call("show", write(folder, "shop_mermaid"), "--mermaid").stdout.splitlines()
    assert lines[0] == "flowchart TD"
    assert '    start(["buying"]) --> n0' in lines
    assert '    n1{"line 11: tries #60; 3"}' in lines
    assert '    n1 -->|"yes"| n2' in lines
    assert '    subgraph try0["try"]' in lines
    assert any(line.startswith('    try0 -.->|"except declined as error"| n') for line in lines)


def test_as_svg_it_is_a_picture_of_every_node(folder: Path) -> None:
    picture = ET.fromstring(call("show", write(folder, "shop_svg"), "--svg").stdout)
    titles = [each.text or "" for each in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert "11  tries < 3" in titles
    assert len(titles) == 9
    labels = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert {"yes", "no", "except declined as error"} <= set(labels)


def test_a_module_with_several_workflows_asks_for_one(folder: Path) -> None:
    text = SHOP + "\n@workflow\nasync def other() -> None:\n    await sleep(1)\n"
    write(folder, "shop_two", text=text)
    done = call("show", "shop_two")
    assert done.exit_code == 1
    assert "WORKFLOW_UNNAMED: module 'shop_two' has several workflows" in done.stderr
    assert call("show", "shop_two:other").exit_code == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nothing.json", "FILE_UNREADABLE: nothing.json cannot be read"),
        ("no_such_module", "MODULE_NOT_FOUND"),
        ("buying@Two", "VERSION_INVALID: 'Two' is no version"),
        ("broken.json", "SPEC_INVALID: the spec does not decode"),
    ],
)
def test_what_cannot_be_found_is_named(folder: Path, target: str, said: str) -> None:
    (folder / "broken.json").write_text("[1]")
    done = call("show", target)
    assert done.exit_code == 1
    assert said in done.stderr


def test_the_page_of_the_language_shows_what_is_printed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "shop", raising=False)
    page = (Path(__file__).resolve().parents[2] / "docs" / "language.md").read_text()
    (source, *_) = re.findall(r"(?s)```python\n(.*?)```", page)
    (folder / "shop.py").write_text(source)
    (arguments,) = re.findall(r"^dressage spec (show .*)$", page, re.MULTILINE)
    promised = page[page.index(arguments) :].split("```text\n")[1].split("```")[0]
    assert call(*arguments.split()).stdout == promised


# -- diff ------------------------------------------------------------------------------------------
def test_a_diff_says_what_changed_in_words(folder: Path) -> None:
    before, after = write(folder, "shop_before"), write(folder, "shop_after", retries=4, last=1)
    done = call("diff", before, after)
    assert done.exit_code == 1
    assert done.stdout.splitlines() == [
        "buying -> buying",
        "tasks",
        "  ~ charge retries: 2 -> 4",
        "steps",
        "  -    14          $1 = await charge(order=order)  # up to 3 attempts",
        "  +    14          $1 = await charge(order=order)  # up to 5 attempts",
        "  -    16          if tries == 2:",
        "  +    16          if tries == 1:",
    ]


def test_the_same_elsewhere_is_no_change(folder: Path) -> None:
    before, after = write(folder, "shop_first"), write(folder, "shop_second", text=f"\n\n{SHOP}")
    done = call("diff", before, after)
    assert done.stdout == "buying and buying do the same\n"
    assert done.exit_code == 0


def test_a_diff_as_json_has_the_lines_of_both(folder: Path) -> None:
    before = write(folder, "shop_old")
    after = write(
        folder,
        "shop_new",
        text=SHOP.replace("sleep(60)", "sleep(5)").replace("    tries = 0", "\n    tries = 0"),
    )
    done = call("diff", before, after, "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout) == [
        {"part": "steps", "kind": "removed", "before": "        await sleep(60)", "line_before": 18},
        {"part": "steps", "kind": "added", "after": "        await sleep(5)", "line": 19},
    ]


def test_what_cannot_be_compared_has_an_exit_code_of_its_own(folder: Path) -> None:
    done = call("diff", write(folder, "shop_lone"), "nothing.json")
    assert done.exit_code == 2
    assert "FILE_UNREADABLE" in done.stderr


# -- with a server ---------------------------------------------------------------------------------
def test_versions_of_the_server_files_and_sources_are_compared(engine: Engine) -> None:
    write(engine.folder, "buying_registered")
    assert engine.call("deploy", "buying_registered").returncode == 0
    write(engine.folder, "buying_registered", last=1)
    assert engine.call("deploy", "buying_registered").returncode == 0
    shown = engine.invoke("spec", "show", "buying@1").stdout
    assert shown == TREE.replace("MODULE", "buying_registered").replace("buying(", "buying v1(", 1)
    done = engine.invoke("spec", "diff", "buying@1", "buying@latest")
    assert done.exit_code == 1
    assert done.stdout.splitlines()[0] == "buying v1 -> buying v2"
    assert done.stdout.count("if tries ==") == 2
    (engine.folder / "v2.json").write_text(engine.invoke("workflow", "show", "buying", "--json").stdout)
    assert engine.invoke("spec", "diff", "v2.json", "buying@2").exit_code == 0
    spec = json.loads((engine.folder / "v2.json").read_text())["spec"]
    (engine.folder / "bare.json").write_bytes(msgspec.json.encode(spec))
    assert engine.invoke("spec", "diff", "bare.json", "buying@2").exit_code == 0
    assert engine.call("spec", "diff", "buying_registered", "buying@2").returncode == 0
    absent = engine.invoke("spec", "show", "buying@9")
    assert absent.stderr.startswith("WORKFLOW_UNKNOWN")
