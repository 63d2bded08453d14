"""Renders the README's table from the newest whole result file.

    python benchmarks/render.py [README.md]

The table stands between `<!-- bench:begin -->` and `<!-- bench:end -->`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
RESULTS = Path(__file__).with_name("results")
README = Path(__file__).parent.parent / "README.md"


def newest(directory: Path) -> Path | None:
    """Of the whole results (not `--quick`, all rungs) the one with the latest date inside."""
    whole = [path for path in directory.glob("*.json") if not path.stem.endswith("-partial")]
    return max(whole, key=lambda path: str(json.loads(path.read_text())["date"]), default=None)


def table(result: dict[str, Any]) -> str:
    """Markdown that also reads well on a terminal."""
    head = ["", "measure", "nginx", "llmgw", "llmgw against nginx", "promised", "at"]
    rows = [head, *(_cells(row) for row in result["rows"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def section(result: dict[str, Any], source: str) -> str:
    machine, versions = result["machine"], result["versions"]
    against = f", against nginx {versions['nginx']}" if versions["nginx"] else ""
    return (
        f"{table(result)}\n\n"
        f"Commit {result['commit']}, {result['date'][:10]}, {machine['cpu']}, {machine['cores']} cores, "
        f"Linux {machine['kernel']}, Python {versions['python']}{against}: "
        f"medians of {result['rounds']} interleaved rounds of {result['seconds']:g} s. "
        f"Every round and the method: [`{source}`]({source})."
    )


def render(text: str, inner: str) -> str:
    """`text` with what stands between the marks replaced; ValueError where they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"no {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{inner}\n{END}{after}"


def _cells(row: dict[str, Any]) -> list[str]:
    if "ratio" in row:
        compared = f"{row['ratio']:.2f} × {row.get('of', '')}".rstrip()
    elif "difference" in row:
        compared = f"{row['difference']:+.1f}"
    else:
        compared = "–"
    figures = [f"{row[name]:.1f}" if name in row else "–" for name in ("nginx", "gateway")]
    return [row["rung"], row["measure"], *figures, compared, row["promise"], row["note"]]


def main() -> int:
    readme = Path(sys.argv[1]) if len(sys.argv) > 1 else README
    path = newest(RESULTS)
    if path is None:
        print("no whole result in benchmarks/results", file=sys.stderr)
        return 1
    try:
        inner = section(json.loads(path.read_text()), f"benchmarks/results/{path.name}")
        readme.write_text(render(readme.read_text(), inner))
    except (OSError, ValueError) as wrong:
        print(f"{readme}: {wrong}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
