"""What has to come of a stream: a plain model of the scanner, read whole, with orjson and json as parsers."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import orjson
from corpus_sse import BOM, Terminal

LINE_END = re.compile(rb"\r\n|\r|\n")
TEXT_KEYS = (
    "content",
    "text",
    "arguments",
    "reasoning_content",
    "refusal",
    "reasoning",
    "thinking",
    "partial_json",
    "transcript",
)


@dataclass
class Facts:
    output: bytes = b""
    is_terminal: bool = False
    error: bytes | None = None
    usage: bytes | None = None
    first_usage: bytes | None = None
    events: int = 0
    text_bytes: int = 0


@dataclass
class Block:
    """The lines up to a blank one: as they came, and without their line ends."""

    raw: list[bytes] = field(default_factory=list)
    lines: list[bytes] = field(default_factory=list)

    def values(self, name: bytes) -> list[bytes]:
        found = []
        for line in self.lines:
            before, _, value = line.partition(b":")
            if before == name:
                found.append(value[1:] if value.startswith(b" ") else value)
        return found


def model(stream: bytes, terminal: Terminal, strip_usage: bool) -> Facts:
    """What has to come of a stream that was read whole."""
    facts, block, at = Facts(), Block(), 0
    for end in LINE_END.finditer(stream):
        if at == 0 and stream.startswith(BOM):
            facts.output, at = BOM, 3
        block.raw.append(stream[at : end.end()])
        block.lines.append(stream[at : end.start()])
        at = end.end()
        if not block.lines[-1]:
            facts.output += sent(block, facts, terminal, strip_usage)
            block = Block()
        if facts.is_terminal:
            break
    return facts


def sent(block: Block, facts: Facts, terminal: Terminal, strip_usage: bool) -> bytes:
    """Notes what the block says; what of it goes on."""
    whole, datas = b"".join(block.raw), block.values(b"data")
    if not datas:
        return whole
    facts.events += 1
    data = b"\n".join(datas)
    if data == terminal:
        facts.is_terminal = True
        return whole
    members = members_of(data)
    if members is None:
        facts.text_bytes += (
            len(data) if not is_json(data) else text_of(orjson.loads(data)) * (not is_typed(terminal))
        )
        if facts.error is None and block.values(b"event")[-1:] == [b"error"]:
            facts.error = data
        kinds = {*block.values(b"event")[-1:]}
        note_end(kinds, data, facts, terminal)
        return whole
    note(members, data, block, facts, terminal)
    return stripped(block, data, members, facts) if strip_usage else whole


def is_typed(terminal: Terminal) -> bool:
    return isinstance(terminal, frozenset)


def is_json(data: bytes) -> bool:
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        return False
    return True


@dataclass
class Member:
    name: str
    value: Any
    quote: int  # where the key starts, in bytes
    start: int  # where the value starts
    end: int  # behind the value


def members_of(data: bytes) -> list[Member] | None:
    """The top level of a JSON object, read with json's own scanner; None for anything else."""
    if not is_json(data) or not isinstance(orjson.loads(data), dict):
        return None
    text = data.decode("latin-1")  # one character a byte, so offsets are bytes
    decoder, at = json.JSONDecoder(), text.index("{") + 1
    members: list[Member] = []
    while True:
        at += len(text[at:]) - len(text[at:].lstrip(" \t\r\n,"))
        if text[at] == "}":
            return members
        name, behind = decoder.raw_decode(text, at)
        start = text.index(":", behind) + 1
        start += len(text[start:]) - len(text[start:].lstrip(" \t\r\n"))
        _, end = decoder.raw_decode(text, start)
        members.append(Member(name, orjson.loads(data[start:end]), at, start, end))
        at = end


def note(members: list[Member], data: bytes, block: Block, facts: Facts, terminal: Terminal) -> None:
    value = {member.name: member.value for member in members}
    kinds = {*block.values(b"event")[-1:], str(value.get("type")).encode()}
    facts.text_bytes += text_of(value) if not is_typed(terminal) else 0
    for member in members:
        if member.name == "delta" and isinstance(member.value, str):
            facts.text_bytes += len(member.value.encode())
        elif member.name == "delta" and is_typed(terminal):
            facts.text_bytes += text_of(member.value)
    if facts.error is None and (value.get("error") is not None or b"error" in kinds):
        facts.error = data
    spans = [data[m.start : m.end] for m in members if m.name == "usage"]
    if isinstance(value.get("usage"), dict):
        facts.usage = spans[-1]
    note_end(kinds, data, facts, terminal)
    if isinstance(terminal, frozenset):
        if kinds & terminal:
            facts.usage = usage_of(members, "response", data) or facts.usage
        facts.first_usage = usage_of(members, "message", data) or facts.first_usage


def note_end(kinds: set[bytes], data: bytes, facts: Facts, terminal: Terminal) -> None:
    if isinstance(terminal, frozenset) and kinds & terminal:
        facts.is_terminal = True
        if facts.error is None and b"response.failed" in kinds & terminal:
            facts.error = data
    if facts.error is not None and terminal is not None:
        facts.is_terminal = True


def usage_of(members: list[Member], name: str, data: bytes) -> bytes | None:
    value = next((data[m.start : m.end] for m in members if m.name == name), b"{}")
    usage = [m for m in members_of(value) or [] if m.name == "usage" and isinstance(m.value, dict)]
    return value[usage[0].start : usage[0].end] if usage else None


def text_of(value: Any) -> int:
    if isinstance(value, list):
        return sum(map(text_of, value))
    if not isinstance(value, dict):
        return 0
    return sum(
        len(inner.encode()) if isinstance(inner, str) and key in TEXT_KEYS else text_of(inner)
        for key, inner in value.items()
    )


def stripped(block: Block, data: bytes, members: list[Member], facts: Facts) -> bytes:
    """The event as it would have come had nobody asked for usage."""
    whole = b"".join(block.raw)
    value = {member.name: member.value for member in members}
    if isinstance(value.get("usage"), dict) and value.get("choices") == [] and not facts.is_terminal:
        return b""
    found = [index for index, member in enumerate(members) if member.name == "usage"]
    if len(found) != 1 or members[found[0]].value is not None:
        return whole
    index = found[0]
    if index:
        start, end = members[index - 1].end, members[index].end
    else:
        start, end = members[0].quote, members[1].quote if len(members) > 1 else members[0].end
    return with_data(block, data[:start] + data[end:])


def with_data(block: Block, data: bytes) -> bytes:
    if len(block.values(b"data")) == 1:
        return b"".join(block.raw).replace(block.values(b"data")[0], data, 1)
    lines, is_written = [], False
    for raw, line in zip(block.raw, block.lines, strict=True):
        if line.partition(b":")[0] != b"data":
            lines.append(raw)
        elif not is_written:
            lines += [b"data: " + value + raw[len(line) :] for value in data.split(b"\n")]
            is_written = True
    return b"".join(lines)
