"""Reads a topic as a downstream system would: Confluent's client, deserializer and registry client.

usage: read_topic.py BOOTSTRAP REGISTRY_URL TOKEN TOPIC

Prints one JSON object a record, committed records only, to the end of the topic:
{"partition", "offset", "key", "value"}; bytes as hexadecimal text, decimals as text.
"""

import decimal
import json
import sys
import uuid

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext


def plain(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, decimal.Decimal):
        return str(value)
    return str(value)


def main():
    bootstrap, registry_url, token, topic = sys.argv[1:]
    registry = SchemaRegistryClient({"url": registry_url, "basic.auth.user.info": f"token:{token}"})
    subjects = registry.get_subjects()
    for subject in (f"{topic}-key", f"{topic}-value"):
        assert subject in subjects, f"{subject} is not among the registry's subjects"
        latest = registry.get_latest_version(subject)
        again = registry.get_schema(latest.schema_id)
        assert again.schema_str, f"schema {latest.schema_id} has no text"
        assert registry.test_compatibility(subject, again), f"{subject} is not compatible with itself"
    deserialize = AvroDeserializer(registry)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"interoperation-{uuid.uuid4()}",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
    )
    partitions = consumer.list_topics(topic, timeout=20).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    ended = set()
    while len(ended) < len(partitions):
        message = consumer.poll(20)
        assert message is not None, "the broker sent nothing for 20 seconds"
        if message.error():
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            ended.add(message.partition())
            continue
        record = {
            "partition": message.partition(),
            "offset": message.offset(),
            "key": deserialize(message.key(), SerializationContext(topic, MessageField.KEY)),
            "value": deserialize(message.value(), SerializationContext(topic, MessageField.VALUE)),
        }
        print(json.dumps(record, default=plain, ensure_ascii=False))
    consumer.close()


main()
