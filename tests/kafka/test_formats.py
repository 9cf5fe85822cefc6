"""What the bytes of a record are to expressions: JSON, text, and Avro and Protobuf by a schema registry."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tests.kafka.registry import Registry, serve  # pyright: ignore[reportMissingImports]

from dressage.connectors.kafka.config import SourceConnector
from dressage.connectors.kafka.formats import RegistryAway, decoder
from dressage.connectors.mapping import Unmappable
from dressage.protocol.errors import BadInput

VALUE = SerializationContext("orders", MessageField.VALUE)
AVRO = """{"type": "record", "name": "Order", "fields": [
    {"name": "id", "type": "int"}, {"name": "total", "type": "double"},
    {"name": "day", "type": {"type": "int", "logicalType": "date"}}
]}"""


@pytest.fixture
def registry() -> Iterator[Registry]:
    with serve() as registry:
        yield registry


def config(registry: Registry, **more: Any) -> SourceConnector:
    settings = {"url": registry.url, "max.retries": "0"}
    return SourceConnector("orders", registry=settings, **more)


def avro_record(registry: Registry) -> bytes:
    make: Any = AvroSerializer
    serialize = make(SchemaRegistryClient({"url": registry.url}), AVRO)
    written: bytes = serialize({"id": 7, "total": 1.5, "day": 20_000}, VALUE)
    return written


async def test_avro_is_decoded_by_the_schema_that_it_was_written_with(registry: Registry) -> None:
    data = avro_record(registry)
    assert await decoder(config(registry), "avro").decode(data, "orders") == {
        "id": 7,
        "total": 1.5,
        "day": "2024-10-04",
    }


async def test_a_registry_that_is_away_is_waited_for(registry: Registry) -> None:
    data = avro_record(registry)
    reads = decoder(config(registry), "avro")
    registry.away = True
    with pytest.raises(RegistryAway):
        await reads.decode(data, "orders")
    registry.away = False
    assert (await reads.decode(data, "orders"))["id"] == 7
    registry.away = True  # a schema that is known is asked for no more
    assert (await reads.decode(data, "orders"))["id"] == 7


async def test_a_registry_that_nobody_serves_is_waited_for(registry: Registry) -> None:
    data = avro_record(registry)
    nowhere = SourceConnector("orders", registry={"url": "http://127.0.0.1:9", "max.retries": "0"})
    with pytest.raises(RegistryAway):
        await decoder(nowhere, "avro").decode(data, "orders")


async def test_a_schema_that_the_registry_lacks_makes_the_record_a_dead_letter(registry: Registry) -> None:
    with pytest.raises(Unmappable) as caught:
        await decoder(config(registry), "avro").decode(b"\x00\x00\x00\x00\x09rest", "orders")
    assert caught.value.code == "SCHEMA_UNKNOWN"


@pytest.mark.parametrize("data", [b"", b"{}", b'{"id": 7}'])
async def test_what_has_no_schema_in_front_is_not_decoded(registry: Registry, data: bytes) -> None:
    with pytest.raises(Unmappable) as caught:
        await decoder(config(registry), "avro").decode(data, "orders")
    assert caught.value.code == "RECORD_UNDECODABLE"


def descriptors() -> descriptor_pb2.FileDescriptorSet:
    """As `protoc --descriptor_set_out` writes them, of a message with a number and a text."""
    file = descriptor_pb2.FileDescriptorProto(name="shop.proto", package="shop", syntax="proto3")
    message = file.message_type.add(name="Order")
    kinds = descriptor_pb2.FieldDescriptorProto
    message.field.add(name="id", number=1, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
    message.field.add(name="ship_to", number=2, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    return descriptor_pb2.FileDescriptorSet(file=[file])


async def test_protobuf_is_decoded_by_a_file_of_descriptors(registry: Registry, tmp_path: Path) -> None:
    files = descriptors()
    path = tmp_path / "shop.pb"
    path.write_bytes(files.SerializeToString())
    pool = descriptor_pool.DescriptorPool()
    pool.Add(files.file[0])
    order = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))
    # As the registry gives it when it is asked for a schema in serialized form.
    schema = base64.b64encode(files.file[0].SerializeToString()).decode()
    registry.register({"schema": schema, "schemaType": "PROTOBUF"})
    prefix = b"\x00\x00\x00\x00\x01" + b"\x00"  # the id of the schema, and "its first message"
    data = prefix + order(id=7, ship_to="Berlin").SerializeToString()
    reads = decoder(config(registry, descriptor=str(path), message="shop.Order"), "protobuf")
    assert await reads.decode(data, "orders") == {"id": 7, "ship_to": "Berlin"}


def test_a_message_that_the_descriptors_lack_is_refused_at_the_start(
    registry: Registry, tmp_path: Path
) -> None:
    path = tmp_path / "shop.pb"
    path.write_bytes(descriptors().SerializeToString())
    with pytest.raises(BadInput, match="Nothing"):
        decoder(config(registry, descriptor=str(path), message="shop.Nothing"), "protobuf")


async def test_json_and_text_are_what_they_are(registry: Registry) -> None:
    reads = decoder(config(registry), "json")
    assert await reads.decode(msgspec.json.encode({"id": 1}), "t") == {"id": 1}
    assert await reads.decode(None, "t") is None
    assert await decoder(config(registry), "text").decode(b"k", "t") == "k"
    with pytest.raises(Unmappable):
        await decoder(config(registry), "text").decode(b"\xff", "t")
