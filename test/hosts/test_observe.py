"""The settings of a project are run to be asked, and the project is hostile: nothing of that leaves its sandbox."""

import re

import pytest
from conftest import Hosts, Repositories, live_site
from sites import Site

pytestmark = pytest.mark.full

CANARY = "canary-5f1c"
HOSTILE = "/srv/hostile.py"
#: A setting that runs what this test writes, in the sandbox only: the live release has been started without it.
SETTINGS = f"""
import os
if os.path.exists("{HOSTILE}"):
    exec(open("{HOSTILE}").read())
PLAIN = os.environ.get("PLAIN", "north")
"""
#: Looks for the secret in what it may read, and says how much that was.
LOOKS = """
import glob
read = 0
places = ["/proc/*/environ", "/srv/django/blog/**", "/run/**", "/etc/shadow", "/var/log/**", "/tmp/**", "/root/**"]
for path in [one for place in places for one in glob.glob(place, recursive=True)]:
    if not os.path.isfile(path) or "/virtualenv" in path:
        continue
    try:
        data = open(path, "rb").read(1 << 20)
    except OSError:
        continue
    read += 1
    if b"canary-" + b"5f1c" in data or b"root:*:" in data or b"root:!:" in data:
        FOUND = path
        raise RuntimeError("found in " + path)
raise RuntimeError(f"read {read} files: nothing")
"""
ATTACKS = {
    "kills its parent": ("import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\n", "cannot be asked|failed"),
    "writes JSON to all descriptors": (
        "import json, os, contextlib\n"
        "lie = {'stage': 'done', 'error': '', 'attempts': 1, 'facts': {}, 'variables': [{'name': 'A: {b: c}',"
        " 'place': '{{ salt.cmd.run(1) }}', 'default': '\\x1b[31m', 'kind': 'text', 'feeds': {'SECRET_KEY': 'whole'},"
        " 'required': True, 'together': False}] * 10000}\n"
        "for process in (os.getppid(), os.getpid()):\n"
        "    for number in range(64):\n"
        "        with contextlib.suppress(OSError):\n"
        "            open(f'/proc/{process}/fd/{number}', 'w').write(json.dumps(lie) + '\\n')\n",
        "",
    ),
    "never ends": ("while True:\n    pass\n", "Ended"),
    "takes all memory": ("taken = []\nwhile True:\n    taken.append(bytearray(1 << 26))\n", "MemoryError|Ended"),
    "forks without end": (
        "import os\nwhile True:\n    try:\n        if not os.fork():\n            os.setsid()\n"
        "    except OSError:\n        pass\n",
        "",
    ),
    "prints without end": (
        "import os\ntext = b'x' * 65536\n"
        "for number in range(3):\n"
        "    try:\n        out = os.open(f'/proc/{os.getppid()}/fd/{number}', os.O_WRONLY)\n"
        "    except OSError:\n        continue\n"
        "    try:\n        while True:\n            os.write(out, text)\n    except OSError:\n        pass\n"
        "LARGE = 'x' * 100_000_000\n",
        "",
    ),
    "reads secrets": (LOOKS, r"read \d+ files: nothing"),
    "uses the network": (
        "import socket\nsocket.create_connection(('127.0.0.1', 80), timeout=5)\n",
        "PermissionError|Operation not permitted",
    ),
    "writes elsewhere": (
        "import os\ndone = []\n"
        "for folder in ('/tmp', '/var/tmp', '/dev/shm', '/run', '/etc', '/srv', '/srv/django/blog',"
        " '/srv/django/blog/database', '/srv/django/blog/media', '/srv/django/blog/secrets',"
        " '/srv/django/blog/current', '/var/lib/django-formula'):\n"
        "    try:\n        open(f'{folder}/left-behind', 'w').write('x')\n    except OSError:\n        continue\n",
        "",
    ),
}


@pytest.fixture(scope="module")
def blog(module_hosts: Hosts, repositories: Repositories) -> Site:
    blog = live_site(module_hosts, repositories, secrets={"PAY_TOKEN": CANARY})
    settings = (blog.repository.worktree / "website/settings.py").read_text()
    blog.repository.commit({"website/settings.py": settings + SETTINGS})
    blog.deploy()
    return blog


def ask(blog: Site, timeout: float = 300) -> str:
    done = blog.host.run(["salt-call", "django.inspect", "blog", "run=True"], check=False, timeout=timeout)
    return done.stdout + done.stderr


def processes(blog: Site) -> list[str]:
    return sorted(blog.host.run("pgrep -u blog", check=False).stdout.split())


def test_a_live_site_says_what_it_asks_for(blog):
    said = ask(blog)
    assert "PLAIN: without it 'north'; read in website/settings.py:" in said
    assert "started without network, secrets and database" in said and "databases: default: " in said
    assert "pages: /" in said and CANARY not in said and "PAY_TOKEN" not in said
    assert blog.get("/").status_code == 200


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_of_a_hostile_project_leaves_its_sandbox(blog, attack):
    code, said = ATTACKS[attack]
    host = blog.host
    before, live = processes(blog), blog.live
    files = host.run("ls -lR --time-style=full-iso /etc /srv/django/blog/database /usr/local").stdout
    host.write(HOSTILE, code)
    try:
        answer = ask(blog)
    finally:
        host.run(["rm", HOSTILE])
    assert re.search(said, answer), answer
    assert CANARY not in answer and "\x1b" not in answer and "{{" not in answer and len(answer) < 300_000
    host.run(f"for _ in $(seq 100); do [ $(pgrep -cu blog) -gt {len(before)} ] || break; sleep 0.1; done")
    assert processes(blog) == before and blog.live == live == blog.answering["release"]
    assert host.run("find / -xdev -name left-behind; find /tmp /dev/shm /run -name left-behind").stdout == ""
    assert host.run("ls -lR --time-style=full-iso /etc /srv/django/blog/database /usr/local").stdout == files
    assert "observe" not in host.run("systemctl list-units --all --no-legend 'django-blog-*'").stdout
    assert blog.get("/").status_code == 200
