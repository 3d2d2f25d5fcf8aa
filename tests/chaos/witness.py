"""Reads the committed records of a topic and reports which numbers it holds and how often.

It shares no code with the services: kafka-python speaks Kafka's protocol by itself.
"""

import hashlib
import json
import sys
import time

from kafka import KafkaConsumer, TopicPartition

PATIENCE_S = 120


def main() -> None:
    asked = json.loads(sys.argv[1])
    consumer = KafkaConsumer(
        bootstrap_servers=asked["brokers"],
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        group_id=None,
        max_partition_fetch_bytes=32 << 20,
    )
    partitions = [TopicPartition(asked["topic"], at) for at in sorted(consumer.partitions_for_topic(asked["topic"]))]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    ends = consumer.end_offsets(partitions)
    first, repeated, repeated_otherwise, strangers = {}, 0, 0, 0
    heard = time.monotonic()
    while any(consumer.position(partition) < ends[partition] for partition in partitions):
        batches = consumer.poll(timeout_ms=1000)
        if batches:
            heard = time.monotonic()
        elif time.monotonic() - heard > PATIENCE_S:
            sys.exit(f"{asked['topic']} could not be read to its end: {[consumer.position(p) for p in partitions]} of {ends}")
        for record in (record for batch in batches.values() for record in batch):
            number = next((value for name, value in record.headers if name == asked["header"]), None)
            if number is None:
                strangers += 1
                continue
            number, content = int(number), hashlib.sha256(record.value or b"").digest()
            if number in first:
                repeated += 1
                repeated_otherwise += first[number] != content
            else:
                first[number] = content
    seen = {
        "numbers": sorted(first),
        "repeated": repeated,
        "repeated_otherwise": repeated_otherwise,
        "strangers": strangers,
    }
    json.dump(seen, sys.stdout)


main()
