"""Asks an endpoint what Python's qdrant-client can ask, over gRPC: check_with_qdrant_client.py http://127.0.0.1:6334

Needs qdrant-client 1.20. Ends with an assertion where an answer is not what a Qdrant server gives.
"""

import math
import random
import sys
import uuid
import warnings
from urllib.parse import urlparse

import grpc
from qdrant_client import QdrantClient, models

CODE = grpc.StatusCode
RNG = random.Random(7)


def vector(size):
    values = [RNG.gauss(0, 1) for _ in range(size)]
    norm = math.sqrt(sum(v * v for v in values))
    return [v / norm for v in values]


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b))


def expect_refusal(code, ask, says=""):
    try:
        ask()
    except grpc.RpcError as error:
        assert error.code() == code, f"{error.code()} instead of {code}: {error.details()}"
        assert says in error.details(), error.details()
        return
    raise AssertionError(f"nothing was refused; {code} was expected")


def create(client, name, alias):
    assert client.create_collection(
        name,
        vectors_config={
            "clip": models.VectorParams(size=16, distance=models.Distance.COSINE),
            "minilm": models.VectorParams(size=8, distance=models.Distance.COSINE, memory=models.Memory.COLD),
        },
        quantization_config=models.ScalarQuantization(
            scalar=models.ScalarQuantizationConfig(type=models.ScalarType.INT8, quantile=0.99, always_ram=True)
        ),
        metadata={"made_by": "python"},
    )
    assert name in [c.name for c in client.get_collections().collections]
    assert client.collection_exists(name)
    info = client.get_collection(name)
    assert info.config.params.vectors["clip"].size == 16, info
    assert info.status == models.CollectionStatus.GREEN, info
    assert info.config.metadata == {"made_by": "python"}, info.config.metadata
    client.update_collection_aliases(change_aliases_operations=[
        models.CreateAliasOperation(create_alias=models.CreateAlias(collection_name=name, alias_name=alias))
    ])
    assert alias in [a.alias_name for a in client.get_aliases().aliases]


def upsert(client, name, alias):
    points = [
        models.PointStruct(id=i, vector={"clip": vector(16), "minilm": vector(8)},
                           payload={"text": f"a boat {i}", "sources": ["wiki"] if i % 2 else ["users", "wiki"], "n": i})
        for i in range(300)
    ]
    assert client.upsert(alias, points, wait=True).status == models.UpdateStatus.COMPLETED
    # Upserting some of the points again changes nothing.
    assert client.upsert(alias, points[:50], wait=True).status == models.UpdateStatus.COMPLETED
    assert client.count(alias, exact=True).count == 300
    words = models.TextIndexParams(type=models.TextIndexType.TEXT, tokenizer=models.TokenizerType.WORD, lowercase=True,
                                   phrase_matching=True)
    for field, kind in [("sources", models.PayloadSchemaType.KEYWORD), ("n", models.PayloadSchemaType.INTEGER),
                        ("text", words)]:
        client.create_payload_index(name, field, kind, wait=True)
    assert set(client.get_collection(name).payload_schema) == {"sources", "n", "text"}
    return points


def field(key, **condition):
    return models.Filter(must=[models.FieldCondition(key=key, **condition)])


USERS = models.Filter(must=[models.FieldCondition(key="sources", match=models.MatchValue(value="users")),
                            models.FieldCondition(key="n", range=models.Range(gte=100))])


def count(client, alias):
    cases = [
        (USERS, 100),
        (field("text", match=models.MatchText(text="BOAT 7")), 1),
        (field("text", match=models.MatchText(text="7 boat")), 1),
        (field("text", match=models.MatchPhrase(phrase="a boat 7")), 1),
        (field("text", match=models.MatchPhrase(phrase="boat a")), 0),
        (field("sources", match=models.MatchAny(any=["users", "nobody"])), 150),
        (field("sources", match=models.MatchExcept(**{"except": ["wiki"]})), 150),
        (models.Filter(must_not=[models.HasIdCondition(has_id=[1, 2, 3])]), 297),
        (models.Filter(must=[models.IsEmptyCondition(is_empty=models.PayloadField(key="n"))]), 0),
    ]
    for condition, expected in cases:
        found = client.count(alias, count_filter=condition, exact=True).count
        assert found == expected, (condition, found)


def query(client, alias, points):
    params = models.SearchParams(hnsw_ef=64, quantization=models.QuantizationSearchParams(rescore=True, oversampling=2.0))
    hits = client.query_points(alias, query=points[120].vector["clip"], using="clip", limit=5, query_filter=USERS,
                               search_params=params, with_payload=True, with_vectors=["minilm"]).points
    assert hits[0].id == 120 and abs(hits[0].score - 1) < 1e-4, hits[0]
    assert list(hits[0].vector) == ["minilm"] and hits[0].payload["n"] == 120
    assert all(hit.payload["n"] >= 100 for hit in hits)
    exact = client.query_points(alias, query=120, using="clip", limit=5,
                                search_params=models.SearchParams(exact=True)).points
    truth = sorted(points, key=lambda p: -cosine(p.vector["clip"], points[120].vector["clip"]))
    assert [hit.id for hit in exact] == [point.id for point in truth[1:6]]
    above = client.query_points(alias, query=120, using="clip", limit=300, score_threshold=exact[2].score - 1e-6).points
    assert [hit.id for hit in above] == [hit.id for hit in exact[:3]]
    second = client.query_points(alias, query=120, using="clip", limit=2, offset=2,
                                 search_params=models.SearchParams(exact=True)).points
    assert [hit.id for hit in second] == [hit.id for hit in exact[2:4]]
    batch = client.query_batch_points(alias, [
        models.QueryRequest(query=points[i].vector["minilm"], using="minilm", limit=1) for i in (3, 4)
    ])
    assert [answer.points[0].id for answer in batch] == [3, 4]


def diversity(client, alias, points):
    """Maximal marginal relevance, and the best of each group."""
    target = points[7].vector["clip"]

    def ask(diversity):
        mmr = models.Mmr(diversity=diversity, candidates_limit=100)
        answer = client.query_points(alias, query=models.NearestQuery(nearest=target, mmr=mmr), using="clip", limit=10)
        return [hit.id for hit in answer.points]

    def alike(ids):
        pairs = [(a, b) for a in ids for b in ids if a < b]
        return sum(cosine(points[a].vector["clip"], points[b].vector["clip"]) for a, b in pairs) / len(pairs)

    plain = [hit.id for hit in client.query_points(alias, query=target, using="clip", limit=10).points]
    assert ask(0.0) == plain
    assert ask(1.0)[0] == 7 and alike(ask(0.9)) < alike(plain)
    groups = client.query_points_groups(alias, group_by="sources", query=target, using="clip", limit=5, group_size=2).groups
    assert {group.id for group in groups} == {"users", "wiki"} and all(len(group.hits) == 2 for group in groups)
    assert groups[0].hits[0].id == 7, groups


def scroll(client, alias):
    seen, offset = [], None
    while True:
        page, offset = client.scroll(alias, limit=128, offset=offset, with_payload=False)
        seen += [record.id for record in page]
        if offset is None:
            break
    assert seen == list(range(300))
    newest, _ = client.scroll(alias, limit=3, order_by=models.OrderBy(key="n", direction=models.Direction.DESC))
    assert [record.id for record in newest] == [299, 298, 297]
    hits = client.facet(alias, "sources", exact=True).hits
    assert [(hit.value, hit.count) for hit in hits] == [("wiki", 300), ("users", 150)]


def delete(client, alias):
    client.set_payload(alias, {"mood": "calm"}, points=[5], wait=True)
    assert client.retrieve(alias, [5])[0].payload["mood"] == "calm"
    client.delete(alias, models.PointIdsList(points=list(range(10))), wait=True)
    client.delete(alias, models.FilterSelector(filter=USERS), wait=True)
    client.delete(alias, models.PointIdsList(points=[4242]), wait=True)
    assert client.count(alias).count == 190
    assert client.retrieve(alias, [5]) == []


def change(client, name):
    """Another quantisation for a collection that is there, of every kind."""
    kinds = [
        models.ProductQuantization(product=models.ProductQuantizationConfig(compression=models.CompressionRatio.X4)),
        models.BinaryQuantization(binary=models.BinaryQuantizationConfig(
            encoding=models.BinaryQuantizationEncoding.TWO_BITS, memory=models.Memory.PINNED)),
        models.TurboQuantization(turbo=models.TurboQuantQuantizationConfig(bits=models.TurboQuantBitSize.BITS2)),
    ]
    before = client.count(name, exact=True).count
    for kind in kinds:
        assert client.update_collection(name, quantization_config=kind,
                                        hnsw_config=models.HnswConfigDiff(ef_construct=99))
        config = client.get_collection(name).config
        assert type(config.quantization_config) is type(kind), config.quantization_config
        assert config.hnsw_config.ef_construct == 99
        assert client.count(name, exact=True).count == before


def refusals(client, name, alias):
    expect_refusal(CODE.NOT_FOUND, lambda: client.count("there-is-no-such-collection"), "there-is-no-such-collection")
    expect_refusal(CODE.NOT_FOUND, lambda: client.query_points(alias, query=987654, using="clip"))
    expect_refusal(CODE.INVALID_ARGUMENT, lambda: client.query_points(alias, query=[1.0], using="clip"))
    expect_refusal(CODE.INVALID_ARGUMENT, lambda: client.query_points(alias, query=vector(16), using="nothing"), "nothing")
    expect_refusal(CODE.INVALID_ARGUMENT, lambda: client.upsert(
        alias, [models.PointStruct(id=1, vector={"clip": [1.0]})], wait=True), "16")
    expect_refusal(CODE.INVALID_ARGUMENT, lambda: client.query_points(
        alias, query=models.NearestQuery(nearest=vector(16), mmr=models.Mmr(diversity=2.0)), using="clip"))
    expect_refusal(CODE.ALREADY_EXISTS, lambda: client.create_collection(
        name, vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT)), name)
    expect_refusal(CODE.UNIMPLEMENTED, lambda: client.query_points(
        alias, query=models.DiscoverQuery(discover=models.DiscoverInput(target=20, context=[])), using="clip"))


def main(url: str) -> None:
    address = urlparse(url)
    warnings.simplefilter("error")  # the client warns of an incompatible server
    client = QdrantClient(host=address.hostname, grpc_port=address.port, prefer_grpc=True, timeout=30,
                          check_compatibility=False)
    name, alias = f"python-{uuid.uuid4().hex}", f"alias-{uuid.uuid4().hex}"
    create(client, name, alias)
    points = upsert(client, name, alias)
    count(client, alias)
    query(client, alias, points)
    diversity(client, alias, points)
    scroll(client, alias)
    delete(client, alias)
    change(client, name)
    refusals(client, name, alias)
    assert client.delete_collection(name)
    assert not client.collection_exists(name)


if __name__ == "__main__":
    main(sys.argv[1])
