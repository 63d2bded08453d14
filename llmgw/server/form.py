"""Request bodies that are passed on unread: streamed where their length is known, else by way of a file.

A form is looked through on the way for what decides where it goes, what it may cost and who pays: its
fields `model` and `user`. A second such field would let the provider read another one than we permitted,
so it ends the request before the provider has it whole.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from tempfile import SpooledTemporaryFile

from aiohttp import StreamReader
from aiohttp.web import RequestPayloadError

from llmgw._wire.body import Body
from llmgw.errors import BadRequest, BodyTooLarge, ClientGone

# One parameter, unquoted or plainly quoted: readers differ about which of two they take.
BOUNDARY = re.compile(
    rb"""[^;]*;(?:[^;]*;)*\s*boundary=("?)([0-9A-Za-z'()+_,./:=?-]{1,70})\1\s*(?:;.*)?""", re.IGNORECASE
)
MEMORY_BYTES = 1 << 20
PIECE_BYTES = 65536
# Of the header lines of one part, and of the field's value.
PART_HEAD_MAX = 8192
# As web frameworks have it; each part costs time.
PARTS_MAX = 1000
VALUE_MAX = {"model": 256, "user": 2048}
USER_MAX_CHARS = 512
# Wider than any parser reads it, so that nothing it takes for one of them goes by unseen.
NAMES = re.compile(
    rb"""(?<![a-z])name\s*=\s*(?:"\s*(model|user)\s*"|'?(model|user)'?\s*(?:[;\r\n]|$))""", re.IGNORECASE
)
# Spellings of a name that readers decode in different ways, and line ends that not all of them see.
IS_ODD = re.compile(
    rb"""(?<![a-z])name\*|(?<![a-z])name\s*=\s*"[^"]*[\\%]|=\?|(?<!\r)\n|\r(?!\n)""", re.IGNORECASE
)
HEAD_END = b"\r\n\r\n"


def boundary_of(content_type: bytes) -> bytes | None:
    """None where it is no form. Raises BadRequest for a form without a usable boundary."""
    if not content_type.lower().startswith(b"multipart/"):
        return None
    found = BOUNDARY.fullmatch(content_type)
    if found is None or content_type.lower().count(b"boundary") != 1:
        raise BadRequest("The form has no usable boundary.")
    return found[2]


class FormScan:
    """Fed piece by piece; knows `user`, and `model` with its place. Raises BadRequest on a second one."""

    def __init__(self, boundary: bytes) -> None:
        self.delimiter = b"--" + boundary
        self.pending = b""
        self.offset = 0  # of `pending` in the body
        self.parts = 0
        self.is_in_head = False
        self.field = ""  # whose value comes now, if it is one of VALUE_MAX
        self.model: str | None = None
        self.user: str | None = None
        self.span = (0, 0)  # of the model's name

    def feed(self, data: bytes) -> None:
        self.pending += data
        while self._advance():
            pass

    def _advance(self) -> bool:
        if self.is_in_head:
            return self._read_head()
        at = self.pending.find(self.delimiter)
        if at < 0:
            if self.field and len(self.pending) > VALUE_MAX[self.field] + len(self.delimiter):
                raise BadRequest(f"The form's field `{self.field}` is too long.", param=self.field)
            keep = len(self.pending) if self.field else len(self.delimiter) - 1
            self._drop(max(0, len(self.pending) - keep))
            return False
        if self.field:
            self._take_value(self.pending[:at].removesuffix(b"\n").removesuffix(b"\r"))
        self._drop(at + len(self.delimiter))
        self.parts += 1
        if self.parts > PARTS_MAX:
            raise BadRequest("The form has too many parts.")
        self.is_in_head = True
        return True

    def _read_head(self) -> bool:
        if self.pending.startswith(b"--"):
            self.is_in_head = False
            return True
        end = self.pending.find(HEAD_END)
        if end < 0:
            if len(self.pending) > PART_HEAD_MAX:
                raise BadRequest("A part of the form has too many headers.")
            return False
        head = self.pending[:end]
        if self.delimiter in head or IS_ODD.search(head):
            raise BadRequest("A part of the form cannot be read.")
        self._drop(end + len(HEAD_END))
        self.is_in_head = False
        named = {(found[1] or found[2]).decode().lower() for found in NAMES.finditer(head)}
        if len(named) > 1:
            raise BadRequest("A part of the form cannot be read.")
        self.field = named.pop() if named else ""
        return True

    def _take_value(self, value: bytes) -> None:
        field, self.field = self.field, ""
        if getattr(self, field) is not None:
            raise BadRequest(f"The form names a {field} twice.", param=field)
        if field == "model":
            self._take_model(value)
        else:
            self._take_user(value)

    def _take_model(self, name: bytes) -> None:
        self.span = (self.offset, self.offset + len(name))
        try:
            self.model = name.decode("ascii")
        except UnicodeDecodeError:
            raise BadRequest("The model's name is not valid.", param="model") from None
        if not self.model.isprintable() or not 0 < len(name) <= VALUE_MAX["model"]:
            raise BadRequest("The model's name is not valid.", param="model")

    def _take_user(self, name: bytes) -> None:
        try:
            self.user = name.decode()
        except UnicodeDecodeError:
            raise BadRequest("The user's name is not valid.", param="user") from None
        if len(self.user) > USER_MAX_CHARS:
            raise BadRequest("The form's field `user` is too long.", param="user")

    def _drop(self, size: int) -> None:
        self.pending = self.pending[size:]
        self.offset += size


class Upload:
    """A body on its way: what has been read of it waits in `spool`, the rest is still with the client."""

    def __init__(
        self, content: StreamReader, content_type: bytes, length: int | None, max_bytes: int
    ) -> None:
        self.content = content
        self.length = length
        self.max_bytes = max_bytes
        boundary = boundary_of(content_type)
        self.scan = FormScan(boundary) if boundary is not None else None
        self.spool = SpooledTemporaryFile(MEMORY_BYTES)  # noqa: SIM115  closed by `close`
        self.spooled_bytes = 0

    @property
    def model(self) -> str | None:
        return self.scan.model if self.scan is not None else None

    @property
    def user(self) -> str | None:
        return self.scan.user if self.scan is not None else None

    async def begin(self, *, needs_user: bool) -> None:
        """Reads until the model is known, and the user if it matters; or to the end, as for the length."""
        while self.length is None or self.is_wanting(needs_user):
            data = await self._next()
            if not data:
                self.length = self.spooled_bytes
                break
            self.spooled_bytes += len(data)
            if self.spooled_bytes > self.max_bytes:
                raise BodyTooLarge(f"The request's body is larger than {self.max_bytes} bytes.")
            self.spool.write(data)

    def is_wanting(self, needs_user: bool) -> bool:
        scan = self.scan
        return scan is not None and (scan.model is None or (needs_user and scan.user is None))

    async def _next(self) -> bytes:
        try:
            data = await self.content.readany()
        except ConnectionError:  # the client left: nobody is there to be told
            raise ClientGone("The client left before its request was whole.") from None
        except RequestPayloadError:
            raise BadRequest("The request's body is not valid.") from None
        if self.scan is not None:
            self.scan.feed(data)
        return data

    def size(self, renamed: str | None) -> int:
        """Bytes that `pieces` will give."""
        length = self.length or 0
        if renamed is None or self.scan is None:
            return length
        start, end = self.scan.span
        return length + len(renamed.encode()) - (end - start)

    async def pieces(self, renamed: str | None) -> AsyncIterator[bytes]:
        """The body, its field `model` replaced by `renamed` where that is given. Once only."""
        start, end = self.scan.span if self.scan is not None and renamed is not None else (0, 0)
        self.spool.seek(0)
        if end:
            yield self.spool.read(start) + (renamed or "").encode()
            self.spool.seek(end)
        while data := self.spool.read(PIECE_BYTES):
            yield data
        while data := await self._next():
            yield data

    def close(self) -> None:
        self.spool.close()


async def read_known(content: StreamReader, length: int, on_piece: Callable[[int], object]) -> bytes:
    """A body that says how long it is. Raises BadRequest where it is not."""
    body = Body(length)
    while data := await content.readany():
        on_piece(len(data))
        body.add(data)
    if body.missing_bytes:
        raise BadRequest("The request's body is shorter than it says.")
    return body.take()


async def read_whole(content: StreamReader, max_bytes: int, on_piece: Callable[[int], object]) -> bytes:
    """A body that does not say how long it is. Raises BodyTooLarge, and what `on_piece` raises."""
    pieces = []
    size = 0
    while data := await content.readany():
        size += len(data)
        if size > max_bytes:
            raise BodyTooLarge(f"The request's body is larger than {max_bytes} bytes.")
        on_piece(len(data))
        pieces.append(data)
    return b"".join(pieces)
