"""`python -m eqprop.cli`."""

import sys

from eqprop.cli.app import main

sys.exit(main())
