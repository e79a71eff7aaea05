"""What servers do before they import a project (django_formula_application.py)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from specimen import ROOT

FILE = ROOT / "django/files/django_formula_application.py"
SHOWS = "import os\napplication = os.environ.get('PROMETHEUS_MULTIPROC_DIR')\n"


@pytest.mark.parametrize(
    ("has_client", "environment", "instance", "expected"),
    [
        (True, {}, {"run": "RUN"}, "RUN/metrics-2b"),
        (True, {"PROMETHEUS_MULTIPROC_DIR": "/own"}, {"run": "RUN"}, "/own"),
        (False, {}, {"run": "RUN"}, "None"),
        (True, {}, {"run": "RUN/missing/\0"}, "None"),
        (True, {}, {}, "None"),
    ],
)
def test_processes_share_their_metrics(
    tmp_path: Path, has_client: bool, environment: dict[str, str], instance: dict[str, str], expected: str
) -> None:
    run, config = tmp_path / "run/0007", tmp_path / "releases/0007-3f2a9c1b77de/config"
    (run / "metrics-1a").mkdir(parents=True)
    config.mkdir(parents=True)
    shutil.copy(FILE, config)
    (config / "instance.json").write_text(json.dumps(instance).replace("RUN", str(run.parent)))
    (config / "wsgi.py").write_text(SHOWS)
    if has_client:
        (config / "prometheus_client.py").touch()
    program = "import django_formula_application; print(django_formula_application.load('wsgi'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=config,
        env={"PATH": os.environ["PATH"], "INVOCATION_ID": "2b", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected.replace("RUN", str(run))
    kept = "metrics-2b" if expected == "RUN/metrics-2b" else "metrics-1a"
    assert [folder.name for folder in run.iterdir()] == [kept]
