"""The house: lower rooms never import higher ones, and no two rooms of a layer import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent / "llmgw"
# docs/design.md, "Rooms": each layer may import what stands before it.
LAYERS = (
    ("errors", "_core", "_wire"),
    ("config", "access", "dialects", "routing", "limits"),
    ("upstream", "metrics", "log", "oplog", "webhook", "store", "ledger", "overload"),
    ("waiting", "checkup", "failpoints"),
    ("admission",),
    ("failover", "hedging", "mirror", "degraded"),
    ("gateway",),
    ("explain",),
    ("server",),
    ("worker", "upkeep", "supervisor", "mock", "bench", "serve", "cli", "simulate"),
)
CYTHON = (".pyx", ".pxd")
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[0]


def imported_rooms(path: Path) -> Iterator[str]:
    """Rooms that a module imports when it runs; what only type checkers read does not count."""
    if path.suffix in CYTHON:
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["from"], ["cimport"]) and words[1].startswith("llmgw."):
                yield words[1].split(".")[1]
        return
    tree = ast.parse(path.read_text())
    skipped = {id(child) for node in ast.walk(tree) if is_type_checking(node) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("llmgw."):
            yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.ImportFrom) and node.module == "llmgw":
            yield from (name.name for name in node.names if name.name in LEVEL)
        elif isinstance(node, ast.Import):
            yield from (name.name.split(".")[1] for name in node.names if name.name.startswith("llmgw."))


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def edges() -> set[tuple[str, str]]:
    modules = [path for path in ROOT.rglob("*.py*") if path.suffix in {".py", *CYTHON}]
    return {
        (room_of(path), room)
        for path in modules
        if room_of(path) in LEVEL
        for room in imported_rooms(path)
        if room != room_of(path)
    }


def test_the_page_of_the_design_draws_the_layers() -> None:
    page = (ROOT.parent / "docs" / "design.md").read_text()
    drawn = page.partition("## Rooms and the direction of imports\n\n")[2].partition("\n\n")[0]
    assert [tuple(line.strip().partition("   ")[0].split()) for line in drawn.splitlines()] == list(LAYERS)


def test_every_room_has_a_layer() -> None:
    rooms = {room_of(path) for path in ROOT.rglob("*.py")} - {"__init__", "__main__"}
    assert rooms == set(LEVEL)


def test_no_room_imports_a_higher_one() -> None:
    assert [edge for edge in sorted(edges()) if LEVEL[edge[0]] < LEVEL[edge[1]]] == []


def test_rooms_of_one_layer_do_not_import_each_other_in_circles() -> None:
    graph = {
        room: {to for come, to in edges() if come == room and LEVEL[to] == LEVEL[room]} for room in LEVEL
    }
    reachable = {room: set(direct) for room, direct in graph.items()}
    for _ in LEVEL:
        for room in LEVEL:
            reachable[room] |= {far for near in reachable[room] for far in reachable[near]}
    assert [room for room in LEVEL if room in reachable[room]] == []
