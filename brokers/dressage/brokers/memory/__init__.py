"""The broker in memory: JetStream's semantics without a server, for simulations and tests.

`MemoryServer` is what all processes share. Each process has a `MemoryBroker` of its own, and a `Network` decides
what becomes of its messages on the way.
"""

from dressage.brokers.memory.broker import MemoryBroker
from dressage.brokers.memory.connection import MemoryConnection
from dressage.brokers.memory.network import AT_ONCE, Fate, Network
from dressage.brokers.memory.records import Record
from dressage.brokers.memory.server import MemoryServer

__all__ = ["AT_ONCE", "Fate", "MemoryBroker", "MemoryConnection", "MemoryServer", "Network", "Record"]
