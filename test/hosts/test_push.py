"""`git push` to the host: by a real client and a real sshd, and attacks on each link of the chain of rights."""

import json
import re
import shlex
import time

import pytest
from conftest import Hosts, Repositories, full
from images import TOOLS
from lab import Host, Result
from sites import Site, version

SSH = "ssh -i /root/key -o BatchMode=yes -o StrictHostKeyChecking=accept-new"
#: The user and the work tree of who pushes.
CLONE = "/root/blog"
SOCKET = "/run/django-requests/blog.sock"


class Pushed(Site):
    """A site that a work tree on another host is pushed to."""

    client: Host

    def at(self, command: str, check: bool = True, timeout: float = 300) -> Result:
        """Run a command of a shell in the work tree of who pushes."""
        environment = {"GIT_SSH_COMMAND": SSH, "LANG": "C.UTF-8"}
        return self.client.run(f"cd {CLONE} && {command}", check=check, timeout=timeout, environment=environment)

    def commit(self, name: str, text: str) -> str:
        """Commit a file of the work tree, and return the commit."""
        self.client.write(f"{CLONE}/{name}", text)
        self.at("git add -A && git commit -qm change")
        return self.head

    @property
    def head(self) -> str:
        return self.at("git rev-parse HEAD").stdout.strip()

    @property
    def branch(self) -> str:
        """The branch as a client sees it on the host."""
        return self.at("git ls-remote live main").stdout.partition("\t")[0]

    def by_ssh(self, *words: str, options: tuple[str, ...] = ()) -> Result:
        argv = [*shlex.split(SSH), *options, "blog-push@web1", *words]
        return self.client.run(argv, check=False, timeout=120)


@pytest.fixture(scope="module")
def blog(module_hosts: Hosts, repositories: Repositories) -> Pushed:
    """A site to which nothing was pushed yet, and a client with a key and the example in a work tree."""
    client, host = module_hosts(name="laptop", packages=TOOLS), module_hosts(kind="ready", name="web1")
    client.run("ssh-keygen -q -t ed25519 -N '' -C alice@laptop -f /root/key")
    repository = repositories(client)
    blog = Pushed(host, None, revision="main", releases={"size": "1G", "keep": 3, "drain": "1s"})
    blog.client = client
    client.run(f"git clone -q {repository.path} {CLONE} && cd {CLONE} && git config user.name Alice")
    blog.at("git config user.email alice@example.org && git remote add live blog-push@web1:blog && git switch -q main")
    blog.configure(push={"keys": {"alice": client.read("/root/key.pub").strip()}})
    return blog


def test_apply_before_the_first_push_is_green(blog: Pushed) -> None:
    applied = blog.deploy()
    assert "nothing was pushed yet: git remote add live blog-push@" in str(applied.warnings)
    assert not blog.apply().changed
    assert blog.host.run(["ls", f"{blog.root}/releases"]).stdout == ""
    shown = blog.host.run(["stat", "-c", "%U:%G %a", SOCKET, "/var/lib/django-formula/push/blog/.ssh"]).stdout
    assert shown.splitlines() == ["root:blog-ask 660", "root:root 755"]


def test_push_is_live_and_its_steps_are_shown(blog: Pushed) -> None:
    began = time.monotonic()
    done = blog.at("git push live main")
    print(f"first push: {time.monotonic() - began:.1f} s\n{done.stderr}")
    assert re.search(r"remote: source\s", done.stderr) and re.search(
        r"remote: released: 0001-\w+ is active", done.stderr
    )
    assert blog.get().status_code == 200 and blog.record()["commit"] == blog.head == blog.branch
    (row, *_rest) = blog.host.call("django.requests", "blog", full=True)
    assert row["status"] == "released" and row["by"].startswith("git push (alice) (blog-push, ")
    applied = blog.deploy()
    assert not applied.changed, applied


def test_second_push_is_fast(blog: Pushed) -> None:
    blog.commit("guestbook/version.py", version("2.0")["guestbook/version.py"])
    began = time.monotonic()
    blog.at("git push live main")
    took = time.monotonic() - began
    print(f"second push: {took:.1f} s")
    assert blog.answering["version"] == "2.0" and blog.branch == blog.head


def test_broken_commit_is_rejected_with_its_cause(blog: Pushed) -> None:
    before, live = blog.branch, blog.live
    blog.at("echo 'import nothing_there' >>website/settings.py && git commit -qam broken")
    done = blog.at("git push live main", check=False)
    assert done.returncode == 1, done
    (line,) = [line for line in done.stderr.splitlines() if line.startswith(" ! [remote rejected]")]
    assert "failed: " in line and "nothing_there" in done.stderr, done.stderr
    assert blog.branch == before and blog.live == live and blog.get().status_code == 200
    blog.at("git reset -q --hard HEAD~1")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("git push live main:other", "only main is released from here; nothing was changed"),
        full("git push live :main", "nothing was changed"),
        full("git tag v1 && git push live v1", "only main is released from here; nothing was changed"),
        ("git push -f live HEAD~1:main", "to go back: git push -f -o rewind"),
        full(
            "git checkout -q --orphan lone && git commit -qm lone && git push -f live lone:main; "
            "code=$?; git checkout -qf main; exit $code",
            "git pull, or git push -f -o rewind",
        ),
        full("git push live main 'HEAD:refs/heads/$(id)'", "only main is released from here"),
        full("git push live 'HEAD:refs/heads/a;id'", "only main is released from here"),
        full("git push live HEAD:refs/requests/x", "only main is released from here"),
        full(f"git push live HEAD:refs/heads/{'x' * 200}", "only main is released from here"),
    ],
)
def test_other_pushes_are_refused(blog: Pushed, command: str, said: str) -> None:
    before, live = blog.branch, blog.live
    done = blog.at(command, check=False)
    assert done.returncode == 1 and said in done.stderr, done
    assert (blog.branch, blog.live) == (before, live)
    assert "main" in blog.at("git ls-remote live").stdout.split("\n")[0] + "main"


@pytest.mark.full
def test_rewind_takes_the_site_back(blog: Pushed) -> None:
    older = blog.at("git rev-parse HEAD~1").stdout.strip()
    blog.at("git push -f -o rewind live HEAD~1:main")
    assert blog.record()["commit"] == older == blog.branch
    blog.at("git push live main")
    assert blog.record()["commit"] == blog.head == blog.branch


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("id", ()),
        ("git-receive-pack '/srv/django/blog/push.git'; id", ()),
        ("", ("-tt",)),
        full("sh -c id", ()),
        full("git-shell", ()),
        full("git-upload-archive '/x'", ()),
        full("scp -f /etc/passwd", ()),
        full("release $(id)", ()),
        full("sftp", ("-s",)),
    ],
)
def test_key_runs_nothing_else(blog: Pushed, words: str, options: tuple[str, ...]) -> None:
    done = blog.by_ssh(*[words] * bool(words), options=options)
    assert done.returncode != 0 and "uid=" not in done.stdout, done
    assert "may push to blog and nothing else" in done.stdout + done.stderr or options, done


def test_key_forwards_nothing(blog: Pushed) -> None:
    done = blog.by_ssh("-W", "127.0.0.1:80")
    assert done.returncode == 255 and "open failed" in done.stderr, done


def test_others_cannot_connect_to_the_socket(blog: Pushed) -> None:
    program = f"import socket; socket.socket(socket.AF_UNIX).connect('{SOCKET}')"
    for user in ("blog", "blog-build", "www-data", "nobody"):
        done = blog.host.run(["setpriv", f"--reuid={user}", "--clear-groups", "python3", "-c", program], check=False)
        assert "PermissionError" in done.stderr, (user, done)


@pytest.mark.parametrize(
    "sent",
    ["b'x' * 100000", *map(full, ("b'[' * 4000", r"b'\xff\xfe\n'", "b'half a line'", 'b\'{"do": "request"}\\n\''))],
)
def test_socket_takes_what_is_hostile(blog: Pushed, sent: str) -> None:
    program = f"""
import socket, time
began = time.monotonic()
with socket.socket(socket.AF_UNIX) as s:
    s.settimeout(30)
    s.connect('{SOCKET}')
    try:
        s.sendall({sent})
    except OSError:
        pass
    print(s.recv(4096).decode(), time.monotonic() - began)
"""
    before = len(blog.host.call("django.requests", "blog", full=True))
    done = blog.host.run(
        ["setpriv", "--reuid=blog-push", "--regid=blog-ask", "--clear-groups", "python3", "-c", program], check=False
    )
    assert '"status": "refused"' in done.stdout or "ConnectionReset" in done.stderr, done
    assert len(blog.host.call("django.requests", "blog", full=True)) == before


#: What the user of the pushes writes into its repository, once an attacker has become that user.
HOSTILE = """
cd {repository}
for hook in pre-receive proc-receive update post-update reference-transaction post-receive fsmonitor; do
    printf '#!/bin/sh\\ntouch /tmp/ran-$(id -u)\\n' >hook-$hook; chmod 755 hook-$hook
    mkdir -p hooks && cp hook-$hook hooks/$hook
done
git config core.hooksPath {repository}/hooks
git config core.fsmonitor {repository}/hook-fsmonitor
git config core.alternateRefsCommand {repository}/hook-fsmonitor
git config uploadpack.packObjectsHook {repository}/hook-fsmonitor
git config core.sshCommand {repository}/hook-fsmonitor
git config receive.maxInputSize 0
git config gc.auto 1
"""


TRACE = ["strace", "-f", "-y", "--seccomp-bpf", "-s", "300", "-o", "/tmp/trace"]
TRACE += ["-e", "trace=open,openat,openat2,clone,clone3,fork,vfork,setuid,setreuid,setresuid"]


def files_of_pushes(trace: str) -> list[tuple[bool, str]]:
    """What was opened of the repository that is pushed to: whether root did, and the line of strace."""
    parents, less = {}, set()
    lines = [line.split(None, 1) for line in trace.splitlines()]
    for pid, text in lines:
        if forked := re.match(r"(?:<\.\.\. )?(?:clone3?|v?fork)\b.*= (\d+)$", text):
            parents[forked[1]] = pid
        if re.match(r"(?:<\.\.\. )?set(?:re|res)?uid\b.*= 0$", text):
            less.add(pid)

    def is_root(pid: str | None) -> bool:
        return pid is None or (pid not in less and is_root(parents.get(pid)))

    # `-y` has the path of what root opened by whatever name; in a container not that of what another user did
    is_opened = re.compile(r'(?:<\.\.\. )?open(?!.*O_PATH)(?:.*= \d+<[^>]*push\.git\b|.*"[^"]*push\.git\b.*= \d+)')
    return [(is_root(pid), text) for pid, text in lines if is_opened.match(text)]


@pytest.mark.full
def test_hostile_repository_runs_nothing_and_root_opens_no_file_of_it(blog: Pushed) -> None:
    repository = f"{blog.root}/push.git"
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    blog.host.run("apt-get -qq install strace >/dev/null", environment=quiet, timeout=300)
    blog.host.run(
        ["setpriv", "--reuid=blog-push", "--clear-groups", "sh", "-ec", HOSTILE.format(repository=repository)]
    )
    commit = blog.commit("guestbook/version.py", version("3.0")["guestbook/version.py"])
    assert blog.at("git push live main", check=False).returncode == 0 and blog.record()["commit"] == commit
    blog.at("git fetch -q live")
    blog.host.run([*TRACE, "salt-call", "--local", "django.release", "blog"], timeout=900)
    opened = files_of_pushes(blog.host.read("/tmp/trace"))
    assert {is_root for is_root, _line in opened} == {False}, [line for is_root, line in opened if is_root]
    blog.host.run("systemctl start django-blog-push-gc.service", timeout=120)
    assert blog.host.run("ls /tmp/ran-* 2>/dev/null", check=False).stdout == ""
    assert blog.get().status_code == 200


@pytest.mark.full
@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ([1_500_000_000], "unpacks to more than releases:size (1024 MB)"),  # before git has unpacked any of it
        ([1_000_000] * 1500, "unpacks to more than releases:size (1024 MB)"),
        ([550_000_000] * 2, "more than 1024 MB, which releases:size allows"),  # of one commit
    ],
)
def test_bomb_is_refused_quickly(blog: Pushed, sizes: list[int], said: str) -> None:
    parts = "; ".join(f"(echo {number}; head -c {size} /dev/zero) >zeros{number}" for number, size in enumerate(sizes))
    blog.at(f"{parts}; git add . && git commit -qm bomb", timeout=300)
    began = time.monotonic()
    done = blog.at("git push live main", check=False, timeout=300)
    took = time.monotonic() - began
    print(f"bomb of {len(sizes)} files: {took:.1f} s\n{done.stderr}")
    assert done.returncode == 1 and said in done.stderr, done
    assert int(blog.host.run(["du", "-sm", f"{blog.root}/releases"]).stdout.split()[0]) < 500
    assert "incoming" not in blog.host.run(["ls", f"{blog.root}/push.git/objects"]).stdout
    blog.at("git reset -q --hard HEAD~1 && git reflog expire --expire=now --all && git gc -q --prune=now")


@pytest.mark.full
def test_answers_to_pushers_are_true_while_programs_are_killed_and_power_is_lost(blog: Pushed) -> None:
    """Fifty pushes at once and one after another, twenty kills of what works them off, and three losses of power."""
    started = f"export GIT_SSH_COMMAND='{SSH} -o ConnectTimeout=60'; cd {CLONE}"
    pushed = []
    for number in range(50):
        pushed.append(one := blog.commit("guestbook/version.py", version(f"7.{number}")["guestbook/version.py"]))
        push = f"git push live {one}:refs/heads/main >/root/{one}.told 2>&1; echo $? >/root/{one}.code"
        blog.client.run(f"{started}; setsid sh -c '{push}' >/dev/null 2>&1 </dev/null &")
        time.sleep(1)
        if number % 5 in (1, 3):
            blog.host.run(["systemctl", "kill", "--signal=KILL", "django-blog-requests.service"], check=False)
        if number in (12, 25, 38):
            blog.host.kill()
            blog.host.start()
            blog.host.run("until ss -ltn | grep -q ':22 '; do sleep 0.1; done", timeout=300)
    began = time.monotonic()
    while blog.record()["commit"] != pushed[-1]:
        assert time.monotonic() - began < 300, blog.host.call("django.requests", "blog", full=True)
        time.sleep(0.5)
    print(f"the last commit is active {time.monotonic() - began:.0f} s after the last push")
    blog.client.run("until [ $(ls /root/*.code | wc -l) = 50 ]; do sleep 0.5; done", timeout=300)
    lines = blog.host.read(f"{blog.root}/requests/requests.jsonl").splitlines()
    ended = {one["commit"]: one["status"] for one in map(json.loads, lines) if one["commit"] in pushed}
    assert len([one for one in map(json.loads, lines) if one["commit"] in pushed]) == len(ended), "one status each"
    told = {one: blog.client.read(f"/root/{one}.told") for one in pushed}
    codes = {one: blog.client.read(f"/root/{one}.code").strip() for one in pushed}
    wrong = [
        (one, codes[one], ended.get(one), told[one])
        for one in pushed
        if (codes[one] == "0" and ended.get(one) not in ("released", "superseded"))
        or ("remote: released" in told[one] and ended.get(one) != "released")
        or ("(failed" in told[one] and ended.get(one) != "failed")
    ]
    print({status: [*ended.values()].count(status) for status in set(ended.values())}, codes.values())
    assert wrong == [] and blog.branch == pushed[-1] and ended[pushed[-1]] == "released"


@pytest.mark.full
def test_large_push_is_refused(blog: Pushed) -> None:
    blog.at("head -c 150000000 /dev/urandom >noise && git add noise && git commit -qm noise", timeout=300)
    done = blog.at("git push live main", check=False, timeout=300)
    assert done.returncode != 0 and "exceeds maximum allowed size" in done.stderr, done
    blog.at("git reset -q --hard HEAD~1 && git reflog expire --expire=now --all && git gc -q --prune=now")


def test_removed_site_leaves_nothing_of_it(blog: Pushed) -> None:
    blog.deploy(state="absent")
    left = blog.host.run(
        "ls -R /etc/systemd/system /var/lib/django-formula /run/django-requests; cat /etc/passwd /etc/group"
    )
    assert not re.findall(r".*(?:blog-push|blog-ask|blog-requests).*", left.stdout)
    assert "push.git" not in blog.host.run(["ls", blog.root], check=False).stdout
