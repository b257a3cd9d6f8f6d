"""Retrieval quality of a running cluster on the shared photos, beside brute force over the same embeddings.

Usage: quality.py HOST:PORT DATA_FOLDER [--classes], with the generated modules on PYTHONPATH. Ends with an error if any
number differs from brute force by more than 0.01.

- near-duplicates: each altered copy must find its original among all photos: recall@1 and recall@5 by transform;
- labelled photos: each photo's neighbours should be of its class: precision@5 and mean average precision over the whole
  ranking, itself left out. The means are over photos; --classes prints each class too.
"""

import csv
import pathlib
import sys
import uuid
from collections import defaultdict

import grpc
import numpy as np
from omma.v1 import (
    collection_service_pb2,
    collection_service_pb2_grpc,
    image_service_pb2,
    image_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
    types_pb2,
)

TIMEOUT = 600
MOST_DIFFERENCE = 0.01
BATCH = 500


class Cluster:
    """The calls that are needed here."""

    def __init__(self, channel: grpc.Channel):
        self.collections = collection_service_pb2_grpc.CollectionServiceStub(channel)
        self.images = image_service_pb2_grpc.ImageServiceStub(channel)
        self.searches = search_service_pb2_grpc.SearchServiceStub(channel)

    def create(self, name: str) -> None:
        """An empty collection in the encoder's space, whatever was there."""
        try:
            self.collections.DeleteCollection(
                collection_service_pb2.DeleteCollectionRequest(name=name), timeout=TIMEOUT
            )
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.NOT_FOUND:
                raise
        self.collections.CreateCollection(
            collection_service_pb2.CreateCollectionRequest(name=name, request_id=str(uuid.uuid4())), timeout=TIMEOUT
        )

    def ingest(self, collection: str, images) -> None:
        """Streams images in; all must be stored."""

        def requests():
            for image in images:
                yield image_service_pb2.IngestImagesRequest(
                    collection=collection, image=image, request_id=str(uuid.uuid4())
                )

        for answer in self.images.IngestImages(requests(), timeout=TIMEOUT):
            if answer.result.error.code != 0:
                raise AssertionError(f"{answer.result.id}: {answer.result.error}")

    def embeddings(self, collection: str, ids: list[str]) -> np.ndarray:
        """The stored embeddings, one row for each id."""
        rows = {}
        for begin in range(0, len(ids), BATCH):
            request = image_service_pb2.BatchGetImagesRequest(
                collection=collection, ids=ids[begin : begin + BATCH], include_embedding=True
            )
            for image in self.images.BatchGetImages(request, timeout=TIMEOUT).images:
                rows[image.id] = np.array(image.embedding.values, dtype=np.float32)
        return np.stack([rows[i] for i in ids])

    def search(self, collection: str, **target) -> list[str]:
        """Ids of the hits, best first; `target` as in Query."""
        request = search_service_pb2.SearchRequest(collection=collection, query=search_service_pb2.Query(**target))
        return [hit.id for hit in self.searches.Search(request, timeout=TIMEOUT).hits]


class Comparison:
    """Numbers of Omma beside those of brute force."""

    def __init__(self):
        self.worst = 0.0

    def line(self, name: str, omma: float, brute_force: float, n: int) -> None:
        """Prints one, and remembers how far apart they are."""
        self.worst = max(self.worst, abs(omma - brute_force))
        print(f"{name:44} {omma:8.4f} {brute_force:12.4f} {omma - brute_force:+9.4f} {n:7}")

    @staticmethod
    def header(title: str) -> None:
        """Begins a table."""
        print(f"\n{title:44} {'omma':>8} {'brute force':>12} {'diff':>9} {'n':>7}")


def picture_image(identifier: str, path: pathlib.Path) -> image_service_pb2.NewImage:
    """A file as an image."""
    return image_service_pb2.NewImage(id=identifier, picture=path.read_bytes())


def vector_image(identifier: str, values: np.ndarray) -> image_service_pb2.NewImage:
    """An embedding as an image."""
    return image_service_pb2.NewImage(id=identifier, embedding=types_pb2.Embedding(values=values))


def ranked(queries: np.ndarray, stored: np.ndarray, ids: list[str]) -> list[list[str]]:
    """Exact ranking by score, then by id, as Omma has it."""
    scores = queries.astype(np.float64) @ stored.astype(np.float64).T
    by_id = np.argsort(np.array(ids))
    rankings = []
    for row in scores:
        order = by_id[np.argsort(-row[by_id], kind="stable")]
        rankings.append([ids[i] for i in order])
    return rankings


def near_duplicates(cluster: Cluster, data: pathlib.Path, ids: list[str], stored: np.ndarray) -> Comparison:
    """Altered copies against all photos."""
    rows = list(csv.DictReader((data / "neardup/groundtruth.csv").open()))
    files = {row["query"]: data / "neardup" / row["query"] for row in rows}
    cluster.create("quality-queries")
    cluster.ingest("quality-queries", (picture_image(q, p) for q, p in files.items()))
    exact = ranked(cluster.embeddings("quality-queries", list(files)), stored, ids)
    by_transform = defaultdict(list)
    for row, ranking in zip(rows, exact):
        found = cluster.search("quality-all", picture=files[row["query"]].read_bytes(), k=5)
        truth = row["original"]
        by_transform[row["transform"]].append(
            (truth in found[:1], truth in found, truth in ranking[:1], truth in ranking[:5])
        )
    comparison = Comparison()
    for k, (ours, theirs) in ((1, (0, 2)), (5, (1, 3))):
        comparison.header(f"near-duplicates, recall@{k}")
        for transform, hits in sorted(by_transform.items()):
            means = np.mean(hits, axis=0)
            comparison.line(transform, means[ours], means[theirs], len(hits))
        means = np.mean([h for hits in by_transform.values() for h in hits], axis=0)
        comparison.line("all", means[ours], means[theirs], len(rows))
    return comparison


def precision_and_average_precision(ranking: list[str], relevant: set[str]) -> tuple[float, float]:
    """precision@5, and average precision over the whole ranking."""
    hits = np.array([i in relevant for i in ranking], dtype=np.float64)
    at_hits = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return hits[:5].sum() / 5, float((at_hits * hits).sum() / max(1, len(relevant)))


def by_label(label: str, members: list[dict], found: list[list[str]], exact: list[list[str]]) -> dict[str, list]:
    """For each class, one (precision, average precision) of Omma's and of brute force per photo."""
    of_class = defaultdict(set)
    for row in members:
        of_class[row[label]].add(row["path"])
    numbers = defaultdict(list)
    for row, ours, theirs in zip(members, found, exact):
        relevant = of_class[row[label]] - {row["path"]}
        theirs = [n for n in theirs if n != row["path"]]
        numbers[row[label]].append(
            precision_and_average_precision(ours, relevant) + precision_and_average_precision(theirs, relevant)
        )
    return numbers


def labelled(cluster: Cluster, rows: list[dict], ids: list[str], stored: np.ndarray, classes: bool) -> Comparison:
    """Photos against photos of their data set, which is small enough for k to reach its end."""
    comparison = Comparison()
    place = {identifier: i for i, identifier in enumerate(ids)}
    for dataset in sorted({row["dataset"] for row in rows}):
        members = [row for row in rows if row["dataset"] == dataset]
        names = [row["path"] for row in members]
        if len(names) > 1000:
            raise AssertionError(f"{dataset} has more photos than a search may return")
        matrix = stored[[place[n] for n in names]]
        collection = f"quality-{dataset}"
        cluster.create(collection)
        cluster.ingest(collection, (vector_image(n, v) for n, v in zip(names, matrix)))
        exact = ranked(matrix, matrix, names)
        found = [cluster.search(collection, image_id=n, k=len(names)) for n in names]
        for label in ("class", "coarse_class"):
            numbers = by_label(label, members, found, exact)
            if len(numbers) < 2:
                continue
            comparison.header(f"{dataset} by {label}")
            for column, title in enumerate(("precision@5", "mean average precision")):
                if classes:
                    for name, values in sorted(numbers.items()):
                        means = np.mean(values, axis=0)
                        comparison.line(f"  {name} {title}", means[column], means[column + 2], len(values))
                means = np.mean([v for values in numbers.values() for v in values], axis=0)
                comparison.line(title, means[column], means[column + 2], len(members))
    return comparison


def main() -> None:
    """Everything, in order."""
    address, data = sys.argv[1], pathlib.Path(sys.argv[2])
    # Some paths are listed twice, as two photos had one name; the file is one.
    by_path = {row["path"]: row for row in csv.DictReader((data / "labels.csv").open())}
    rows = [row for path, row in by_path.items() if path.startswith("photos/")]
    ids = [row["path"] for row in rows]
    with grpc.insecure_channel(address) as channel:
        cluster = Cluster(channel)
        cluster.create("quality-all")
        cluster.ingest("quality-all", (picture_image(i, data / i) for i in ids))
        stored = cluster.embeddings("quality-all", ids)
        print(f"{len(ids)} photos, embeddings of {stored.shape[1]} numbers")
        comparisons = [
            near_duplicates(cluster, data, ids, stored),
            labelled(cluster, rows, ids, stored, "--classes" in sys.argv),
        ]
    worst = max(c.worst for c in comparisons)
    print(f"\nlargest difference {worst:.4f}; at most {MOST_DIFFERENCE} is allowed")
    if worst > MOST_DIFFERENCE:
        sys.exit(1)
    print("all checks passed")


if __name__ == "__main__":
    main()
