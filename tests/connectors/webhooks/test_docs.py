"""The examples of docs/webhooks.md are loaded and run as they stand there."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from click.testing import CliRunner
from tests.connectors.test_docs import await_payment  # pyright: ignore[reportMissingImports]
from tests.connectors.webhooks.conftest import SECRET, served  # pyright: ignore[reportMissingImports]

from dressage.cli.main import main
from dressage.connectors.webhooks import WebhookOptions, parse_webhooks
from dressage.connectors.webhooks.hook import RETRY_AFTER_S
from dressage.connectors.webhooks.verify import TOLERANCE_S

if TYPE_CHECKING:
    from tests.connectors.conftest import Shop  # pyright: ignore[reportMissingImports]

ROOT: Final = Path(__file__).resolve().parents[3]
PAGE: Final = (ROOT / "docs" / "webhooks.md").read_text()
PACKAGE: Final = ROOT / "connectors" / "dressage" / "connectors" / "webhooks"


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def imported(path: Path, text: str) -> Any:
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the file of the page and the secrets that it names."""
    github = tmp_path / "github"
    github.write_text("s3cret\n")
    (tmp_path / "webhooks.toml").write_text(blocks("toml")[0].replace("/run/secrets/github", str(github)))
    monkeypatch.setenv("PAYMENTS_SECRET", SECRET)
    monkeypatch.setenv("GITHUB_SECRET_BEFORE", "older")
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_the_examples_work_together(shop: Shop, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The file, the app that mounts it, and the sender."""
    mounting, sending = blocks("python")
    async with shop.engine() as client:
        await client.register(await_payment)
        run = await client.start(await_payment, {"order": "o-1"})
        outer = imported(here / "mounting.py", mounting.replace("nats://127.0.0.1:4222", shop.server.url))
        async with served(outer.api) as url:
            sender = sending.replace("http://127.0.0.1:8080", f"{url}/hooks")
            for number in range(2):
                await asyncio.to_thread(imported, here / f"sending{number}.py", sender)
        assert await run.result(20) == "990 by card"
    accepted = '202 {"status":"accepted","event":"payment-arrived","event_id":"payment-17","key":"o-1"}\n'
    assert capsys.readouterr().out == accepted * 2


def test_check_says_what_the_page_says(here: Path) -> None:
    done = CliRunner().invoke(main, ["webhook", "check", "webhooks.toml"])
    (said,) = re.findall(r"\$ dressage webhook check .*?\n(.*?)\$ ", PAGE, re.DOTALL)
    assert (done.exit_code, done.output) == (0, said)


def test_every_metric_of_the_page_exists() -> None:
    told = set(re.findall(r"`dressage_(webhook_\w+)` \|", PAGE))
    assert told == set(re.findall(r'"(webhook_\w+)"', (PACKAGE / "metrics.py").read_text()))


def test_every_code_of_the_page_is_one_that_the_code_has() -> None:
    code = "\n".join(
        path.read_text() for root in ("connectors", "sdk") for path in (ROOT / root).rglob("*.py")
    )
    told = re.findall(r"`([A-Z]+_[A-Z_]+)`", PAGE)
    assert told
    assert not [each for each in told if f'"{each}"' not in code]


def test_every_code_of_the_app_is_on_the_page() -> None:
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    codes = re.findall(r'failed\(\s*\d+, "([A-Z_]+)"', code)
    assert codes
    assert not [each for each in codes if f"`{each}`" not in PAGE]


def test_every_key_of_the_page_is_one() -> None:
    (table,) = re.findall(r"## The keys\n(.*?)\n\n[A-Z]", PAGE, re.DOTALL)
    named = {
        key
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for key in re.findall(r"`([a-z_]+)`", row)
    }
    source = (PACKAGE / "config.py").read_text() + (PACKAGE.parent / "config.py").read_text()
    assert not {key for key in named if f'"{key}"' not in source}


def test_the_figures_of_the_page_are_those_of_the_code() -> None:
    options = WebhookOptions()
    assert f"{options.in_flight} signed requests wait" in PAGE
    assert f"within {options.body_s:g} s" in PAGE
    assert f"answer within {options.answer_s:g} s" in PAGE
    assert f"`Retry-After: {RETRY_AFTER_S}`" in PAGE
    assert f"{TOLERANCE_S // 60} minutes" in PAGE
    assert {each.name for each in parse_webhooks(blocks("toml")[0])} == {"payments", "pushes"}
