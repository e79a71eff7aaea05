"""The commands that a project runs in each of its releases."""

import pytest
from django_formula.inspect import declared, release
from django_formula.inspect.declared import NOTHING
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


AFTER_FLY = (["manage.py b"], "fly.toml")


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
        ({"Procfile": "release: python manage.py sync\n"}, (["manage.py sync"], "Procfile")),
        ({"fly.toml": '[deploy]\nrelease_command = "python manage.py migrate --noinput"\n', "x.sh": SCRIPT}, ([], "")),
        ({"fly.toml": '[deploy]\nrelease_command = "manage.py a && manage.py migrate && manage.py b"'}, AFTER_FLY),
        (
            {
                "heroku.yml": "release: {image: web, command: [./bin/x.sh all]}\n",
                "bin/x.sh": "manage.py migrate\nmanage.py a",
            },
            (["manage.py a"], "heroku.yml"),
        ),
        ({"heroku.yml": "release: manage.py sync\n"}, (["manage.py sync"], "heroku.yml")),
        (
            {"render.yaml": "services: [{type: web, preDeployCommand: 'manage.py migrate\n\nmanage.py a\n'}]"},
            (["manage.py a"], "render.yaml"),
        ),
        (
            {"app.json": '{"scripts": {"dokku": {"predeploy": "manage.py a", "postdeploy": "x"}}}'},
            (["manage.py a"], "app.json"),
        ),
        ({"Procfile": "release: sh ../x.sh && /opt/x.sh\n", "x.sh": "manage.py a\n"}, ([], "")),
        ({"dev/entrypoint.sh": SCRIPT, "start.sh": SCRIPT}, ([], "")),
        ({"release.sh": "migrate() {\n  python manage.py migrate\n}\npython manage.py seed\n"}, ([], "")),
        (
            {"release.sh": "case $1 in\na) x\n;;\nesac\nmanage.py migrate\nmanage.py a\n"},
            (["manage.py a"], "release.sh"),
        ),
        (
            {
                "compose.yml": "services:\n"
                "  web: {entrypoint: /bin/sh, command: -c 'manage.py migrate && manage.py a && manage.py check'}\n",
                "docker-compose.dev.yml": "services: {web: {command: manage.py migrate && manage.py b}}\n",
            },
            (["manage.py a"], "compose.yml"),
        ),
    ],
)
def test_commands_after_migrate(tmp_path, files, expected):
    tree = write_tree(tmp_path, files)
    assert release.after_migrate(tree, declared.find(tree, [])) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"Procfile": "release: python manage.py migrate && cd app && sh x.sh\n", "x.sh": "curl x"}, []),
        ({"Procfile": "release: python manage.py migrate && node sync.js && node x\n"}, ["node"]),
        ({"Procfile": "release: python manage.py migrate | tee log\n"}, ["python manage.py migrate | tee log"]),
        ({"Procfile": "web: gunicorn shop.wsgi\n", "x.sh": SCRIPT}, []),
    ],
)
def test_what_of_a_release_is_not_understood(tmp_path, files, expected):
    tree = write_tree(tmp_path, files)
    assert release.not_understood(tree, declared.find(tree, [])) == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (
            {
                "compose.yml": "services:\n"
                "  web: {command: [sh, -c, manage.py migrate && manage.py loaddata a/*.json b /x]}\n",
                "a/2.json": '[{"model": "own.kind", "pk": 1}, {"model": "auth.group"}]',
                "a/1.json": "no JSON",
                "a/1_test.json": "",
                "a/3.json": '[{"model": "own.kind"}, {"model": "gone.kind"}]',
            },
            (["a/1.json", "a/2.json", "b"], "compose.yml"),
        ),
        (
            {"entrypoint.sh": "manage.py migrate\nmanage.py loaddata -i $FIXTURES ../x* one\n"},
            (["one"], "entrypoint.sh"),
        ),
        ({"compose.yml": "services: {web: {command: manage.py loaddata one && manage.py migrate}}\n"}, ([], "")),
        ({"compose.yml": "services: [\n"}, ([], "")),
    ],
)
def test_fixtures_that_are_loaded_after_migrate(tmp_path, files, expected):
    assert release.loaded(write_tree(tmp_path, files), ["django.contrib.auth", "own.apps.Own"], NOTHING) == expected


STARTS = """
python manage.py wait_for_db
python manage.py register_instance "$MACHINE_SIGNATURE"
if [ -n "$DJANGO_SUPERUSER_USERNAME" ]; then
    python manage.py createsuperuser --noinput || true
fi
python manage.py configure_instance -q
python manage.py load_demo_data
python manage.py createcachetable
exec python manage.py runserver
"""


@pytest.mark.parametrize(
    ("files", "known", "expected"),
    [
        (
            {"bin/docker-entrypoint.sh": STARTS},
            [],
            (
                [
                    f"manage.py {one}"
                    for one in ("register_instance", "createsuperuser --noinput", "configure_instance -q")
                ],
                "bin/docker-entrypoint.sh",
            ),
        ),
        ({"entrypoint.sh": "manage.py initdb\nmanage.py migrate\n"}, [], (["manage.py initdb"], "entrypoint.sh")),
        ({"entrypoint.sh": "manage.py migrate\nmanage.py initdb\n"}, ["manage.py initdb"], ([], "")),
        ({"dev/entrypoint.sh": STARTS, "start.sh": STARTS, "Procfile": "web: manage.py init_it\n"}, [], ([], "")),
    ],
)
def test_commands_for_a_new_site(tmp_path, files, known, expected):
    assert release.once(write_tree(tmp_path, files), known, NOTHING) == expected


def test_what_registers_a_site_is_for_no_release(tmp_path):
    script = "manage.py migrate\nmanage.py register_site\nmanage.py create_admin a\nmanage.py sync_roles\n"
    assert release.after_migrate(write_tree(tmp_path, {"entrypoint.sh": script}), NOTHING)[0] == [
        "manage.py sync_roles"
    ]
