"""`python -m minivae` is `minivae`."""

import sys

from minivae.app.cli import main

if __name__ == "__main__":
    sys.exit(main())
