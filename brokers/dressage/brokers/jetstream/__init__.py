"""The real broker: JetStream through nats-py, with what nats-py lacks (atomic batches, standing pulls)."""

from dressage.brokers.jetstream.broker import JetStreamBroker as JetStreamBroker
