"""Lists, counts and searches the collection with Python's qdrant-client, as an analyst would.

    python search_prompts.py 127.0.0.1:6334 SOURCE COUNT

Prints the nearest prompts' texts, one per line; an assertion fails if an answer is wrong."""

import sys

from qdrant_client import QdrantClient, models


def main(address, source, count):
    host, port = address.rsplit(":", 1)
    client = QdrantClient(host=host, grpc_port=int(port), prefer_grpc=True, timeout=30, check_compatibility=False)
    aliases = {alias.alias_name: alias.collection_name for alias in client.get_aliases().aliases}
    assert aliases["prompts"] in [one.name for one in client.get_collections().collections], aliases
    assert client.count("prompts", exact=True).count == count

    of_source = models.Filter(must=[models.FieldCondition(key="sources", match=models.MatchValue(value=source))])
    assert client.count("prompts", count_filter=of_source, exact=True).count == count
    elsewhere = models.Filter(must_not=of_source.must)
    assert client.count("prompts", count_filter=elsewhere, exact=True).count == 0

    (known,), _ = client.scroll("prompts", limit=1, with_vectors=["minilm"])
    found = client.query_points("prompts", query=known.vector["minilm"], using="minilm", query_filter=of_source,
                                limit=3, with_payload=True).points
    assert found[0].id == known.id and abs(found[0].score - 1) < 1e-3, found[0]
    assert not client.query_points("prompts", query=known.vector["minilm"], using="minilm", query_filter=elsewhere,
                                   limit=3).points
    for point in found:
        print(point.payload["text"])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
