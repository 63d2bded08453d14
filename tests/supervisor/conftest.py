from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import freeport
import pytest
from toytree import ToyGateway


@pytest.fixture
def make_gateway(tmp_path: Path) -> Iterator[Callable[..., ToyGateway]]:
    made: list[ToyGateway] = []

    def make(workers: int = 2, models: tuple[str, ...] = ("one",), **server: object) -> ToyGateway:
        made.append(ToyGateway(tmp_path, workers, models, **server))
        return made[-1]

    yield make
    for gateway in made:
        gateway.end()


@pytest.fixture
def free_port() -> int:
    return freeport.free_port()
