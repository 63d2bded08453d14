"""Percentiles are those of the values, and CPU time that of the process tree."""

import asyncio
import math
import random
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmgw.bench import proctree
from llmgw.bench.stats import Samples, name_of
from llmgw.bench.timer import Timer

BURN = "import time\nend=time.process_time()+{s}\nwhile time.process_time()<end: pass\n"


def samples(values) -> Samples:
    made = Samples()
    for value in values:
        made.add(value)
    return made


def test_quantiles_of_one_to_a_thousand_are_the_ranks_themselves():
    values = [float(n) for n in range(1, 1001)]
    random.Random(1).shuffle(values)
    shuffled = samples(values)
    assert [shuffled.quantile(q) for q in (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)] == [1, 500, 900, 990, 999, 1000]
    assert shuffled.mean() == 500.5


def test_quantiles_of_an_exponential_distribution_are_those_of_theory():
    draw = random.Random(2).expovariate
    drawn = samples(draw(1.0) for _ in range(200_000))
    for q in (0.5, 0.9, 0.99):
        assert drawn.quantile(q) == pytest.approx(-math.log(1 - q), rel=0.03)


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 1))
def test_a_quantile_is_the_least_value_that_covers_its_share(values, q):
    found = samples(values).quantile(q)
    assert found in values
    assert sum(value <= found for value in values) >= q * len(values)
    assert sum(value < found for value in values) < max(1, q * len(values))


def test_later_values_are_counted_too():
    growing = samples([1.0])
    assert growing.quantile(0.5) == 1.0
    growing.add(0.5)
    assert growing.quantile(0.5) == 0.5


def test_nothing_measured_is_no_number():
    assert math.isnan(samples([]).quantile(0.5))
    assert samples([]).summary_us() == {"count": 0}


def test_a_summary_is_in_microseconds():
    summary = samples([0.001, 0.003]).summary_us()
    above = dict.fromkeys(("p90", "p99", "p99.9", "max"), 3000.0)
    assert summary == {"count": 2, "mean": 2000.0, "p50": 1000.0, **above}
    assert [name_of(q) for q in (0.5, 0.999)] == ["p50", "p99.9"]


def test_a_trees_cpu_time_holds_that_of_children_living_and_dead():
    child = f"import subprocess,sys\nsubprocess.run([sys.executable,'-c',{BURN.format(s=0.2)!r}])\n"
    code = child + BURN.format(s=0.2) + "print('ready',flush=True)\n" + "import time;time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"ready\n"
            used = proctree.usage(process.pid)
        finally:
            process.kill()
    assert 0.38 <= used.cpu_s <= 2.0  # two starts of Python come to it
    assert used.rss_bytes > 1_000_000
    assert used.processes == 1


def test_a_tree_holds_its_living_descendants():
    code = (
        "import subprocess,sys\np=subprocess.Popen(['sleep','60'])\n"
        "print('ready',flush=True)\nsys.stdin.read()\np.kill()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        assert len(proctree.tree(process.pid)) == 2
        process.stdin.close()


def test_a_process_that_is_not_there_is_an_error():
    with pytest.raises(ProcessLookupError):
        proctree.usage(2**22 + 1)


async def test_the_timer_fires_near_its_moment_and_not_before():
    fired = asyncio.Event()
    timer = Timer(fired.set)
    due_s = time.perf_counter() + 0.0203
    timer.arm(due_s)
    await asyncio.wait_for(fired.wait(), 5)
    assert time.perf_counter() >= due_s
    fired.clear()
    timer.arm(due_s)  # the past
    await asyncio.wait_for(fired.wait(), 5)
    timer.close()
