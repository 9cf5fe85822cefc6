"""The file of connectors, and everything that can be wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from dressage.connectors.connect.config import parse_connectors
from dressage.connectors.connect.kinds import check_settings
from dressage.connectors.kafka.clients import consumer_config
from dressage.connectors.kafka.config import SinkConnector, SourceConnector
from dressage.connectors.progress import Progress
from dressage.connectors.secrets import SecretMissing, revealed, scrubbed
from dressage.connectors.tables import ConfigInvalid
from dressage.protocol.errors import BadInput
from dressage.protocol.names import Names

GOOD = """
[[connector]]
name = "orders"
type = "source"
topics = ["orders"]
tasks.max = 3
workflow = "take-order"
[connector.input]
order = "value"
[connector.kafka]
bootstrap.servers = "localhost:9092"
security.protocol = "SASL_SSL"
sasl.mechanism = "PLAIN"
sasl.username = "me"
sasl.password = "${env:KAFKA_TEST_SECRET}"

[[connector]]
name = "out"
type = "sink"
topics = ["run-events"]
state.topic = "run-states"
[connector.kafka]
"bootstrap.servers" = "localhost:9092"
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as caught:
        parse_connectors(text, "c.toml")
    return [str(each) for each in caught.value.problems]


def test_dotted_keys_and_tables_say_the_same() -> None:
    source, sink = parse_connectors(GOOD)
    assert isinstance(source, SourceConnector)
    assert isinstance(sink, SinkConnector)
    assert (source.tasks_max, source.kafka["sasl.username"], sink.state_topic) == (3, "me", "run-states")
    (again, _) = parse_connectors(GOOD.replace("tasks.max = 3", "tasks = { max = 3 }"))
    assert again == source


def test_all_that_is_wrong_is_told_at_once_with_advice() -> None:
    text = """
[[connector]]
name = "Orders"
type = "source"
topic = ["orders"]
tasks.max = 0
errors.tolerance = "some"
workflow = "w"
event = "e"
run_id = "vale"
[[connector.transforms]]
name = "f"
type = "filter"
[connector.kafka]
group.id = "mine"
sasl.password = "hunter2"
"""
    found = problems(text)
    for part in (
        "name: NAME_INVALID",
        "topic: KEY_UNKNOWN: there is no such key: did you mean 'topics'?",
        "topics: KEY_MISSING",
        "tasks.max: VALUE_INVALID: must be 1 to 64",
        "errors.tolerance: VALUE_INVALID: must be one of none, all",
        "workflow: KEY_MISSING: give a workflow to start, or an event to post, and not both",
        "run_id: EXPRESSION_INVALID",
        'transform "f": condition: KEY_MISSING',
        "kafka.group.id: VALUE_INVALID: is not for a file to say",
        "kafka.sasl.password: VALUE_INVALID: is a secret",
        "kafka.bootstrap.servers: KEY_MISSING",
    ):
        assert any(part in each for each in found), (part, found)
    assert not any("hunter2" in each for each in found)


@pytest.mark.limit("connectors.kafka.config.TASKS_MAX")
def test_a_source_has_64_consumers_in_a_process_and_no_more() -> None:
    source, _ = parse_connectors(GOOD.replace("tasks.max = 3", "tasks.max = 64"))
    assert isinstance(source, SourceConnector)
    assert source.tasks_max == 64
    assert "must be 1 to 64" in problems(GOOD.replace("tasks.max = 3", "tasks.max = 65"))[0]


def test_a_sink_is_one_task() -> None:
    assert "a sink is one task" in problems(GOOD.replace('type = "sink"', 'type = "sink"\ntasks.max = 2'))[0]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('type = "source"', 'type = "sauce"', "must be one of source, sink"),
        ('topics = ["orders"]', 'topics.regex = "("', "is no regular expression"),
        ('topics = ["orders"]', 'topics = ["a b"]', "must be names of topics"),
        ('workflow = "take-order"', 'event = "paid"', "an event goes to a run_id, or to a correlation_key"),
        ('workflow = "take-order"', 'workflow = "w"\nvalue.format = "avro"', "[connector.schema.registry]"),
        (
            'workflow = "take-order"',
            'workflow = "w"\nvalue.format = "protobuf"',
            "value.descriptor: KEY_MISSING",
        ),
        ('topics = ["run-events"]', 'topics = ["a", "b"]', "must be a list of one topic's name"),
    ],
)
def test_a_value_that_means_nothing_is_refused(old: str, new: str, said: str) -> None:
    assert any(said in each for each in problems(GOOD.replace(old, new, 1)))


def test_secrets_come_from_the_environment_or_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KAFKA_TEST_SECRET", "s3cret")
    (tmp_path / "secret").write_text("from file\n")
    assert revealed("${env:KAFKA_TEST_SECRET}/${file:" + str(tmp_path / "secret") + "}") == "s3cret/from file"
    with pytest.raises(SecretMissing, match="KAFKA_TEST_NOTHING"):
        revealed("${env:KAFKA_TEST_NOTHING}")
    assert scrubbed("wrong: s3cret", {"sasl.password": "s3cret"}) == "wrong: ***"


def test_settings_are_passed_to_the_client_which_refuses_what_it_does_not_know(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KAFKA_TEST_SECRET", "s3cret")
    source, _ = parse_connectors(GOOD)
    check_settings(source)
    wrong, _ = parse_connectors(GOOD.replace("sasl.username =", 'no.such.setting = "x"\nsasl.username ='))
    with pytest.raises(BadInput, match=r"no\.such\.setting"):
        check_settings(wrong)


def test_no_file_changes_what_the_promises_rest_on() -> None:
    source, _ = parse_connectors(GOOD)
    assert isinstance(source, SourceConnector)
    made = consumer_config({"enable.auto.commit": "true"}, Names(), source, lambda _: None)
    assert made["enable.auto.commit"] is False


def test_only_what_lies_below_the_oldest_record_under_way_is_committed() -> None:
    progress = Progress(5)
    for offset in (5, 6, 9):  # 7 and 8 were aborted, or compacted
        progress.take(offset)
    progress.done(6)
    progress.done(9)
    assert (progress.watermark, progress.span) == (5, 5)
    progress.done(5)
    assert (progress.watermark, progress.span) == (10, 0)
