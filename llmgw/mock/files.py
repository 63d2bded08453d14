"""The files routes: what was uploaded comes back byte for byte."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any

from llmgw.mock.answer import Answer, Refusal, json_answer
from llmgw.mock.chat import CREATED
from llmgw.mock.fault import Fault
from llmgw.mock.form import parse_form
from llmgw.mock.request import Request


class Files:
    """Uploads by id (a digest of the content), the oldest dropped beyond `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._stored: OrderedDict[str, tuple[dict[str, Any], bytes]] = OrderedDict()

    def clear(self) -> None:
        self._stored.clear()

    def upload(self, request: Request, _fault: Fault) -> Answer:
        form = parse_form(request.content_type, request.body)
        if "file" not in form or "purpose" not in form:
            raise Refusal(400, "Missing required parameter: 'file' and 'purpose'.", param="file")
        data = form["file"].data
        digest = hashlib.sha256(data).hexdigest()
        file = {
            "id": f"file-{digest[:24]}",
            "object": "file",
            "bytes": len(data),
            "created_at": CREATED,
            "filename": form["file"].filename,
            "purpose": form["purpose"].data.decode(),
            "status": "processed",
            "sha256": digest,
        }
        self._stored[str(file["id"])] = (file, data)
        while sum(len(kept) for _, kept in self._stored.values()) > self._limit_bytes:
            self._stored.popitem(last=False)
        return json_answer(file)

    def listing(self, _request: Request, _fault: Fault) -> Answer:
        data = [file for file, _ in self._stored.values()]
        return json_answer({"object": "list", "data": data, "has_more": False})

    def describe(self, request: Request, _fault: Fault) -> Answer:
        return json_answer(self._find(request)[0])

    def content(self, request: Request, _fault: Fault) -> Answer:
        return Answer(self._find(request)[1], content_type=b"application/octet-stream")

    def delete(self, request: Request, _fault: Fault) -> Answer:
        file = self._find(request)[0]
        del self._stored[file["id"]]
        return json_answer({"id": file["id"], "object": "file", "deleted": True})

    def _find(self, request: Request) -> tuple[dict[str, Any], bytes]:
        name = request.params["file"]
        if name not in self._stored:
            raise Refusal(404, f"No such File object: {name}", param="id")
        return self._stored[name]
