"""Static files in a store elsewhere: an S3-compatible one and a static host, before a release is activated."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from images import pins
from lab import Host
from sites import Site, version

STORE = Path(__file__).with_name("s3_store.py")
KEY, SECRET = "static-key", "grenadier-static-secret"
PUSHED = "blog has its static files pushed"
STYLE = "guestbook/static/guestbook/style.css"


@pytest.fixture(scope="module")
def pushing(blog: Site) -> Iterator[Site]:
    """The site, which pushes its static files to a store on its own host."""
    blog.host.write("/opt/s3_store.py", STORE.read_bytes())
    start_store(blog.host)
    push = {"kind": "s3", "bucket": "static", "endpoint": "http://127.0.0.1:9000", "style": "path"}
    blog.configure(
        static={
            "url": f"http://{blog.host.address}:9000/static/blog/",
            "push": {**push, "key": KEY, "secret": SECRET},
        },
        releases={"keep": 2},
    )
    yield blog


def start_store(host: Host) -> None:
    program = f"python3 /opt/s3_store.py 9000 static {KEY} {SECRET} /var/log/store"
    host.run(["systemd-run", "--unit=store", "--collect", *shlex.split(program)])
    host.run("until (: </dev/tcp/127.0.0.1/9000) 2>/dev/null; do sleep 0.1; done", timeout=300)


def sent(site: Site) -> list[str]:
    """The requests that the store has got since the last call, as `uid METHOD path`."""
    lines = site.host.run("cat /var/log/store; : >/var/log/store", check=False).stdout.splitlines()
    return [line for line in lines if not re.match(r"\S+ GET /static/.", line)]  # visitors


def style_of(site: Site) -> str:
    """The URL of the stylesheet in the page."""
    found = re.search(r'href="([^"]+\.css)"', site.get("/").text)
    assert found
    return found[1]


@pytest.mark.full
def test_new_files_are_in_the_store_before_pages_name_them(pushing: Site) -> None:
    site, host = pushing, pushing.host
    former = style_of(site)
    count = len(json.loads(host.read(f"{site.root}/current/static/staticfiles.json"))["paths"])

    # The first release pushes all of them, as a user of no site.
    applied = site.deploy()
    assert applied[PUSHED].changes == {
        "pushed": f"{count} of {count} files to s3://static/blog/ at http://127.0.0.1:9000"
    }
    uid = host.run(["id", "-u", "_django-push"]).stdout.strip()
    requests_of_first = sent(site)
    assert len(requests_of_first) == count + 1 and {line.split()[0] for line in requests_of_first} == {uid}
    style = style_of(site)
    assert style.startswith(f"http://{host.address}:9000/static/blog/")
    answer = requests.get(style, timeout=60)
    assert answer.status_code == 200 and answer.text == site.get(former).text
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert answer.headers["Content-Type"] == "text/css; charset=utf-8"

    # The site's own proxy serves them too, for pages that were made before.
    assert site.get(former).status_code == 200

    # Nothing to do is nothing asked; a dry run and a plan ask nothing either.
    assert not site.apply().changed and sent(site) == []
    site.repository.append(STYLE, "\n.pushed { color: teal }\n")
    site.repository.commit(version("5.0"))
    assert PUSHED in site.apply(test=True).changed
    plan = host.call("django.plan", "blog")
    assert plan["pushed"].startswith(f"1 of {count} files to s3://static/blog/")
    assert sent(site) == []

    # One changed file is one file sent, while the old pages find theirs.
    with site.lossless():
        applied = site.deploy()
    assert applied[PUSHED].changes["pushed"].startswith(f"1 of {count} files")
    assert [line.split()[1] for line in sent(site)] == ["GET", "PUT"]
    assert style_of(site) != style and requests.get(style_of(site), timeout=60).status_code == 200
    assert requests.get(style, timeout=60).status_code == 200

    # The secret is in a file of root alone.
    assert host.run(["cat", f"{site.root}/secrets/.push_secret"], check=False, user="blog").returncode != 0
    assert host.run(["grep", "-rl", SECRET, site.root]).stdout.split() == [f"{site.root}/secrets/.push_secret"]


@pytest.mark.full
def test_files_of_deleted_releases_are_deleted(pushing: Site) -> None:
    site = pushing
    names = []
    for number in range(3):
        site.repository.append(STYLE, f"\n.n{number} {{ color: teal }}\n")
        site.deploy()
        names.append(style_of(site))
    sent(site)
    assert [requests.get(name, timeout=60).status_code for name in names] == [404, 200, 200]


@pytest.mark.full
def test_failed_release_leaves_the_store_as_pages_need_it(pushing: Site) -> None:
    site, style = pushing, style_of(pushing)
    first = (site.repository.worktree / "guestbook/views.py").read_text()
    site.repository.append(STYLE, "\n.broken { color: red }\n")
    site.repository.append("guestbook/views.py", '\ndef health(request):\n    raise RuntimeError("out of ink")\n')
    sent(site)
    applied = site.apply()
    assert "out of ink" in applied.failed["blog has its instance"]
    broken = [line.split()[2] for line in sent(site) if " PUT " in line]
    assert len(broken) == 1 and style_of(site) == style
    assert requests.get(style, timeout=60).status_code == 200
    site.repository.commit({"guestbook/views.py": first})
    site.repository.append(STYLE, "\n.mended { color: green }\n")
    site.deploy()
    assert f"DELETE {broken[0]}" in " ".join(sent(site))
    assert requests.get(style, timeout=60).status_code == 200


@pytest.mark.full
def test_store_that_is_down_fails_the_release_before_anything_else(pushing: Site) -> None:
    site, live = pushing, pushing.live
    site.repository.append(STYLE, "\n.down { color: red }\n")
    site.host.run(["systemctl", "stop", "store"])
    failure = site.apply().failed[PUSHED]
    assert re.search(r"push: pushing static files at .*|127\.0\.0\.1:9000: .*Connection refused", failure)
    assert "static:push:endpoint" in failure and f"{live} still runs" in failure and SECRET not in failure
    assert site.live == live and site.get("/").status_code == 200
    start_store(site.host)
    applied = site.deploy()
    sent_now = applied[PUSHED].changes["pushed"]
    assert not sent_now.startswith("0 of")


@pytest.mark.full
def test_storage_without_hashes_is_refused(pushing: Site) -> None:
    site, live = pushing, pushing.live
    plain = {"default": {"BACKEND": "django.core.files.storage.FileSystemStorage"}}
    plain["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"}
    failure = site.apply(settings={"STORAGES": plain}).failed[PUSHED]
    assert "StaticFilesStorage gives them none" in failure and "ManifestStaticFilesStorage" in failure
    assert site.live == live
    site.configure(settings=None)


@pytest.fixture
def static_host(hosts: Any) -> Host:
    """A host with sshd and rsync, and a user whose key is on the site's host."""
    host: Host = hosts(kind="bare", name="static1")
    host.run("apt-get -qq update && apt-get -qq install --no-install-recommends rsync >/dev/null", timeout=300)
    host.run("useradd --create-home --shell /bin/bash deploy && install -d -o deploy -g deploy /srv/static")
    host.run("systemctl start ssh")
    return host


@pytest.mark.full
def test_static_host_gets_files_by_rsync(pushing: Site, static_host: Host) -> None:
    site, host = pushing, pushing.host
    host.run("rm -f /root/key && ssh-keygen -q -t ed25519 -N '' -f /root/key")
    key, public = host.read("/root/key"), host.read("/root/key.pub")
    static_host.write("/home/deploy/.ssh/authorized_keys", public, owner="deploy", group="deploy", mode="0600")
    known = static_host.read("/etc/ssh/ssh_host_ed25519_key.pub").split()[:2]
    push = {"kind": "rsync", "host": static_host.address, "path": "/srv/static/blog", "ssh_key": key}
    line = " ".join([static_host.address, *known])
    stranger = f"{static_host.address} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"
    failure = site.apply(static={"push": {**push, "known_hosts": [stranger]}}).failed[PUSHED]
    assert "correct django:sites:blog:static:push:known_hosts" in failure
    site.repository.append(STYLE, "\n.rsync { color: teal }\n")
    applied = site.deploy(static={"push": {**push, "known_hosts": [line]}})
    count = len(json.loads(host.read(f"{site.root}/current/static/staticfiles.json"))["paths"])
    at = f"rsync://deploy@{static_host.address}/srv/static/blog"
    assert applied[PUSHED].changes == {"pushed": f"{count} of {count} files to {at}"}
    names = []
    for number in range(3):
        site.repository.append(STYLE, f"\n.n{number} {{ color: teal }}\n")
        assert site.deploy()[PUSHED].changes["pushed"].startswith(f"1 of {count} files")
        names.append(style_of(site).removeprefix("/static/"))
    present = static_host.run("cd /srv/static/blog && find -type f -printf '%P %m\n'").stdout.splitlines()
    assert [f"{name} 644" in present for name in names] == [False, True, True]
    assert [f"{name}.gz 644" in present for name in names] == [False, True, True]
    assert "staticfiles.json 644" not in present
    assert host.run(["ls", "/run/django/blog.push"], check=False).returncode != 0
    assert host.run(["pgrep", "-u", "_django-push"], check=False).stdout == ""


@pytest.fixture
def media_store(blog: Site) -> Host:
    """The host of the site with moto on port 9001, which knows all of S3 that boto3 uses."""
    host = blog.host
    host.run(["python3", "-m", "venv", "/opt/moto"])
    host.run(["/opt/moto/bin/pip", "install", "--quiet", *pins("s3")])
    host.run(["systemd-run", "--unit=moto", "--collect", "/opt/moto/bin/moto_server", "-H", "127.0.0.1", "-p", "9001"])
    host.run("until (: </dev/tcp/127.0.0.1/9001) 2>/dev/null; do sleep 0.2; done", timeout=60)
    create = "import boto3; boto3.client('s3', endpoint_url='http://127.0.0.1:9001').create_bucket(Bucket='media')"
    login = {"AWS_ACCESS_KEY_ID": "media-key", "AWS_SECRET_ACCESS_KEY": "grenadier-media", "AWS_REGION": "us-east-1"}
    host.run(["/opt/moto/bin/python", "-c", create], environment=login)
    return host


@pytest.mark.full
def test_uploads_are_in_a_store_by_settings_of_the_project(blog: Site, media_store: Host) -> None:
    """As docs/guides/static.md has it: django-storages, its options as settings, the login as variables."""
    options = {"bucket_name": "media", "endpoint_url": "http://127.0.0.1:9001", "region_name": "us-east-1"}
    storages = {"default": {"BACKEND": "storages.backends.s3.S3Storage", "OPTIONS": options}}
    storages["staticfiles"] = {"BACKEND": "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"}
    applied = blog.deploy(
        static=None,
        python_packages=["django-storages[s3]"],
        settings={"STORAGES": storages},
        environment={"AWS_ACCESS_KEY_ID": "media-key"},
        secrets={"AWS_SECRET_ACCESS_KEY": "grenadier-media"},
    )
    assert not applied.warnings
    save = "from django.core.files.base import ContentFile as C; "
    save += "from django.core.files.storage import default_storage as s; "
    save += "n = s.save('a.txt', C(b'uploaded')); print(s.open(n).read().decode(), s.url(n))"
    printed = str(blog.manage(f'shell -c "{save}"')).splitlines()[-1]
    content, _blank, url = printed.partition(" ")
    assert content == "uploaded"
    fetch = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode(), end='')"
    assert media_store.run(["python3", "-c", fetch, url]).stdout == "uploaded"
    assert media_store.run(["find", f"{blog.root}/media", "-type", "f"]).stdout == ""
    found = media_store.run(["grep", "-rl", "grenadier-media", blog.root]).stdout.split()
    assert {path.rpartition("/")[2] for path in found} <= {"AWS_SECRET_ACCESS_KEY", "environment"}
