"""Keep the engine's modules importable while a function runs."""

import os
import sys


def keep_folder() -> None:
    """Leave the folder of the engine on Python's path.

    Salt takes it off again once it has loaded a module, unless the folder was there when Salt was started: in the first
    apply on a minion, which syncs the modules, an import in a function would fail. It takes one entry off, so while a
    module is loaded the folder needs two.
    """
    folder = os.path.dirname(os.path.abspath(__file__))
    if sys.path.count(folder) < 2:
        sys.path.append(folder)
