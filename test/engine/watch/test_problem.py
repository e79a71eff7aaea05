"""Problems of a site: what its row of `django.status` becomes, with the command for each."""

import pytest
from django_formula.watch import problem

GOOD = {
    "site": "blog",
    "damage": "",
    "release": "0042-3f2a9c1b77de",
    "running": True,
    "failed": "",
    "schema": "fits",
    "workers": "mail takes tasks, feed takes tasks (2 running: blog.send)",
    "schedules": "clear ok 3 h ago",
    "stores": "queue 1M of 64M",
    "certificate": "acme, 60 of 90 days left",
    "restore_drill": "2026-03-01T03:00:00Z, 3.2 s: good",
    "managed": True,
    "entrance": "git push, webhook",
}
APPLY = "salt-call state.apply django"
#: What differs from a good row → kind, text, command.
CASES = {
    "stopped": ({"running": False}, ("down", "0042-3f2a9c1b77de is not running", APPLY)),
    "torn": ({"damage": "release.json is missing", "running": False}, ("down", "release.json is missing", APPLY)),
    "unreadable": (
        {"damage": "site.json is damaged", "running": None, "release": ""},
        ("down", "site.json is damaged", "salt-call django.status blog"),
    ),
    "no release": ({"release": "", "running": False}, ("down", "no release is active", APPLY)),
    "not reached": (
        {"unreached": "nginx does not listen on port 80"},
        ("down", "visitors do not reach it: nginx does not listen on port 80", APPLY),
    ),
    "interpreter": (
        {"interpreter": "python3 is 3.13"},
        ("degraded", "python3 is 3.13: state.apply makes a new release", APPLY),
    ),
    "failed": (
        {"failed": "0043-abcdefabcdef: static, 0044-abcdefabcdee: migration, source 3 h ago"},
        (
            "failed",
            "failed since the active release: 0043-abcdefabcdef: static, 0044-abcdefabcdee: migration, source 3 h ago",
            "salt-call django.record blog 0044-abcdefabcdee",
        ),
    ),
    "failed without a release": (
        {"failed": "source 3 h ago"},
        ("failed", "failed since the active release: source 3 h ago", "salt-call django.releases blog"),
    ),
    "refuses pushes": (
        {"entrance": "django-blog-requests.socket does not listen"},
        (
            "degraded",
            "pushes and webhooks are refused: django-blog-requests.socket does not listen",
            "systemctl restart django-blog-requests.socket",
        ),
    ),
    "worker stopped": (
        {"workers": "mail does not run, feed takes tasks"},
        ("worker", "worker mail does not run", "salt-call django.restart blog worker=mail"),
    ),
    "worker fails": (
        {"workers": "mail takes tasks, feed fails (3 times)"},
        ("worker", "worker feed fails (3 times)", "salt-call django.logs blog worker=feed"),
    ),
    "canary": (
        {"canary": "0042-3f2a9c1b77de gets 10 % of the visitors; its program does not run"},
        (
            "degraded",
            "canary: 0042-3f2a9c1b77de gets 10 % of the visitors; its program does not run",
            "salt-call django.canary blog",
        ),
    ),
    "schedule": (
        {"schedules": "clear ok 3 h ago; bills failed (exit 1) 2 d ago; old interrupted 1 d ago"},
        (
            "schedule",
            "schedules: bills failed (exit 1) 2 d ago; old interrupted 1 d ago",
            "salt-call django.schedules blog",
        ),
    ),
    "cron": ({"cron": "does not run"}, ("schedule", "cron does not run", APPLY)),
    "queue": ({"stores": "queue does not answer"}, ("queue", "stores: queue does not answer", APPLY)),
    "cache": (
        {"stores": "queue 1M of 64M; cache does not answer"},
        ("degraded", "stores: cache does not answer", APPLY),
    ),
    "missing migrations": (
        {"schema": "missing in the database: 1 migration"},
        ("degraded", "missing in the database: 1 migration", "salt-call django.migrate blog"),
    ),
    "newer migrations": (
        {"schema": "database has 1 migration more (blog.0002: breaking)"},
        ("degraded", "database has 1 migration more (blog.0002: breaking)", "salt-call django.releases blog"),
    ),
    "expired": (
        {"certificate": "acme, 0 of 90 days left; WARNING: blog.example.org has expired"},
        (
            "certificate",
            "certificate: acme, 0 of 90 days left; WARNING: blog.example.org has expired",
            "salt-call django.renew blog force=True",
        ),
    ),
    "expired file": (
        {"certificate": "files, 0 of 90 days left; WARNING: blog.example.org has expired"},
        ("certificate", "certificate: files, 0 of 90 days left; WARNING: blog.example.org has expired", APPLY),
    ),
    "drill": (
        {"restore_drill": "2026-03-01T03:00:00Z, 3.2 s: failed: damaged"},
        (
            "drill",
            "restore drill: 2026-03-01T03:00:00Z, 3.2 s: failed: damaged",
            "salt-call django.restore_drill blog",
        ),
    ),
    "drill of the archive": (
        {"points": "since 2026-03-01T03:00:00Z, backup 2026-03-01T03:00:00Z; drill fails since 2026-03-01: damaged"},
        (
            "drill",
            "points in time: drill fails since 2026-03-01: damaged",
            "salt-call django.restore_drill blog points=True",
        ),
    ),
    "not in the pillar": (
        {"managed": False},
        ("unmanaged", "this minion's pillar does not have it", "salt-call pillar.keys django:sites"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_each_problem_has_a_kind_and_a_command(name):
    differs, expected = CASES[name]
    assert [one[:3] for one in problem.problems({**GOOD, **differs})] == [expected]


def test_good_row_has_no_problem():
    assert problem.problems(GOOD) == []
    assert problem.problems({**GOOD, "release": "", "running": True, "managed": None}) != []
