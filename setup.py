"""Compiles the extension modules; everything else stands in pyproject.toml.

Environment switches (each a build of its own, never mixed in one tree):
  LLMGW_DEBUG=1     bounds checks, C asserts, no optimisation
  LLMGW_SANITIZE=1  the debug build with address and undefined-behaviour sanitizers
  LLMGW_ANNOTATE=1  writes the HTML that shows what Cython made of each line
"""

import os
from collections.abc import Iterable
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

SANITIZE = os.environ.get("LLMGW_SANITIZE") == "1"
DEBUG = SANITIZE or os.environ.get("LLMGW_DEBUG") == "1"

FLAGS = ["-Wall", "-Wno-unused-function", "-fvisibility=hidden"]
FLAGS += ["-O0", "-g", "-UNDEBUG"] if DEBUG else ["-O3", "-g1"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"] if SANITIZE else []


COMMON = {
    "language_level": "3",
    "auto_pickle": False,
    "autotestdict": False,
    "freethreading_compatible": False,
}
# In the way of every request; Python that a .pxd beside it gives types, and that runs as it stands, too.
TYPED = [path.with_suffix(".py") for path in Path("llmgw").rglob("*.pxd") if path.with_suffix(".py").exists()]


def extensions(sources: Iterable[Path], **directives: bool) -> list[Extension]:
    found = [
        Extension(
            ".".join(source.with_suffix("").parts),
            [str(source)],
            extra_compile_args=FLAGS + SANITIZERS,
            extra_link_args=SANITIZERS,
        )
        for source in sorted(sources)
    ]
    return cythonize(
        found,
        nthreads=os.cpu_count() or 1,
        annotate=os.environ.get("LLMGW_ANNOTATE") == "1",
        compiler_directives={**COMMON, **directives},
    )


setup(
    ext_modules=[
        *extensions(
            Path("llmgw").glob("_*/*.pyx"), boundscheck=DEBUG, wraparound=False, initializedcheck=DEBUG
        ),
        *extensions(TYPED, nonecheck=True),
    ],
)
