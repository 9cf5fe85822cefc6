"""From the bytes of a record to a value that expressions can use.

JSON and text are decoded here. Avro and Protobuf are those of a Confluent-compatible schema registry: five bytes in
front of the record say which schema it was written with, and the registry is asked once for each.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from dressage.connectors.cloud_events import EVENT_NOT_JSON
from dressage.connectors.connect.secrets import scrubbed, settings_revealed
from dressage.connectors.kafka.config import SourceConnector, SourceFormat
from dressage.connectors.mapping import Unmappable
from dressage.protocol.errors import BadInput, DressageError

RECORD_UNDECODABLE: Final = "RECORD_UNDECODABLE"
SCHEMA_UNKNOWN: Final = "SCHEMA_UNKNOWN"

_MAGIC: Final = 0
_PREFIX_BYTES: Final = 5

_decode = msgspec.json.Decoder().decode


class RegistryAway(DressageError):
    """The schema registry does not answer, or cannot: the record waits."""

    code = "SCHEMA_REGISTRY_UNREACHABLE"
    retryable = True


class Decoder(Protocol):
    """Decodes keys or values of one connector."""

    async def decode(self, data: bytes | None, topic: str) -> Any:
        """None for no data. Raises `Unmappable`, or `RegistryAway`."""
        ...


def decoder(config: SourceConnector, which: SourceFormat, *, is_key: bool = False) -> Decoder:
    """Raises `BadInput` for a descriptor that cannot be used, or a secret that is not there."""
    match which:
        case "json":
            return _Json()
        case "text":
            return _Text()
        case "avro":
            return _Registered(config.registry, "", "", is_key)
        case "protobuf":
            return _Registered(config.registry, config.descriptor, config.message, is_key)


class _Json:
    async def decode(self, data: bytes | None, topic: str) -> Any:
        if data is None:
            return None
        try:
            return _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            reason = str(error) if data else "it is empty"
            raise Unmappable(f"the record is no JSON: {reason}", code=EVENT_NOT_JSON) from error


class _Text:
    async def decode(self, data: bytes | None, topic: str) -> Any:
        try:
            return None if data is None else data.decode()
        except UnicodeDecodeError as error:
            raise Unmappable(
                f"the record is no UTF-8 text: {error.reason}", code=RECORD_UNDECODABLE
            ) from error


class _Registered:
    """Avro, or Protobuf where a descriptor is given."""

    def __init__(self, registry: Mapping[str, str], descriptor: str, message: str, is_key: bool) -> None:
        from confluent_kafka.schema_registry import SchemaRegistryClient
        from confluent_kafka.serialization import MessageField

        self._settings = settings_revealed(registry)
        numbers = {key: int(value) for key, value in self._settings.items() if value.isdigit()}
        try:
            client = SchemaRegistryClient({**self._settings, **numbers})
        except (TypeError, ValueError) as error:
            text = scrubbed(str(error), self._settings)
            raise BadInput(
                f"the registry's client refuses its settings: {text}", code="CONFIG_INVALID"
            ) from error
        self._field = MessageField.KEY if is_key else MessageField.VALUE
        self._known: set[bytes] = set()
        self._deserialize: Any = _protobuf(client, descriptor, message) if descriptor else _avro(client)

    async def decode(self, data: bytes | None, topic: str) -> Any:
        if data is None:
            return None
        prefix = data[:_PREFIX_BYTES]
        if len(prefix) < _PREFIX_BYTES or prefix[0] != _MAGIC:
            raise Unmappable(
                "the record does not begin with the id of a schema: was it written without a schema registry?",
                code=RECORD_UNDECODABLE,
            )
        if prefix in self._known:
            return self._decoded(data, topic)
        # The registry is asked, which blocks.
        value = await asyncio.to_thread(self._decoded, data, topic)
        self._known.add(prefix)
        return value

    def _decoded(self, data: bytes, topic: str) -> Any:
        from confluent_kafka.schema_registry.error import SchemaRegistryError
        from confluent_kafka.serialization import SerializationContext

        try:
            return _plain(self._deserialize(data, SerializationContext(topic, self._field)))
        except SchemaRegistryError as error:
            text = scrubbed(str(error), self._settings)
            if error.http_status_code in (404, 422):
                raise Unmappable(
                    f"the registry does not have the schema: {text}", code=SCHEMA_UNKNOWN
                ) from error
            raise RegistryAway(f"the schema registry answers {text}") from error
        except Exception as error:
            text = scrubbed(f"{type(error).__name__}: {error}", self._settings)
            if _is_network(error):
                raise RegistryAway(f"the schema registry cannot be asked: {text}") from error
            raise Unmappable(f"the record cannot be decoded: {text}", code=RECORD_UNDECODABLE) from error


def _avro(client: Any) -> Any:
    from confluent_kafka.schema_registry.avro import AvroDeserializer

    make: Any = AvroDeserializer
    return make(client)


def _protobuf(client: Any, descriptor: str, message: str) -> Any:
    """A file of descriptors is data, and no code of anybody's has to be imported."""
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

    files = descriptor_pb2.FileDescriptorSet()
    pool = descriptor_pool.DescriptorPool()
    try:
        files.ParseFromString(Path(descriptor).read_bytes())
        for each in files.file:
            pool.Add(each)
        found = message_factory.GetMessageClass(pool.FindMessageTypeByName(message))
    except Exception as error:
        raise BadInput(
            f"message {message} cannot be taken from {descriptor}: {error}. Write the file with "
            "protoc --include_imports --descriptor_set_out",
            code="CONFIG_INVALID",
        ) from error
    make: Any = ProtobufDeserializer
    deserialize = make(found, {"use.deprecated.format": False}, client)

    def to_dict(data: bytes, context: Any) -> Any:
        decoded: Any = deserialize(data, context)
        return json_format.MessageToDict(
            decoded, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )

    return to_dict


def _plain(value: Any) -> Any:
    """What Avro's own types are on the wire of a workflow: texts, as JSON has them."""
    return msgspec.to_builtins(value, enc_hook=str)


def _is_network(error: BaseException) -> bool:
    """Whether it, or what it came from, is of a connection."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, (OSError, TimeoutError)) or type(seen).__module__.split(".")[0].startswith(
            "http"
        ):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def text_headers(headers: tuple[tuple[str, bytes | None], ...]) -> dict[str, str]:
    """Headers as texts by name, the last one of each; those that are no UTF-8 are left out."""
    found: dict[str, str] = {}
    for name, value in headers:
        with contextlib.suppress(UnicodeDecodeError):
            found[name] = (value or b"").decode()
    return found
