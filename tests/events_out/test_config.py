"""What a file says of sinks to subjects and to webhooks, and everything that can be wrong with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dressage.connectors.connect.config import parse_connectors
from dressage.connectors.connect.kinds import check_settings
from dressage.connectors.events_out.config import SubjectSink, WebhookSink
from dressage.connectors.secrets import SecretMissing
from dressage.connectors.tables import ConfigInvalid
from dressage.protocol.errors import BadInput

GOOD = """
[[connector]]
name = "ended"
type = "sink"
subject = 'f"shop.{key}.ended"'

[[connector]]
name = "crm"
type = "sink"
url = "https://crm.example/hooks"
secret = "${env:HOOK_SECRET}"
timeout = "5s"
retry.deadline = "15m"
requests.max = 4
headers.X-Shop = "1"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        parse_connectors(text, "c.toml")
    return [str(each) for each in caught.value.problems]


def test_what_it_writes_to_says_of_which_kind_a_sink_is() -> None:
    subject, webhook = parse_connectors(GOOD)
    assert isinstance(subject, SubjectSink)
    assert isinstance(webhook, WebhookSink)
    assert (webhook.timeout_s, webhook.deadline_s, webhook.requests) == (5.0, 900.0, 4)
    assert (webhook.headers, webhook.secrets) == ({"X-Shop": "1"}, ("${env:HOOK_SECRET}",))
    assert (subject.tolerance, subject.value_format, subject.start) == ("none", "cloudevents", "all")


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('f"shop.{key}.ended"', '"dressage.default.0.cmd.x"', "is none of yours"),
        ('f"shop.{key}.ended"', '"$KV.x"', "is none of yours"),
        ('f"shop.{key}.ended"', "1", "it gives 1, and no text"),
        ('f"shop.{key}.ended"', "topic", "EXPRESSION_INVALID"),
        ('type = "sink"', 'type = "sink"\ntasks.max = 2', "a sink is one task"),
        ('type = "sink"', 'type = "sink"\nkafka = {}', "kafka: KEY_UNKNOWN"),
        ('type = "sink"', 'type = "sink"\nurl = "https://x"', "url: KEY_UNKNOWN"),
        ('"https://crm.example/hooks"', '"crm.example/hooks"', "must be as https://host/path"),
        ('"https://crm.example/hooks"', '"ftp://crm.example"', "must be as https://host/path"),
        ('"https://crm.example/hooks"', '"https://me:hunter2@crm.example"', "a password in it is a secret"),
        ('"${env:HOOK_SECRET}"', '"whsec_aHVudGVyMg=="', "secret: VALUE_INVALID: is a secret"),
        ('"${env:HOOK_SECRET}"', "[]", "must be ${env:NAME}"),
        ("X-Shop", "Authorization", "headers.Authorization: VALUE_INVALID: is a secret"),
        ("X-Shop", "webhook-id", "is not for a file to say"),
        ("X-Shop", "Host", "is not for a file to say"),
        ("X-Shop", '"X Shop"', "is no header that can be sent"),
        ('"5s"', '"soon"', 'must be seconds, or as "30s"'),
        ('"5s"', "0", "must be more than 0"),
        ("secret =", "secrets =", "did you mean 'secret'"),
    ],
)
def test_a_value_that_means_nothing_is_refused(old: str, new: str, said: str) -> None:
    found = problems(GOOD.replace(old, new, 1))
    assert any(said in each for each in found), found
    assert not any("hunter2" in each for each in found)


@pytest.mark.limit("connectors.events_out.config.REQUESTS_MAX")
def test_a_webhook_has_256_requests_at_a_time_and_no_more() -> None:
    webhook = parse_connectors(GOOD.replace("requests.max = 4", "requests.max = 256"))[1]
    assert isinstance(webhook, WebhookSink)
    assert webhook.requests == 256
    assert "must be 1 to 256" in problems(GOOD.replace("requests.max = 4", "requests.max = 257"))[0]


@pytest.mark.limit("connectors.events_out.config.TIMEOUT_S_MAX")
def test_a_request_takes_300_seconds_and_no_more() -> None:
    webhook = parse_connectors(GOOD.replace('"5s"', "300"))[1]
    assert isinstance(webhook, WebhookSink)
    assert webhook.timeout_s == 300
    assert "limit webhook-timeout" in problems(GOOD.replace('"5s"', "300.1"))[0]


@pytest.mark.limit("connectors.events_out.config.DEADLINE_S_MAX")
def test_an_event_is_tried_for_a_day_and_no_longer() -> None:
    webhook = parse_connectors(GOOD.replace('"15m"', '"24h"'))[1]
    assert isinstance(webhook, WebhookSink)
    assert webhook.deadline_s == 86_400
    assert "limit webhook-deadline" in problems(GOOD.replace('"15m"', "86401"))[0]


def test_secrets_are_looked_at_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    webhook = parse_connectors(GOOD)[1]
    with pytest.raises(SecretMissing, match="HOOK_SECRET"):
        check_settings(webhook)
    monkeypatch.setenv("HOOK_SECRET", "whsec_hunter2!")
    with pytest.raises(BadInput, match="goes on in base64") as caught:
        check_settings(webhook)
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("HOOK_SECRET", "a\nb")
    check_settings(webhook)
    for wrong in ("a\nb", "ü"):
        monkeypatch.setenv("HOOK_SECRET", wrong)
        header = parse_connectors(GOOD.replace('X-Shop = "1"', 'X-Shop = "${env:HOOK_SECRET}"'))[1]
        with pytest.raises(BadInput, match="is no header that can be sent"):
            check_settings(header)


WITHOUT = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("confluent_kafka", "httpx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from dressage.cli.main import main
main(sys.argv[1:])
"""


def test_a_sink_to_a_subject_needs_no_extra_and_a_webhook_says_which(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    for text, code, said in (
        (GOOD[: GOOD.index('[[connector]]\nname = "crm"')], 0, "ended: output events -> subject"),
        (GOOD, 1, "EXTRA_MISSING: httpx is not installed: pip install 'dressage[webhooks]'"),
    ):
        file.write_text(text)
        command = [sys.executable, "-c", WITHOUT, "connect", "validate", str(file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done
