"""Run salt-master, and note each request of its minions: the command and the file, in the file that REQUESTS names."""

import os
import sys
from typing import Any

import salt.master
import salt.scripts

_run = salt.master.AESFuncs.run_func


def noted(self: Any, func: str, load: dict[str, Any]) -> Any:
    with open(os.environ["REQUESTS"], "a") as file:
        file.write(f"{func} {load.get('path', '')}\n")
    return _run(self, func, load)


salt.master.AESFuncs.run_func = noted
sys.argv = ["salt-master"]
salt.scripts.salt_master()
