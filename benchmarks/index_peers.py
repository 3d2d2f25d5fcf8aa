"""Measures hnswlib and faiss on the vectors of our index, and finds the exact answers.

    index_peers.py truth VECTORS COUNT QUERIES          writes VECTORS/truth-SPACE-COUNT.u32
    index_peers.py peers VECTORS COUNT QUERIES          prints one JSON object
    index_peers.py rows RESULTS --report FILE           turns all printed results into rows of reports/bench.json

Both graphs have the same edges (M = 16) and candidates while building (128) as our collections.
hnswlib keeps f32. faiss keeps 8 bits per value like our default, but does not rescore with the
originals.
"""

import argparse
import json
import pathlib
import statistics
import time

import numpy

SPACES = {"minilm": 384, "clip": 512}
K = 100
M, EF_CONSTRUCTION = 16, 128
EFS = [100, 128, 192, 256, 400]
THREADS = [1, 2]
# Every rate is the median of this many rounds, after one that is not counted.
ROUNDS = 3
SLAB = 50_000
# A peer that does not reach our recall is compared this far below its best recall.
FLAT = 0.001


def rows_of(folder, name, dim, count):
    rows = numpy.memmap(folder / f"{name}.f16", dtype="<f2", mode="r").reshape(-1, dim)
    if len(rows) < count:
        raise SystemExit(f"{name}.f16 has {len(rows)} rows, not {count}: run the step `vectors`")
    return rows[:count]


def slabs(rows):
    for first in range(0, len(rows), SLAB):
        yield first, numpy.asarray(rows[first : first + SLAB], dtype="f4")


def truth(folder, space, count, queries):
    path = folder / f"truth-{space}-{count}.u32"
    wanted = 4 * K * queries
    if path.exists() and path.stat().st_size == wanted:
        return
    import faiss

    dim = SPACES[space]
    asked = numpy.asarray(rows_of(folder, f"{space}-queries", dim, queries), dtype="f4")
    best, numbers = numpy.full((queries, K), -2, dtype="f4"), numpy.zeros((queries, K), dtype="i8")
    for first, slab in slabs(rows_of(folder, space, dim, count)):
        exact = faiss.IndexFlatIP(dim)
        exact.add(slab)
        near, found = exact.search(asked, min(K, len(slab)))
        best = numpy.concatenate([best, near], axis=1)
        numbers = numpy.concatenate([numbers, found + first], axis=1)
        order = numpy.argsort(-best, axis=1, kind="stable")[:, :K]
        best, numbers = numpy.take_along_axis(best, order, 1), numpy.take_along_axis(numbers, order, 1)
    numbers.astype("<u4").tofile(path)


def recall(right, found):
    hits = sum(len(numpy.intersect1d(one, other)) for one, other in zip(right, found))
    return hits / right.size


def curve(queries, right, search, set_ef, set_threads):
    """Recall and rate for every length of the candidate list."""
    points = []
    for ef in EFS:
        set_ef(ef)
        rates = {threads: [] for threads in THREADS}
        found = search(queries)
        for _ in range(ROUNDS):
            for threads in THREADS:
                set_threads(threads)
                started = time.perf_counter()
                search(queries)
                rates[threads].append(len(queries) / (time.perf_counter() - started))
        medians = {str(threads): statistics.median(those) for threads, those in rates.items()}
        points.append({"ef": ef, "recall": recall(right, found), "queries_per_s": medians})
    return points


def hnswlib_peer(rows, queries, right):
    import hnswlib

    index = hnswlib.Index(space="ip", dim=rows.shape[1])
    index.init_index(max_elements=len(rows), ef_construction=EF_CONSTRUCTION, M=M)
    index.set_num_threads(2)
    started = time.perf_counter()
    for first, slab in slabs(rows):
        index.add_items(slab, numpy.arange(first, first + len(slab)))
    built = time.perf_counter() - started
    points = curve(queries, right, lambda asked: index.knn_query(asked, k=K)[0], index.set_ef, index.set_num_threads)
    return {"build_s": built, "bytes": index.index_file_size(), "curve": points}


def faiss_peer(rows, queries, right):
    import faiss

    index = faiss.IndexHNSWSQ(rows.shape[1], faiss.ScalarQuantizer.QT_8bit, M, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = EF_CONSTRUCTION
    faiss.omp_set_num_threads(2)
    started = time.perf_counter()
    index.train(numpy.asarray(rows[:SLAB], dtype="f4"))
    for _, slab in slabs(rows):
        index.add(slab)
    built = time.perf_counter() - started

    def set_ef(ef):
        index.hnsw.efSearch = ef

    points = curve(queries, right, lambda asked: index.search(asked, K)[1], set_ef, faiss.omp_set_num_threads)
    return {"build_s": built, "bytes": len(faiss.serialize_index(index)), "curve": points}


def peers(folder, count, queries):
    answer = {}
    for space, dim in SPACES.items():
        rows = rows_of(folder, space, dim, count)
        asked = numpy.asarray(rows_of(folder, f"{space}-queries", dim, queries), dtype="f4")
        right = numpy.fromfile(folder / f"truth-{space}-{count}.u32", dtype="<u4").reshape(queries, K)
        for name, measure in (("hnswlib", hnswlib_peer), ("faiss", faiss_peer)):
            answer.setdefault(name, {})[space] = measure(rows, asked, right)
    return answer


def at_recall(points, wanted, threads):
    """Queries per second at a recall, interpolated; the first point's if all are above it."""
    points = sorted((point["recall"], point["queries_per_s"][threads]) for point in points)
    if wanted > points[-1][0]:
        raise ValueError(f"no point of the curve has recall {wanted}")
    for (low, slow), (high, fast) in zip(points, points[1:]):
        if low <= wanted <= high:
            part = (wanted - low) / (high - low) if high > low else 0
            return slow + part * (fast - slow)
    return points[0][1]


def row(name, unit, ours, peer=None, peer_name=None, inverse=False):
    digits = 4 if isinstance(ours, float) and ours < 10 else 1
    ratio = None if not peer else (peer / ours if inverse else ours / peer)
    return {"name": name, "unit": unit, "ours": round(ours, digits), "peer": peer and round(peer, digits),
            "peer_name": peer_name, "ratio": ratio and round(ratio, 3)}


def collection_rows(load, search, inside, peer):
    profile, count = load["profile"], load["count"]
    of = f"index of {count:,} ({profile})"
    millions = count / 1e6
    rows = [
        row(f"{of}: load, both vectors, durable", "prompts/s", count / load["load_s"]),
        row(f"{of}: graphs built, a million", "s", load["build_s"] / millions),
        row(f"{of}: on disk, a million", "GB", load["disk_bytes"] / 1e9 / millions),
        row(f"{of}: memory of its own, a million", "GB", search["memory"]["own"] / 1e9 / millions),
        row(f"{of}: mapped files at hand, a million", "GB", search["memory"]["mapped"] / 1e9 / millions),
    ]
    for space, found in search["spaces"].items():
        rows += [
            row(f"{of}, {space}: recall@100", "share", found["recall"]),
            row(f"{of}, {space}: over gRPC, p50", "ms", found["p50_ms"]),
            row(f"{of}, {space}: over gRPC, p99", "ms", found["p99_ms"]),
        ]
        rows += [row(f"{of}, {space}: over gRPC, {threads} client(s)", "queries/s", rate)
                 for threads, rate in found["queries_per_s"].items()]
    for space, points in (inside or {"spaces": {}})["spaces"].items():
        # The default size of a search's candidate list.
        usual = next(point for point in points if point["ef"] == inside["usual_ef"])
        for name, graphs in (peer or {None: None}).items():
            theirs = graphs and graphs[space]["curve"]
            # If the peer does not reach our recall, both are compared slightly below its best: near
            # its end the curve may be flat, with rising cost and no gain.
            best = max((point["recall"] for point in theirs or []), default=1 + FLAT)
            wanted = min(usual["recall"], best - FLAT)
            for threads in usual["queries_per_s"]:
                rows.append(row(f"{of}, {space}: in process, recall {wanted:.3f}, {threads} thread(s)", "queries/s",
                                at_recall(points, wanted, threads), theirs and at_recall(theirs, wanted, threads), name))
    return rows


def build_rows(load, peer):
    ours, count = load["build_s"] + load["load_s"], load["count"]
    return [row(f"index of {count:,} ({load['profile']}): loaded and built, both vectors", "s", ours,
                sum(one["build_s"] for one in graphs.values()), name, inverse=True) for name, graphs in peer.items()]


def make_rows(results, report):
    steps = [json.loads(line) for line in pathlib.Path(results).read_text().splitlines() if line.strip()]
    peer = next((step["peers"] for step in steps if "peers" in step), {})
    rows = []
    for profile in dict.fromkeys(step["profile"] for step in steps if "profile" in step):
        own = {step["step"]: step for step in steps if step.get("profile") == profile}
        rows += collection_rows(own["load"], own["search"], own.get("inside"), peer) + build_rows(own["load"], peer)
    report = pathlib.Path(report)
    # Names contain the recall, which may differ slightly in another run.
    measured = tuple({one["name"].split(")")[0] for one in rows})
    kept = [one for one in (json.loads(report.read_text()) if report.exists() else []) if not one["name"].startswith(measured)]
    report.write_text(json.dumps(kept + rows, indent=2) + "\n")
    for one in rows:
        shown = {key: "–" if value is None else value for key, value in one.items()}
        print("{name:78} {ours:>10} {unit:10} {peer:>10}  {ratio:>6}  {peer_name}".format(**shown))


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("step", choices=["truth", "peers", "rows"])
    arguments.add_argument("place", type=pathlib.Path)
    arguments.add_argument("count", type=int, nargs="?")
    arguments.add_argument("queries", type=int, nargs="?", default=1_000)
    arguments.add_argument("--report", default="reports/bench.json")
    arguments = arguments.parse_args()
    if arguments.step == "rows":
        make_rows(arguments.place, arguments.report)
    elif arguments.step == "truth":
        for space in SPACES:
            truth(arguments.place, space, arguments.count, arguments.queries)
    else:
        print(json.dumps({"peers": peers(arguments.place, arguments.count, arguments.queries)}))


if __name__ == "__main__":
    main()
