"""Hosts as the page gets them: a small one with all that it shows, and as many sites as one likes."""

from typing import Any

from django_formula.host import clock

NOW = 1_800_000_000.0


def deployment(ago: float, result: str = "released", **more: Any) -> dict[str, Any]:
    usual = {"release": "0007-3f2a9c1b77de", "step": "", "error": "", "seconds": 9.4, "sent": 11, "lost": 0}
    return {"time": clock.timestamp(NOW - ago), "result": result, "by": "django.release by ada", **usual, **more}


def site(name: str = "blog", **more: Any) -> dict[str, Any]:
    usual = {
        "site": name,
        "release": "0007-3f2a9c1b77de",
        "running": True,
        "since": "2027-01-15T07:00:00Z",
        "maintenance": "",
        "ms": 12,
        "waiting": 0,
        "requests": 1204,
        "errors": 0,
        "p95": 0.042,
        "certificate": "acme, 61 of 90 days left",
        "backup": "2027-01-15T02:00:00Z",
        "domain": f"{name}.example.org",
        "path": "/",
        "https": True,
        "schedule": "daily",
        "deployments": [
            deployment(3600 * turn, seconds=8 + 5 * ((turn * turn + len(name)) % 6)) for turn in range(14, 0, -1)
        ],
        "subject": "Explain the guestbook",
        "author": "Ada",
    }
    return {**usual, **more}


def problem(site: str = "blog", kind: str = "down", **more: Any) -> dict[str, Any]:
    usual = {"text": "0007-3f2a9c1b77de is not running", "command": "salt-call state.apply django", "detail": ""}
    return {"site": site, "kind": kind, "since": NOW - 300, **usual, **more}


def host(name: str = "web1", **more: Any) -> dict[str, Any]:
    usual = {
        "version": 1,
        "host": name,
        "time": NOW - 6,
        "load": 0.42,
        "cpus": 2,
        "memory": [4_000_000_000, 1_900_000_000],
        "disks": [{"path": "/", "size": 80_000_000_000, "free": 38_000_000_000}],
        "problems": [],
        "sites": [site()],
    }
    return {**usual, **more}


def whole() -> list[dict[str, Any]]:
    """Two hosts, one of them silent: each state of a site, and each result of a deployment."""
    failed = deployment(
        600,
        "failed",
        release="0009-b131096afa4a",
        step="static",
        seconds=2.4,
        sent=0,
        error="starting Django: RuntimeError: no licence key (website/wsgi.py:8)",
    )
    sites = [
        site(),
        site("shop", deployments=[deployment(9000, lost=2), deployment(8000, "rolled back"), failed], ms=48),
        site("intra", running=False, ms=None, https=False, certificate="", backup="", schedule=""),
        site("docs", maintenance="since 2027-01-15T07:50:00Z: back at 14:00", ms=None, backup=""),
        site("new", release="", since="", subject="", author="", running=False, ms=None, deployments=[], backup=""),
        site("press", certificate="files, 3 of 365 days left; WARNING: press.example.org should have been renewed"),
    ]
    problems = [
        problem("intra", text="0007-3f2a9c1b77de is not running"),
        problem("new", text="no release is active"),
        problem(
            "shop",
            "failed",
            text="failed since the active release: 0009-b131096afa4a: static",
            command="salt-call django.record shop 0009-b131096afa4a",
            since=NOW - 600,
            detail=failed["error"],
        ),
        problem("press", "certificate", text=f"certificate: {sites[5]['certificate']}"),
        problem("", "disk", text="8 % of / is free (6.1 GiB)", command="du -xh --max-depth=2 /"),
    ]
    silent = host("web2", time=NOW - 5400, silent="it does not answer")
    return [host(sites=sites, problems=problems), silent]


def many(sites: int = 50, deployments: int = 20) -> list[dict[str, Any]]:
    """Three hosts with many sites, each with many deployments; every fifth site has a problem."""
    results = ("released", "released", "failed", "released", "rolled back")
    hosts = [host(f"web{number}", sites=[]) for number in (1, 2, 3)]
    for number in range(sites):
        done = [
            deployment(
                3600 * (deployments - turn) + 7 * number,
                results[(number + turn) % 5],
                release=f"{turn + 1:04d}-{number * 7919 + turn:012x}",
                seconds=2 + (number * 31 + turn * 17) % 90,
                error="starting Django: RuntimeError: no licence key (website/wsgi.py:8)" if turn % 5 == 2 else "",
            )
            for turn in range(deployments)
        ]
        own = site(f"customer-{number}", deployments=done, subject=f"Paginate the archive, {number} a page and a feed")
        hosts[number % 3]["sites"].append(own)
        if number % 5 == 0:
            hosts[number % 3]["problems"].append(problem(own["site"], ("down", "backup", "failed")[number % 3]))
    return hosts
