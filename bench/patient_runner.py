"""Run salt-run, with a runner of the formula that waits ten minutes for answers instead of seconds.

The minions of `scale` share a few cores with each other and with the master: hosts have cores of their own.
"""

import sys

sys.path.append("/srv/formula/engine")

import salt.scripts
from django_formula.fleet import deployment, minions

deployment._LOOK_FIRST = 600.0
minions.Minions.patience = 600.0
minions.Minions.ask.__kwdefaults__ |= {"look": 600.0, "every": 600.0}  # type: ignore[operator]
salt.scripts.salt_run()
