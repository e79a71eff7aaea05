"""`python -m django_formula_laptop`."""

import sys

from django_formula_laptop.program import main

sys.exit(main())
