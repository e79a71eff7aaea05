"""Mail: what a server gets of a site, and of a burst of errors, directly and by a relay of the host."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from lab import Host
from sites import Site

SINK = (Path(__file__).parent / "mail_sink.py").read_text()
PASSWORD = "grenadier 7f3:p@s/w"
#: A page that fails, and another that fails otherwise.
VIEWS = """

def fails(request, error):
    if error == "key":
        return HttpResponse({}["no such key"])
    raise ValueError("no such entry")
"""


def sink(host: Host, port: int = 2525) -> None:
    """Start the mail server."""
    host.write("/root/mail_sink.py", SINK)
    host.run(f"rm -f /root/mails; nohup python3 /root/mail_sink.py {port} /root/mails >/root/sink.log 2>&1 &")
    deadline = time.monotonic() + 300
    while not host.run(["cat", "/root/sink.log"], check=False).stdout:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def mails(host: Host) -> list[dict[str, Any]]:
    text = host.run(["cat", "/root/mails"], check=False).stdout
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def blog(module_hosts, repositories) -> Site:
    host = module_hosts(kind="live")
    sink(host)
    blog = Site(host, repositories(host))
    views, urls = (blog.repository.read(f"guestbook/{name}") for name in ("views.py", "urls.py"))
    urls = urls.replace("urlpatterns = [", 'urlpatterns = [path("fails/<error>", views.fails),')
    blog.repository.commit({"guestbook/views.py": views + VIEWS, "guestbook/urls.py": urls})
    email = {"host": "localhost", "port": 2525, "user": "blog", "password": PASSWORD, "admins": ["ops@example.org"]}
    blog.deploy(email={**email, "from": "Our blog <blog@example.org>", "server_email": "blog@web1.example.org"})
    return blog


def test_mail_is_sent_with_the_login(blog):
    blog.manage("sendtestemail ada@example.org")
    (mail,) = mails(blog.host)
    expected = {"login": f"blog {PASSWORD}", "from": "<blog@example.org>", "to": ["<ada@example.org>"]}
    assert mail == {**mail, **expected} and "From: Our blog <blog@example.org>" in mail["text"]


def test_burst_of_errors_sends_a_mail_for_each(blog):
    before = len(mails(blog.host))
    for error in ["value"] * 40 + ["key"] * 20:
        assert blog.get(f"/fails/{error}").status_code == 500
    sent = mails(blog.host)[before:]
    subjects = [" ".join(mail["text"].split("Subject: ")[1].split("\nFrom:")[0].split()) for mail in sent]
    assert len(sent) == 2, subjects
    assert "/fails/value" in subjects[0] and subjects[1].endswith("(and 39 errors that were not mailed)"), subjects
    assert {(mail["from"], *mail["to"]) for mail in sent} == {("<blog@web1.example.org>", "<ops@example.org>")}
    log = blog.host.run(f"journalctl -u {blog.unit} --no-pager | grep -c 'no such entry'").stdout
    assert int(log) >= 40  # the log has all of them


def test_password_is_in_no_file_that_others_read_and_in_no_process(blog):
    found = blog.host.run(["grep", "-rlF", PASSWORD, blog.root, "/etc", "/run/django"], check=False).stdout.split()
    assert found == [f"{blog.root}/secrets/email.password"]
    assert PASSWORD not in blog.host.run("cat /proc/[0-9]*/environ | tr '\\0' '\\n'", check=False).stdout
    assert not blog.deploy().changed


@pytest.mark.full
def test_relay_of_the_host_as_the_guide_sets_it_up(blog):
    """The commands of docs/guides/mail.md, with the sink as the server elsewhere, which has no TLS."""
    guide = (Path(__file__).parents[2] / "docs/guides/mail.md").read_text().split("## A relay on the host")[1]
    guide = re.sub("```.*?```", "", guide, flags=re.DOTALL)
    commands = "\n".join(line[4:].removeprefix("# ") for line in guide.splitlines() if line.startswith("    "))
    commands = commands.replace("[smtp.example.org]:587", "[127.0.0.1]:2525")
    blog.host.run(f"apt-get update -q\n{commands}")
    blog.host.run("postconf smtp_tls_security_level=none && systemctl restart postfix")
    blog.deploy(email={"host": "localhost", "from": "blog@example.org"})
    before = len(mails(blog.host))
    blog.manage("sendtestemail ada@example.org")
    deadline = time.monotonic() + 300
    while len(mails(blog.host)) == before:
        assert time.monotonic() < deadline, blog.host.run("mailq; journalctl -u 'postfix*' --no-pager | tail").stdout
        time.sleep(0.5)
    mail = mails(blog.host)[-1]
    assert mail == {**mail, "login": "web1 PASSWORD", "from": "<blog@example.org>", "to": ["<ada@example.org>"]}
    listening = blog.host.run("ss -Hltn 'sport = :25'").stdout
    assert "127.0.0.1:25" in listening and "0.0.0.0:25" not in listening
