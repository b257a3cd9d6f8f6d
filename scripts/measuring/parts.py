"""What is measured: each part returns what the document shows."""

import os
import socket
import threading
import time

from .cluster import RELEASE, SETTLE, WORK, Cluster, run
from .data import clustered

# Candidates that a search keeps.
EF = [32, 48, 64, 96, 128]
EF_BARE = [16, 20, 24, 28, 32, 40, 48, 64, 80, 96, 128, 192]
DEFAULT_EF = 128
# Precision of graphs, if nothing else is said.
STORAGE = "i8"
CLIENTS = 4
# Queries of a request that asks several.
BATCH = 16
SETTLED = ["--settle", f"{SETTLE}s"]
FSYNCS = ["omma_log_fsync_seconds_count", "omma_log_fsync_entries_sum"]
INDEX = "omma_index_memory_bytes"


def ingest(cluster, dataset, *flags):
    report = cluster.bench("ingest", *dataset.flags(), "--clients", CLIENTS, *SETTLED, *flags)
    cluster.wait_silent()
    return report


def search(cluster, dataset, seconds, clients=CLIENTS, batch=1, recall=True):
    words = [*dataset.flags(), "--clients", clients, "--lasts", f"{seconds}s", "--batch", batch]
    # Exact search over everything takes the load generator longer than the load.
    report = cluster.bench("search", *words, *([] if recall else ["--no-recall"]))
    return {
        "recall": report["recall"]["mean"] if recall else None,
        "cpu_ms": report["server_cpu_milliseconds_each"],
        "per_second": report["images_per_second"],
        "p50_ms": report["latency"]["p50"] * 1e3,
        "p99_ms": report["latency"]["p99"] * 1e3,
    }


def bare(dataset, seconds, efs=EF_BARE):
    found = dataset.bare("--threads", CLIENTS, "--seconds", seconds, "--ef", ",".join(map(str, efs)))
    rows = [
        {
            "ef": row["ef"],
            "recall": row["recall"],
            "cpu_ms": row["cpu_milliseconds_each"],
            "per_second": row["queries_per_second"],
        }
        for row in found["searches"]
    ]
    return {"insert_cpu_seconds": found["insert_cpu_seconds"], "memory_bytes": found["memory_bytes"], "searches": rows}


def cheapest(rows, recall):
    """The row of least cost that reaches a recall; None if none does."""
    good = [row for row in rows if row["recall"] >= recall]
    return min(good, key=lambda row: row["cpu_ms"]) if good else None


def searches(dataset, settings):
    """One node beside the library, with every ef: one query in each request, and several."""
    rows = []
    with Cluster() as cluster:
        ingest(cluster, dataset)
        for ef in EF:
            cluster.restart(["--graph-candidates", ef])
            alone = search(cluster, dataset, settings.seconds, clients=1, recall=False)
            row = {"ef": ef, **search(cluster, dataset, settings.seconds)}
            several = search(cluster, dataset, settings.seconds, batch=BATCH, recall=False)
            row |= {"batch_cpu_ms": several["cpu_ms"], "batch_per_second": several["per_second"]}
            rows.append({**row, "alone_p50_ms": alone["p50_ms"], "alone_cpu_ms": alone["cpu_ms"]})
    return {"omma": rows, "bare": bare(dataset, settings.seconds)}


def cluster_of_three(dataset, settings):
    """Ingest with replication 3, and search, beside one node with the same data and the library with a third of it."""
    with Cluster() as cluster:
        one = {"ingest": costs(ingest(cluster, dataset)), "search": search(cluster, dataset, settings.seconds)}
    with Cluster(nodes=3) as cluster:
        three = {"ingest": costs(ingest(cluster, dataset)), "search": search(cluster, dataset, settings.seconds)}
    whole = bare(dataset, settings.seconds, [DEFAULT_EF])
    third = bare(settings.third(dataset), settings.seconds, [DEFAULT_EF]) if settings.third(dataset) else None
    cost = lambda found: found["searches"][0]["cpu_ms"]
    return {
        "one": one,
        "three": three,
        "bare_insert_cpu_seconds": whole["insert_cpu_seconds"],
        "three_graphs_ratio": 3 * cost(third) / cost(whole) if third else None,
    }


def costs(report):
    return {
        "images": report["images"],
        "seconds": report["seconds"],
        "settled_seconds": report["settled_seconds"],
        "cpu_seconds": sum(server["cpu_seconds"] for server in report["servers"]),
        "own_cpu_seconds": report["own_cpu_seconds"],
    }


def proposals(settings):
    """Single-image writes to three nodes: many writers, and one alone, beside an fsync and a round trip."""
    words = ["ingest", "--dimension", 512, "--batch", 1, "--metric", ",".join(FSYNCS)]
    with Cluster(nodes=3) as cluster:
        many = cluster.bench(*words, "--clients", 128, "--count", settings.writes, "--collection", "many")
        cluster.wait_silent()
        # In the same quiet, so that the disk is the same.
        before = fsync_seconds(WORK / "fsync")
        one = cluster.bench(*words, "--clients", 1, "--count", settings.lone_writes, "--collection", "lone")
        fsync = (before + fsync_seconds(WORK / "fsync")) / 2
    grew = lambda report, name: sum(server["metrics"][name] for server in report["servers"])
    return {
        "writers": 128,
        "per_second": many["images_per_second"],
        "p50_ms": many["latency"]["p50"] * 1e3,
        "per_fsync": grew(many, FSYNCS[1]) / max(grew(many, FSYNCS[0]), 1),
        "lone_p50_ms": one["latency"]["p50"] * 1e3,
        "fsync_ms": fsync * 1e3,
        "round_trip_ms": round_trip_seconds() * 1e3,
    }


def median(values):
    return sorted(values)[len(values) // 2]


def fsync_seconds(path, writes=200, size=2_500):
    """The median of an append of an entry's size with fdatasync."""
    took = []
    with open(path, "wb", buffering=0) as file:
        for _ in range(writes):
            begin = time.perf_counter()
            file.write(os.urandom(size))
            os.fdatasync(file.fileno())
            took.append(time.perf_counter() - begin)
    path.unlink()
    return median(took)


def round_trip_seconds(times=500):
    """The median of a byte there and back over TCP on loopback, between two threads."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        peer, _ = server.accept()
    for end in (client, peer):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def echo():
        while byte := peer.recv(1):
            peer.send(byte)

    threading.Thread(target=echo, daemon=True).start()
    took = []
    for _ in range(times):
        begin = time.perf_counter()
        client.send(b"x")
        client.recv(1)
        took.append(time.perf_counter() - begin)
    client.close()
    return median(took)


def restart(cluster):
    """kill -9 of the one node; reading its checkpoint from the store; the first answer after its start."""
    shard = cluster.shards[0]
    shard.kill()
    said = run(RELEASE / "examples/restart_cost", cluster.folder / "shard-0/state", 1)
    begin = time.monotonic()
    shard.start(cluster.more)
    words = ["bench", "search", "--requests", 1, "--count", 1, "--queries", 1, "--warm-up", "0s", "--no-recall"]
    first = None
    while first is None:
        found = cluster.omma(*words, "--dimension", cluster.dimension, "--timeout", "2s", check=False)
        first = time.monotonic() - begin if found and found["requests"] == 1 else None
        if time.monotonic() - begin > 600:
            raise SystemExit("no answer within ten minutes of a restart")
    return {"first_answer_seconds": first, "parts": said.strip().splitlines()}


def kept(dataset, settings, storage):
    """One node with graphs of a precision: what it keeps, finds and costs."""
    with Cluster(flags=["--graph-storage", storage]) as cluster:
        cluster.dimension = dataset.dimension
        empty = cluster.resident_bytes()
        report = ingest(cluster, dataset, "--metric", INDEX)
        found = {
            "storage": storage,
            "count": dataset.count,
            "dimension": dataset.dimension,
            "ingest": costs(report),
            "index_bytes_each": sum(s["metrics"].get(INDEX, 0) for s in report["servers"]) / dataset.count,
            "resident_bytes_each": (cluster.resident_bytes() - empty) / dataset.count,
            "search": search(cluster, dataset, settings.seconds),
        }
        found["restart"] = restart(cluster)
    return found


def precisions(dataset, settings):
    return [kept(dataset, settings, storage) for storage in ("f32", "f16", "i8")]


def growth(settings):
    sizes = settings.growth
    return [kept(clustered(count, settings.growth_dimension, settings.queries), settings, STORAGE) for count in sizes]
