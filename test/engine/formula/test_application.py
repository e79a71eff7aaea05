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
    run = tmp_path / "run"
    (run / "metrics-1a").mkdir(parents=True)
    shutil.copy(FILE, tmp_path)
    (tmp_path / "instance.json").write_text(json.dumps(instance).replace("RUN", str(run)))
    (tmp_path / "wsgi.py").write_text(SHOWS)
    if has_client:
        (tmp_path / "prometheus_client.py").touch()
    program = "import django_formula_application; print(django_formula_application.load('wsgi'))"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "INVOCATION_ID": "2b", **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == expected.replace("RUN", str(run))
    kept = "metrics-2b" if expected == "RUN/metrics-2b" else "metrics-1a"
    assert [folder.name for folder in run.iterdir()] == [kept]
