"""`python -m llmgw.mock`, the same as `llmgw mock`."""

import argparse
import sys

from llmgw.mock.cli import add_arguments, run

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="llmgw mock", description="The mock provider.")
    add_arguments(parser)
    sys.exit(run(parser.parse_args()))
