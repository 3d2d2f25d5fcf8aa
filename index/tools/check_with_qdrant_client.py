"""Asks an endpoint what Python's qdrant-client can ask, over gRPC: check_with_qdrant_client.py http://127.0.0.1:6334

Needs qdrant-client 1.20. Ends with an assertion where an answer is not what a Qdrant server gives.
"""

import random
import sys
import uuid
import warnings
from urllib.parse import urlparse

import grpc
from qdrant_client import QdrantClient, models


def expect_refusal(code, ask):
    try:
        ask()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
        return
    raise AssertionError(f"nothing was refused; {code} was expected")


def main(url: str) -> None:
    address = urlparse(url)
    warnings.simplefilter("error")  # the client warns of an incompatible server
    client = QdrantClient(host=address.hostname, grpc_port=address.port, prefer_grpc=True, timeout=30,
                          check_compatibility=False)
    name, alias = f"python-{uuid.uuid4().hex}", f"alias-{uuid.uuid4().hex}"

    assert client.create_collection(
        name,
        vectors_config={
            "clip": models.VectorParams(size=16, distance=models.Distance.COSINE),
            "minilm": models.VectorParams(size=8, distance=models.Distance.COSINE),
        },
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        ),
    )
    assert name in [c.name for c in client.get_collections().collections]
    assert client.collection_exists(name)
    info = client.get_collection(name)
    assert info.config.params.vectors["clip"].size == 16, info
    assert info.status == models.CollectionStatus.GREEN, info

    client.update_collection_aliases(change_aliases_operations=[
        models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias))
    ])
    assert alias in [a.alias_name for a in client.get_aliases().aliases]

    rng = random.Random(7)
    vector = lambda n: [rng.gauss(0, 1) for _ in range(n)]
    points = [
        models.PointStruct(id=i, vector={"clip": vector(16), "minilm": vector(8)},
                           payload={"text": f"a boat {i}", "sources": ["wiki"] if i % 2 else ["users", "wiki"], "n": i})
        for i in range(300)
    ]
    assert client.upsert(alias, points, wait=True).status == models.UpdateStatus.COMPLETED
    for field, kind in [("sources", models.PayloadSchemaType.KEYWORD), ("n", models.PayloadSchemaType.INTEGER)]:
        client.create_payload_index(name, field, kind, wait=True)
    assert set(client.get_collection(name).payload_schema) == {"sources", "n"}

    users = models.Filter(must=[models.FieldCondition(key="sources", match=models.MatchValue(value="users")),
                                models.FieldCondition(key="n", range=models.Range(gte=100))])
    assert client.count(alias, count_filter=users, exact=True).count == 100
    hits = client.query_points(
        alias, query=points[120].vector["clip"], using="clip", limit=5, query_filter=users,
        search_params=models.SearchParams(hnsw_ef=64, quantization=models.QuantizationSearchParams(rescore=True)),
        with_payload=True, with_vectors=["minilm"],
    ).points
    assert hits[0].id == 120 and abs(hits[0].score - 1) < 1e-4, hits[0]
    assert list(hits[0].vector) == ["minilm"] and hits[0].payload["n"] == 120
    exact = client.query_points(alias, query=120, using="clip", limit=5,
                                search_params=models.SearchParams(exact=True)).points
    assert 120 not in [hit.id for hit in exact] and len(exact) == 5
    batch = client.query_batch_points(alias, [
        models.QueryRequest(query=points[i].vector["minilm"], using="minilm", limit=1) for i in (3, 4)
    ])
    assert [answer.points[0].id for answer in batch] == [3, 4]

    seen, offset = [], None
    while True:
        page, offset = client.scroll(alias, limit=128, offset=offset, with_payload=False)
        seen += [record.id for record in page]
        if offset is None:
            break
    assert seen == list(range(300))
    assert client.facet(alias, "sources", exact=True).hits[0].count == 300

    client.set_payload(alias, {"mood": "calm"}, points=[5], wait=True)
    assert client.retrieve(alias, [5])[0].payload["mood"] == "calm"
    client.delete(alias, models.PointIdsList(points=list(range(10))), wait=True)
    client.delete(alias, models.FilterSelector(filter=users), wait=True)
    assert client.count(alias).count == 190

    code = grpc.StatusCode
    expect_refusal(code.NOT_FOUND, lambda: client.count("there-is-no-such-collection"))
    expect_refusal(code.INVALID_ARGUMENT, lambda: client.query_points(alias, query=[1.0], using="clip"))
    expect_refusal(code.ALREADY_EXISTS, lambda: client.create_collection(
        name, vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT)))
    expect_refusal(code.UNIMPLEMENTED, lambda: client.query_points(
        alias, query=models.DiscoverQuery(discover=models.DiscoverInput(target=20, context=[])), using="clip"))

    assert client.delete_collection(name)
    assert not client.collection_exists(name)


if __name__ == "__main__":
    main(sys.argv[1])
