"""The file of webhooks: what it may say, and that everything wrong with it is told at once."""

from __future__ import annotations

import pytest
from tests.connectors.webhooks.conftest import CONFIG, SECRET  # pyright: ignore[reportMissingImports]

from dressage.connectors.config import PostTarget
from dressage.connectors.secrets import SecretMissing
from dressage.connectors.tables import ConfigInvalid
from dressage.connectors.webhooks import WebhookApp, parse_webhooks
from dressage.connectors.webhooks.config import Signature

POSTS = """
[[webhook]]
name = "paid"
path = "/paid"
signature = "standard"
secret = "${env:ORDERS_SECRET}"
event = "paid"
key = "event['order']"
"""


def wrong(text: str) -> dict[str, str]:
    """The problems of a file, by key, with their codes."""
    with pytest.raises(ConfigInvalid) as refused:
        parse_webhooks(text)
    return {each.key.rpartition(": ")[2]: each.code for each in refused.value.problems}


def test_a_webhook_is_a_trigger_whose_source_is_http() -> None:
    (webhook,) = parse_webhooks(CONFIG)
    assert (webhook.name, webhook.path, webhook.refused) == ("orders", "/orders", "keep")
    assert webhook.signature == Signature("standard", ("${env:ORDERS_SECRET}",))


@pytest.mark.parametrize(
    ("scheme", "event_id"),
    [
        ('"standard"', "headers['webhook-id']"),
        ('"stripe"', "event['id']"),
        ('"hmac-sha256"\nheader = "X-Sign"', None),
    ],
)
def test_the_id_of_an_event_is_what_the_scheme_has_signed(scheme: str, event_id: str | None) -> None:
    (webhook,) = parse_webhooks(POSTS.replace('"standard"', scheme))
    assert isinstance(webhook.target, PostTarget)
    assert (webhook.target.event_id.text if webhook.target.event_id else None) == event_id
    (own,) = parse_webhooks(POSTS.replace('"standard"', scheme) + "event_id = \"event['n']\"")
    assert isinstance(own.target, PostTarget)
    assert own.target.event_id is not None
    assert own.target.event_id.text == "event['n']"


@pytest.mark.parametrize(
    ("old", "new", "key", "code"),
    [
        ('path = "/orders"', "", "path", "KEY_MISSING"),
        ('"/orders"', '"orders"', "path", "VALUE_INVALID"),
        ('"/orders"', '"/orders/"', "path", "VALUE_INVALID"),
        ('"/orders"', '"/or ders"', "path", "VALUE_INVALID"),
        ('signature = "standard"', "", "signature", "KEY_MISSING"),
        ('"standard"', '"md5"', "signature", "VALUE_INVALID"),
        ('"standard"', "[1]", "signature", "VALUE_INVALID"),
        ('secret = "${env:ORDERS_SECRET}"', "", "secret", "KEY_MISSING"),
        ('"${env:ORDERS_SECRET}"', "[]", "secret", "VALUE_INVALID"),
        ('"${env:ORDERS_SECRET}"', '["${env:A}", "plain"]', "secret", "VALUE_INVALID"),
        ('"${env:ORDERS_SECRET}"', '"x${env:A}"', "secret", "VALUE_INVALID"),
        ('"standard"', '"none"', "secret", "KEY_UNKNOWN"),
        ('"standard"', '"hmac-sha256"', "header", "KEY_MISSING"),
        ('"standard"', '"hmac-sha256"\nheader = "a b"', "header", "VALUE_INVALID"),
        ('"standard"', '"hmac-sha256"\nheader = "a"\nencoding = "rot13"', "encoding", "VALUE_INVALID"),
        ('"standard"', '"hmac-sha256"\nheader = "a"\nprefix = "ä"', "prefix", "VALUE_INVALID"),
        ('"standard"', '"standard"\nheader = "a"', "header", "KEY_UNKNOWN"),
        ('"standard"', '"standard"\nrefused = "drop"', "refused", "VALUE_INVALID"),
        ('"standard"', '"standard"\nsource = { stream = "X" }', "source", "KEY_UNKNOWN"),
        ("event['id']", "event[", "run_id", "EXPRESSION_INVALID"),
        ("'order-' + str(event['id'])", "'a'", "run_id", "EXPRESSION_INVALID"),
    ],
)
def test_what_is_wrong_is_told_by_its_key(old: str, new: str, key: str, code: str) -> None:
    assert old in CONFIG
    assert wrong(CONFIG.replace(old, new, 1)) == {key: code}


def test_all_of_it_is_told_at_once() -> None:
    text = CONFIG.replace('"/orders"', '"x"').replace('"standard"', '"no"').replace("when", "wehn")
    assert wrong(text) == {"path": "VALUE_INVALID", "signature": "VALUE_INVALID", "wehn": "KEY_UNKNOWN"}


def test_names_and_paths_are_taken_once() -> None:
    assert wrong(CONFIG + CONFIG) == {"name": "NAME_TAKEN", "path": "NAME_TAKEN"}
    assert wrong("") == {"webhook": "KEY_MISSING"}


def test_a_secret_that_stands_in_the_file_is_not_repeated() -> None:
    with pytest.raises(ConfigInvalid) as refused:
        parse_webhooks(CONFIG.replace("${env:ORDERS_SECRET}", SECRET))
    assert SECRET not in str(refused.value)


def test_secrets_are_looked_up_when_an_app_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    webhooks = parse_webhooks(CONFIG)
    monkeypatch.delenv("ORDERS_SECRET")
    with pytest.raises(SecretMissing, match="ORDERS_SECRET"):
        WebhookApp(webhooks, "nats://127.0.0.1:1")
