"""The commands that a project runs in each of its releases."""

import django_project_release
import pytest
from trees import write_tree

SCRIPT = """#!/bin/bash
set -e
python manage.py before_it
if [ "$1" = "gunicorn" ]; then
    python manage.py migrate || die "failed"
    python manage.py initdb --limit=group || die "failed"
    if [ "$DEMO" ]; then
        python manage.py load_demo
    else
        python manage.py load_little
    fi
    python manage.py tell "$1"
    python manage.py collectstatic --no-input
    env A=b /venv/bin/python manage.py sync_roles
fi
python manage.py after_it
exec python manage.py serve
"""


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"entrypoint.sh": SCRIPT}, (["manage.py initdb --limit=group", "manage.py sync_roles"], "entrypoint.sh")),
        (
            {"docker/entrypoint.sh": "python manage.py migrate\npython manage.py a", "docker/prod/entrypoint": SCRIPT},
            (["manage.py initdb --limit=group", "manage.py sync_roles"], "docker/prod/entrypoint"),
        ),
        (
            {
                "Procfile": "web: x\nrelease: python manage.py migrate && ./manage.py clear_cache && sh x.sh\n",
                "entrypoint.sh": SCRIPT,
            },
            (["manage.py clear_cache"], "Procfile"),
        ),
        ({"Procfile": "release: python manage.py migrate | tee log\n"}, ([], "")),
        ({"Procfile": "release: python manage.py sync && python manage.py migrate\n"}, ([], "")),
        ({"dev/entrypoint.sh": SCRIPT, "start.sh": SCRIPT}, ([], "")),
        ({"release.sh": "migrate() {\n  python manage.py migrate\n}\npython manage.py seed\n"}, ([], "")),
        (
            {"release.sh": "case $1 in\na) x\n;;\nesac\nmanage.py migrate\nmanage.py a\n"},
            (["manage.py a"], "release.sh"),
        ),
    ],
)
def test_commands_after_migrate(tmp_path, files, expected):
    assert django_project_release.after_migrate(write_tree(tmp_path, files)) == expected
