"""As much of Protocol Buffers as helm's own secrets need: its client sends them so, and takes JSON for an answer."""

import base64


def varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
        if byte < 0x80:
            return value, at


def fields(data: bytes) -> dict[int, list[bytes]]:
    """Those that have a length, by number. Numbers are passed over."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        if tag & 7 == 0:
            _, at = varint(data, at)
            continue
        assert tag & 7 == 2, f"wire type {tag & 7}"
        length, at = varint(data, at)
        found.setdefault(tag >> 3, []).append(data[at : at + length])
        at += length
    return found


def pairs(entries: list[bytes]) -> dict[str, bytes]:
    return {entry[1][0].decode(): entry.get(2, [b""])[0] for entry in map(fields, entries)}


def secret(message: bytes) -> dict:
    """A Secret in Kubernetes' envelope."""
    envelope = fields(message.removeprefix(b"k8s\0"))
    kind = fields(envelope[1][0])
    assert [kind[1][0], kind[2][0]] == [b"v1", b"Secret"]
    whole = fields(envelope[2][0])
    metadata = fields(whole[1][0])
    labels = {name: value.decode() for name, value in pairs(metadata.get(11, [])).items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": whole[3][0].decode(),
        "metadata": {"name": metadata[1][0].decode(), "labels": labels},
        "data": {name: base64.b64encode(value).decode() for name, value in pairs(whole.get(2, [])).items()},
    }
