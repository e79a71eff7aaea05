"""Run a command on the host and print, as JSON, what it took: CPU of it and all its children, and wall, in seconds.

python3 measure.py COMMAND...
"""

import json
import resource
import subprocess
import sys
import time

began = time.monotonic()
done = subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
wall = time.monotonic() - began
used = resource.getrusage(resource.RUSAGE_CHILDREN)
took = {"cpu": used.ru_utime + used.ru_stime, "wall": wall}
json.dump({"returncode": done.returncode, "stdout": done.stdout, "stderr": done.stderr, "took": took}, sys.stdout)
