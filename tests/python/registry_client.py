"""Writes and reads Avro with Python's confluent-kafka and a schema registry, as a user would.

    python registry_client.py produce BROKERS REGISTRY TOPIC SCHEMA_FILE KEY    < value as JSON
    python registry_client.py consume BROKERS REGISTRY TOPIC COUNT

`produce` registers the schema, writes one record and prints the value's bytes in hexadecimal.
`consume` prints the first COUNT records of the topic as JSON lines, decoded with the registry's
schemas for their ids."""

import json
import sys
import uuid

from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

PATIENCE_S = 60


def produce(brokers, registry, topic, schema_file, key):
    with open(schema_file) as file:
        serialize = AvroSerializer(SchemaRegistryClient({"url": registry}), file.read())
    value = serialize(json.load(sys.stdin), SerializationContext(topic, MessageField.VALUE))
    failed = []
    producer = Producer({"bootstrap.servers": brokers})
    producer.produce(topic, value, key, on_delivery=lambda error, _: failed.extend([error] if error else []))
    assert producer.flush(PATIENCE_S) == 0 and not failed, failed
    print(value.hex())


def consume(brokers, registry, topic, count):
    deserialize = AvroDeserializer(SchemaRegistryClient({"url": registry}))
    group = f"test-{uuid.uuid4()}"
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": group, "auto.offset.reset": "earliest",
                         "enable.auto.commit": False})
    consumer.subscribe([topic])
    for _ in range(int(count)):
        message = consumer.poll(PATIENCE_S)
        assert message is not None, f"no record on {topic} within {PATIENCE_S} s"
        assert message.error() is None or message.error().code() == KafkaError._PARTITION_EOF, message.error()
        value = deserialize(message.value(), SerializationContext(topic, MessageField.VALUE))
        print(json.dumps(value, default=str))
    consumer.close()


if __name__ == "__main__":
    {"produce": produce, "consume": consume}[sys.argv[1]](*sys.argv[2:])
