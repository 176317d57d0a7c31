"""`python -m sparsegrad`."""

import sys

from sparsegrad.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
