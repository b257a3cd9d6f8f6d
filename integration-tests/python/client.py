"""A client that knows only the .proto files: creates a collection, streams pictures in, searches, reads errors.

Usage: client.py HOST:PORT, with the generated modules on PYTHONPATH. Ends with an error if anything is not as promised.
"""

import sys
import uuid

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status
from omma.v1 import (
    cluster_service_pb2,
    cluster_service_pb2_grpc,
    collection_service_pb2,
    collection_service_pb2_grpc,
    filter_pb2,
    image_service_pb2,
    image_service_pb2_grpc,
    search_service_pb2,
    search_service_pb2_grpc,
    types_pb2,
)

import drawing

COLLECTION = "from-python"
PICTURES = 25
BAD = 7
TIMEOUT = 60


def check(holds: bool, what: str) -> None:
    """Stops the program if something is not as promised."""
    if not holds:
        raise AssertionError(what)
    print(f"ok: {what}")


def details(status: status_pb2.Status) -> dict[str, object]:
    """The details of an error, by type."""
    kinds = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo)
    found = {}
    for packed in status.details:
        for kind in kinds:
            if packed.Is(kind.DESCRIPTOR):
                message = kind()
                packed.Unpack(message)
                found[kind.DESCRIPTOR.name] = message
    return found


def refused(call, request) -> status_pb2.Status:
    """The google.rpc.Status of a call that must fail."""
    try:
        answer = call(request, timeout=TIMEOUT)
    except grpc.RpcError as error:
        status = rpc_status.from_call(error)
        check(status is not None, f"{error.code().name} carries a google.rpc.Status")
        return status
    raise AssertionError(f"was not refused: {answer}")


def create(channel: grpc.Channel) -> None:
    """A collection in the encoder's space; the second time it exists."""
    collections = collection_service_pb2_grpc.CollectionServiceStub(channel)
    request = collection_service_pb2.CreateCollectionRequest(name=COLLECTION, request_id=str(uuid.uuid4()))
    made = collections.CreateCollection(request, timeout=TIMEOUT).collection
    check(made.name == COLLECTION and made.vector_space.dimension > 0, "a collection is created")
    again = collection_service_pb2.CreateCollectionRequest(name=COLLECTION, request_id=str(uuid.uuid4()))
    status = refused(collections.CreateCollection, again)
    check(status.code == code_pb2.ALREADY_EXISTS, "its name is taken")
    check(details(status)["ErrorInfo"].reason == "COLLECTION_EXISTS", "the reason says so")


def pictures():
    """The stream: each picture once, and a bad one in the middle."""
    for i in range(PICTURES):
        picture = b"these bytes are no picture" if i == BAD else drawing.png(drawing.draw(i))
        attributes = {"number": types_pb2.AttributeValue(integer_value=i)}
        image = image_service_pb2.NewImage(id=f"picture-{i}", picture=picture, attributes=attributes)
        yield image_service_pb2.IngestImagesRequest(
            collection=COLLECTION if i == 0 else "", sequence=i, image=image, request_id=str(uuid.uuid4())
        )


def ingest(channel: grpc.Channel) -> None:
    """Streams pictures in: each is answered, the bad one with its error, and the stream goes on."""
    images = image_service_pb2_grpc.ImageServiceStub(channel)
    answers = {a.sequence: a.result for a in images.IngestImages(pictures(), timeout=TIMEOUT)}
    check(sorted(answers) == list(range(PICTURES)), "every picture is answered")
    created = [i for i, r in answers.items() if r.effect == image_service_pb2.PUT_EFFECT_CREATED]
    check(sorted(created) == [i for i in range(PICTURES) if i != BAD], "all but the bad one are stored")
    error = answers[BAD].error
    check(error.code == code_pb2.INVALID_ARGUMENT, "the bad one is an invalid argument")
    info = details(error)["ErrorInfo"]
    check((info.reason, info.domain) == ("INVALID_PICTURE", "omma"), f"the reason is readable: {info.reason}")
    check("RetryInfo" not in details(error), "nothing says that a retry would help")
    missing = refused(images.GetImage, image_service_pb2.GetImageRequest(collection=COLLECTION, id=f"picture-{BAD}"))
    check(details(missing)["ErrorInfo"].reason == "IMAGE_NOT_FOUND", "nothing of it is stored")


def search(channel: grpc.Channel) -> None:
    """A flipped copy finds its original; attributes come with the hits."""
    searches = search_service_pb2_grpc.SearchServiceStub(channel)
    for i in (0, 3, PICTURES - 1):
        copy = drawing.png(drawing.flipped(drawing.draw(i)))
        query = search_service_pb2.Query(picture=copy, k=3)
        request = search_service_pb2.SearchRequest(collection=COLLECTION, query=query, include_attributes=True)
        answer = searches.Search(request, timeout=TIMEOUT)
        best = answer.hits[0]
        check(best.id == f"picture-{i}", f"a flipped copy finds picture-{i}: {best.score:.3f}")
        check(best.attributes["number"].integer_value == i, "its attributes come along")
        check(answer.coverage.groups_asked == answer.coverage.groups_answered > 0, "all groups answered")
    even = [types_pb2.AttributeValue(integer_value=i) for i in range(0, PICTURES, 2)]
    wanted = filter_pb2.Filter(is_in=filter_pb2.InCondition(attribute="number", values=even))
    query = search_service_pb2.Query(image_id="picture-3", k=PICTURES, filter=wanted)
    answer = searches.Search(search_service_pb2.SearchRequest(collection=COLLECTION, query=query), timeout=TIMEOUT)
    found = sorted(hit.id for hit in answer.hits)
    check(found == sorted(f"picture-{i}" for i in range(0, PICTURES, 2)), "a filter finds the even ones, and all of them")
    request = search_service_pb2.SearchRequest(
        collection=COLLECTION, query=search_service_pb2.Query(picture=b"GIF89a, or not", k=3)
    )
    status = refused(searches.Search, request)
    check(details(status)["ErrorInfo"].reason == "INVALID_PICTURE", "a bad query picture is refused")
    request = search_service_pb2.SearchRequest(
        collection=COLLECTION, query=search_service_pb2.Query(image_id="picture-0", k=100000)
    )
    status = refused(searches.Search, request)
    fields = [v.field for v in details(status)["BadRequest"].field_violations]
    check(fields == ["query.k"], f"the field to blame is named: {fields}")


def main() -> None:
    """Everything, in order."""
    with grpc.insecure_channel(sys.argv[1]) as channel:
        grpc.channel_ready_future(channel).result(timeout=TIMEOUT)
        create(channel)
        ingest(channel)
        search(channel)
        status = cluster_service_pb2_grpc.ClusterServiceStub(channel).GetClusterStatus(
            cluster_service_pb2.GetClusterStatusRequest(), timeout=TIMEOUT
        )
        check(len(status.nodes) == 3 and all(n.reachable for n in status.nodes), "all nodes are reachable")
    print("all checks passed")


if __name__ == "__main__":
    main()
