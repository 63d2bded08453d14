"""`python -m llmgw`, the same as `llmgw`."""

import sys

from llmgw.cli import main

sys.exit(main())
