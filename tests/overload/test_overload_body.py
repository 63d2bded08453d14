"""A body of known length, however its pieces are cut."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from llmgw._wire.body import Body

DATA = bytes(range(256)) * 4


def cuts(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("size", [1, 3, 255, 1023, 1024, 5000])
def test_a_body_is_its_pieces_in_order(size: int) -> None:
    body = Body(len(DATA))
    for piece in cuts(DATA, size):
        body.add(piece)
    assert (body.missing_bytes, body.take()) == (0, DATA)


def test_more_than_was_said_is_not_taken_and_changes_nothing() -> None:
    body = Body(3)
    body.add(b"ab")
    with pytest.raises(ValueError, match="longer"):
        body.add(b"cd")
    body.add(b"c")
    with pytest.raises(ValueError, match="longer"):
        body.add(b"d")
    assert body.take() == b"abc"


def test_a_body_is_taken_whole_and_once() -> None:
    body = Body(2)
    body.add(b"a")
    with pytest.raises(ValueError, match="whole"):
        body.take()
    body.add(b"b")
    assert body.take() == b"ab"
    with pytest.raises(ValueError, match="taken"):
        body.take()


def test_an_empty_body_is_whole_at_once_and_none_is_negative() -> None:
    assert Body(0).take() == b""
    with pytest.raises(ValueError, match="negative"):
        Body(-1)
