"""The watch of a host: what it finds, the messages that it sends, and that nothing waits for them."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from sites import until
from watching import NOTIFY, RECEIVER, SECRET, Watched, channel, receive, told


@pytest.fixture(scope="module")
def blog(module_hosts: Callable[..., Any], repositories: Callable[..., Any]) -> Watched:
    host = module_hosts(kind="live")
    receive(host)
    blog = Watched(host, repositories(host))
    blog.notify = {**NOTIFY, "forgejo": channel("forgejo", "forgejo", token=SECRET)}
    blog.deploy()
    return blog


def test_site_that_is_down_is_reported_once_with_its_cure(blog: Watched) -> None:
    applied = blog.apply()
    assert applied.ok and not applied.changed, applied
    blog.host.run(["systemctl", "start", "django-watch.service"])  # a look, which finds the site good
    blog.host.run(["systemctl", "stop", f"{blog.unit}.socket", f"{blog.unit}.service"])
    message, _seconds = blog.wait_for("problem", "down")
    assert message["text"].startswith("process: ") and message["site"] == "blog"
    blog.host.run(message["command"])  # the doctor's, as it is printed
    blog.wait_for("good", "down")
    assert [one["what"] for one in blog.messages if one["kind"] == "down"] == ["problem", "good"]


def test_failed_release_is_reported_within_seconds_though_a_channel_hangs(blog: Watched) -> None:
    blog.repository.commit({"guestbook/views.py": "def entries(:\n"})
    begun = time.monotonic()
    assert not blog.apply().ok
    release = time.monotonic() - begun
    message, seconds = blog.wait_for("event", "failed")
    print(f"a failed release was reported {seconds:.1f} s after its end, which took {release:.1f} s; a channel hangs")
    assert seconds <= max(10, release) and "still runs" not in message["text"] and "SyntaxError" in message["text"]
    assert message["command"].startswith("salt-call django.record blog 000")
    state = blog.host.run(["systemctl", "is-active", "django-notify@hangs.service"], check=False).stdout.strip()
    assert state in ("activating", "inactive")  # it waits, or has been given up for a minute
    limit = time.monotonic() + 300
    while not any("django-formula/blog failure 000" in one.text for one in told(blog.host).get("forgejo", [])):
        assert time.monotonic() < limit, told(blog.host)
        time.sleep(0.5)


def test_stopped_site_whose_newest_commit_has_failed_is_started_by_the_printed_command(blog: Watched) -> None:
    blog.host.run(["systemctl", "stop", f"{blog.unit}.socket", f"{blog.unit}.service"])
    assert not blog.apply().ok  # it failed before with the same inputs
    assert blog.get("/healthz").status_code == 200


def test_no_site_reads_to_whom_messages_go(blog: Watched) -> None:
    argv = ["grep", "-rlsF", SECRET, "/etc", "/var/lib", "/var/log", "/run", "/usr/local", blog.root]
    assert blog.host.run(argv, user="blog", check=False).stdout == ""
    assert SECRET not in blog.host.run("ps axww; journalctl --no-pager -u 'django-*'").stdout
    arguments = "while sleep 0.02; do cat /proc/[0-9]*/cmdline; done >/root/arguments 2>/dev/null"
    blog.host.run(["systemd-run", "--quiet", "--unit=arguments", "sh", "-c", arguments])
    assert SECRET not in str(blog.apply(test=True))
    assert blog.host.call("django.notify", "test", "good") == {"good": "sent"}
    assert SECRET not in str(blog.host.call("django.notify"))
    blog.host.call("django.page", "/srv/status")
    blog.host.run(["systemctl", "stop", "arguments"])
    shown = ["/root/arguments", "/srv/status", "/var/lib/django-formula/audit.jsonl", f"{blog.root}/deploys.jsonl"]
    assert blog.host.run(["test", "-s", "/root/arguments"])
    assert blog.host.run(["grep", "-rlsaF", SECRET, *shown], check=False).stdout == ""


def test_heartbeat_follows_each_look_whatever_it_has_found(blog: Watched) -> None:
    """Its silence is the alarm of a dead host, so that a site that is down must not look like one."""
    blog.watch = {"heartbeat": f"http://127.0.0.1:9001/beat/{SECRET}"}
    blog.apply()
    units = [f"{blog.unit}.socket", f"{blog.unit}.service"]
    blog.host.run(["systemctl", "stop", "django-watch.timer", "django-watch.path", *units])
    blog.host.run(["systemctl", "start", "django-watch.service"])
    until(lambda: blog.host.run("systemctl is-active 'django-notify@*'", check=False).stdout == "")
    blog.host.run("rm -f /srv/beats")
    blog.host.run(["systemctl", "start", "django-watch.service"])
    until(lambda: blog.host.run("cat /srv/beats || true").stdout == f"/beat/{SECRET}\n")
    blog.host.run(["systemctl", "start", "django-watch.timer", "django-watch.path", *units])


def test_look_is_cheap(blog: Watched) -> None:
    program = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
    program += "used = resource.getrusage(resource.RUSAGE_CHILDREN); print(used.ru_maxrss)"
    look = ["python3", "-I", "/usr/local/lib/django-formula/watch.pyz", "look"]
    assert int(blog.host.run(["python3", "-c", program, *look]).stdout) < 60 * 1024


def test_host_without_a_watch_has_nothing_of_it(blog: Watched) -> None:
    blog.watch = False
    blog.apply()
    found = blog.host.run(
        "ls -d /etc/systemd/system/django-watch* /var/lib/django-formula/watch /etc/django-formula/* "
        "/usr/local/lib/django-formula/watch.pyz 2>/dev/null",
        check=False,
    )
    assert found.stdout == ""
    assert blog.host.run(["id", "_django-notify"], check=False).returncode != 0


@pytest.mark.full
def test_host_without_systemd_is_watched_by_cron(hosts: Callable[..., Any], repositories: Callable[..., Any]) -> None:
    host = hosts(kind="ready", init=False)
    host.write("/srv/receiver.py", RECEIVER)
    host.run("setsid python3 /srv/receiver.py >/dev/null 2>&1 &")
    blog = Watched(host, repositories(host))
    blog.notify = {"good": channel("good")}
    blog.deploy()
    found = re.search(r"(?m)^\*/1 \* \* \* \* root (.* look) ", host.read("/etc/cron.d/django-watch"))
    assert found
    look = found[1]
    host.run(look)
    host.run(["supervisorctl", "stop", blog.unit])
    host.run(look)
    message, _seconds = blog.wait_for("problem", "down")
    assert message["text"] == f"process: {blog.unit} was stopped"
    host.run(message["command"])
    until(lambda: host.run(look) and any(one["what"] == "good" for one in blog.messages))
    assert [one["what"] for one in blog.messages if one["kind"] == "down"] == ["problem", "good"]
