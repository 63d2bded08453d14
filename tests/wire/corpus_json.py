"""Request bodies for the skimmer's tests, and a judge that reads them with orjson and json alone."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import orjson

# fmt: off
POLICY_KEYS = (
    "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n",
    "best_of", "user", "messages", "prompt", "input", "service_tier", "metadata", "background",
)
COUNT_KEYS = ("max_tokens", "max_completion_tokens", "max_output_tokens")

STRINGS = (
    '""', '"hi"', '"gpt-4o-mini"', '"a\\nb"', '"\\u0041\\ud83d\\ude00"', '"é世界😀"', '"x\\"y\\\\z\\/"',
    '"\\u0000"', '"' + "long " * 30 + '"', '"' + "мир" * 40 + '"', '"' + "m" * 256 + '"',
    '"' + "m" * 257 + '"', '"' + "é" * 512 + '"', '"' + "é" * 513 + '"', '"\\u007f"', '"\x7f"', '"\u2028"',
)
BAD_STRINGS = (
    '"\\ud800"', '"\\ud83dx"', '"\\udc00"', '"\\ud83d\\u0041"', '"\\x41"', '"\\u12g4"', '"\t"', '"open',
    "'q'",
)
NUMBERS = (
    "0", "1", "2", "16", "128", "129", "4096", "2147483647", "2147483648", "9007199254740993", "-1", "-0",
    "0.5", "10.0", "1e3", "1E-2", "18446744073709551616", "1" * 30, "1" * 308, "9" * 309, "1e307", "1e308",
    "1e999", "-1e999", "0e99999999999999999999", "0.000001e313", "1e-99999", "123456789e299",
    "123456789e300",
)
BAD_NUMBERS = (
    "01", "+1", ".5", "1.", "1e", "1e+", "-", "0x1", "1_0", "NaN", "Infinity",
)
WORDS = ("true", "false", "null")
BAD_WORDS = ("True", "nul", "tru", "", "undefined")
OTHER_KEYS = (
    "temperature", "tools", "Model", "models", "MAX_TOKENS", "", "é", "a\\nb", "top_p", "n\\u0000",
    "user_id",
)
SPACES = (" ",) * 20 + ("\n", "\t\r\n ", "\v", "\u00a0")
SEEDS = (
    b"", b" ", b"[]", b"null", b'"x"', b"{}", b" {} ", b"{},", b"{}{}", b"{} x", b"{", b"}", b'{"a"}',
    b'{"a":}', b"{,}", b'{"a":1,}', b"\xef\xbb\xbf{}", b"\xff\xfe{\x00}\x00", b"{}\x00", b"\x00{}",
    b'{"a":[1,]}', b'{"a":[,1]}', b"{a:1}", b'{"a" 1}', b'{"a"::1}', b'{"a":1 "b":2}', b'{"a":[1 2]}',
    b'{"a":[1}', b'{"a":{]}', b'{"a":1}]', b'{"model":"\xc3\x28"}', b'{"model":"\xed\xa0\x80"}',
    b'{"model":"\xc0\xaf"}', b'{"model":"\xf4\x90\x80\x80"}', b'{"model":"\xe4\xb8"}',
)
# fmt: on


def nested(depth: int, inner: str = "1") -> str:
    """`depth` arrays and objects in one another."""
    pairs = [("[", "]"), ('{"a":', "}")]
    opened = [pairs[i % 2] for i in range(depth)]
    return "".join(o for o, _ in opened) + inner + "".join(c for _, c in reversed(opened))


class Bodies:
    """An endless, repeatable run of bodies: good ones, wrong ones, and ones with broken bytes."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)

    def pick(self, options: Any) -> Any:
        return options[int(self.random.random() * len(options))]

    def body(self) -> bytes:
        chance = self.random.random()
        if chance < 0.005:
            body: bytes = self.pick(SEEDS)
        else:
            members = [self.member() for _ in range(int(self.random.random() * 6))]
            body = self.space().encode() + ("{" + ",".join(members) + "}").encode() + self.space().encode()
        return self.mutated(body) if self.random.random() < 0.3 else body

    def space(self) -> str:
        text: str = self.pick(SPACES) if self.random.random() < 0.15 else ""
        return text

    def member(self) -> str:
        name = self.pick(POLICY_KEYS) if self.random.random() < 0.75 else self.pick(OTHER_KEYS)
        value = self.fitting(name) if self.random.random() < 0.85 else self.value(3)
        if self.random.random() < 0.12 and "\\" not in name:
            name = self.escaped(name)
        return f'{self.space()}"{name}"{self.space()}:{self.space()}{value}{self.space()}'

    def escaped(self, name: str) -> str:
        form = self.pick(("\\u{:04x}", "\\u{:04X}"))
        return "".join(form.format(ord(c)) if self.random.random() < 0.3 else c for c in name)

    def fitting(self, name: str) -> str:
        """A value that the field may have, or nearly."""
        if name in ("model", "user"):
            value: str = self.pick(STRINGS)
        elif name in COUNT_KEYS or name in ("n", "best_of"):
            value = self.pick(NUMBERS[:8] if self.random.random() < 0.9 else NUMBERS)
        elif name == "stream":
            value = self.pick(WORDS)
        elif name == "stream_options":
            value = self.stream_options()
        elif name == "metadata":
            value = self.metadata()
        else:
            value = self.value(2)
        return value

    def stream_options(self) -> str:
        if self.random.random() < 0.2:
            return "null"
        names = ("include_usage", "include_usage", "include_obfuscation", "x")
        members = []
        for _ in range(int(self.random.random() * 3)):
            name = self.escaped(self.pick(names)) if self.random.random() < 0.2 else self.pick(names)
            members.append(f'{self.space()}"{name}":{self.space()}{self.pick(WORDS)}{self.space()}')
        return "{" + self.space() + ",".join(members) + "}"

    def metadata(self) -> str:
        names = [self.pick(("user_id", "user_id", "x", "user\\u005fid")) for _ in range(self.pick((1, 1, 2)))]
        return "{" + ",".join(f'"{name}":{self.value(1)}' for name in names) + "}"

    def value(self, depth: int) -> str:
        kind = self.random.random()
        if depth and kind < 0.2:
            inner = ",".join(
                f'"{self.pick(OTHER_KEYS + POLICY_KEYS)}":{self.value(depth - 1)}' for _ in range(2)
            )
            return "{" + inner + "}"
        if depth and kind < 0.4:
            return "[" + self.space() + ",".join(self.value(depth - 1) for _ in range(int(kind * 10))) + "]"
        if kind < 0.402:
            return nested(self.pick((200, 253, 254, 255, 256, 300, 1100)))
        is_bad = self.random.random() < 0.03
        if kind < 0.65:
            text: str = self.pick(BAD_STRINGS if is_bad else STRINGS)
        elif kind < 0.85:
            text = self.pick(BAD_NUMBERS if is_bad else NUMBERS)
        else:
            text = self.pick(BAD_WORDS if is_bad else WORDS)
        return text

    def mutated(self, body: bytes) -> bytes:
        at = int(self.random.random() * (len(body) + 1))
        to = min(len(body), at + 1 + int(self.random.random() * 8))
        junk: bytes = self.pick(
            (
                b"",
                b'"',
                b"\\",
                b"{",
                b"}",
                b",",
                b":",
                b"\x00",
                b"\x1f",
                b"\x80",
                b"\xc3",
                b"\xed\xa0\x80",
                b"\xef\xbb\xbf",
                b"\xe4\xb8\x96",
                b"e5",
                b"0",
                b" ",
                b"]",
                b"\\u0",
                b"\xf0\x9f\x98\x80",
                b"null",
                bytes([at & 255]),
            )
        )
        kind = int(self.random.random() * 5)
        if kind == 0:
            return body[:at] + junk + body[at:]
        if kind == 1:
            return body[:at] + junk + body[at + 1 :]
        if kind == 2:
            return body[:at] + body[at:to] + body[at:]
        return body[:at] if kind == 3 else body + junk


class Pairs(list[tuple[str, Any]]):
    """An object's members as written, doubles included."""

    def get(self, key: str) -> Any:
        return dict(self).get(key)


def judge(body: bytes) -> dict[str, Any] | None:
    """The facts that skim has to find, by orjson's reading; None: the body has to be refused."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict):
        return None
    members = json.loads(body.decode(), object_pairs_hook=Pairs, parse_int=as_written)
    names = [name for name, _ in members]
    if any(names.count(name) > 1 for name in POLICY_KEYS if name in names):
        return None
    options = members.get("stream_options")
    if isinstance(options, Pairs) and [name for name, _ in options].count("include_usage") > 1:
        return None
    if any(members.get(name) == "-0" for name in (*COUNT_KEYS, "n", "best_of")):
        return None
    metadata = members.get("metadata")
    is_named_twice = isinstance(metadata, Pairs) and [name for name, _ in metadata].count("user_id") > 1
    return facts_of(value, is_named_twice=is_named_twice) if is_servable(value) else None


def as_written(number: str) -> int | str:
    """Minus zero is 0 to orjson; as a count it is refused like every number with a sign."""
    return number if number == "-0" else int(number)


def is_servable(value: dict[str, Any]) -> bool:
    model, user = value.get("model", "m"), value.get("user")
    options = value.get("stream_options") or {}
    return (
        isinstance(model, str)
        and 0 < len(model.encode()) <= 256
        and not any(ord(c) < 0x20 or 0x7F <= ord(c) < 0xA0 for c in model)
        and (user is None or (isinstance(user, str) and len(user) <= 512))
        and value.get("stream") in (None, True, False)
        and not is_number(value.get("stream"))
        and isinstance(options, dict)
        and value.get("stream_options") not in ([], "", 0, False)
        and options.get("include_usage") in (None, True, False)
        and not is_number(options.get("include_usage"))
        and all(is_count(value.get(key), 0, 2**31 - 1) for key in COUNT_KEYS)
        and all(is_count(value.get(key), 1, 128) for key in ("n", "best_of"))
    )


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_count(value: object, least: int, most: int) -> bool:
    return value is None or (type(value) is int and least <= value <= most)


def facts_of(value: dict[str, Any], *, is_named_twice: bool = False) -> dict[str, Any]:
    counts = [value[key] for key in COUNT_KEYS[:2] if value.get(key) is not None]
    prompt, metadata = value.get("prompt"), value.get("metadata")
    user_id = metadata.get("user_id") if isinstance(metadata, dict) else None
    is_name = isinstance(user_id, str) and len(user_id) <= 512
    return {
        "prompts": max(sum(isinstance(p, str | list) for p in prompt), 1) if isinstance(prompt, list) else 1,
        "user_id": user_id if is_name else None,
        "is_user_id_odd": is_named_twice or not (user_id is None or is_name),
        "is_background": value.get("background") not in (None, False) or is_number(value.get("background")),
        "model": value.get("model"),
        "stream": bool(value.get("stream")),
        "max_tokens": max(counts, default=-1),
        "max_output_tokens": -1 if value.get("max_output_tokens") is None else value["max_output_tokens"],
        "n": max(value.get("n") or 1, value.get("best_of") or 1),
        "user": value.get("user"),
        "include_usage": bool((value.get("stream_options") or {}).get("include_usage")),
        "is_empty": not value,
    }
