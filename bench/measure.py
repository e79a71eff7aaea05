"""Run a command on the host and print, as JSON, what it took, in seconds.

cpu: user and system time of the command and all its children; host: that of everything on the host meanwhile, what
systemd runs for the command included; wall.

python3 measure.py COMMAND...
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path


def host_cpu() -> float:
    """CPU seconds of this container since it was started."""
    old = Path("/sys/fs/cgroup/cpuacct/cpuacct.usage")
    if old.exists():
        return int(old.read_text()) / 1e9
    return int(Path("/sys/fs/cgroup/cpu.stat").read_text().split()[1]) / 1e6


before, began = host_cpu(), time.monotonic()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
wall, host = time.monotonic() - began, host_cpu() - before
used = resource.getrusage(resource.RUSAGE_CHILDREN)
took = {"cpu": used.ru_utime + used.ru_stime, "host": host, "wall": wall}
json.dump({"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr, "took": took}, sys.stdout)
