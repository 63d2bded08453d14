"""`python -m llmgw.bench`, the same as `llmgw bench`."""

import argparse
import sys

from llmgw.bench.cli import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="llmgw bench", description="The load generator.")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
