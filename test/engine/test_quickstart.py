"""What of quickstart can be tried without a machine of its own; the rest is in test/hosts."""

import errno
import importlib.util
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest
import yaml
from authority import serving
from django_formula_laptop import program
from trees import write_tree

QUICKSTART = Path(__file__).parents[2] / "quickstart"


@pytest.fixture
def quickstart(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("QUICKSTART_BEGAN", "0")
    spec = importlib.util.spec_from_file_location("quickstart", Path(__file__).parents[2] / "quickstart.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "quickstart", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("[INFO    ] blog: npm ci\n", "blog: npm ci"),
        ("[INFO    ] npm ci takes 15 s so far: added 3 packages\n", "npm ci takes 15 s so far: added 3 packages"),
        ("[INFO    ] migrating the database takes 30 s so far\n", "migrating the database takes 30 s so far"),
        ("[INFO    ] other: npm ci\n", ""),
        ("[DEBUG   ] npm ci takes 15 s so far\n", ""),
        ("[INFO    ] Completed state [blog] at time 12:00:00.1 duration_in_ms=5\n", ""),
    ],
)
def test_progress_is_what_the_engine_logs(quickstart, capsys, line, told):
    quickstart.Progress(["blog", "shop"]).see(line)
    assert capsys.readouterr().out.partition(" s  ")[2].strip() == told


def test_a_site_by_https_is_asked_by_https(quickstart, tmp_path):
    with serving("blog.example.org", tmp_path) as server:
        config = {"domains": ["blog.example.org"], "path": "/shop", "proxy": {"listen": [80]}}
        config["tls"] = {"kind": "self_signed", "listen": [server.server_port]}
        page = quickstart.ask(config)
    host = f"blog.example.org:{server.server_port}"
    assert (page.url, page.status) == (f"https://{host}/shop/", 200)
    assert server.requests == [("/shop/", host)] and server.names == ["blog.example.org"]
    with pytest.raises(quickstart.Refusal, match="does not answer"):
        quickstart.ask(config)


def test_silence_is_ended_by_a_line_that_names_the_running_step(quickstart, monkeypatch, capsys):
    monkeypatch.setattr(quickstart, "HEARTBEAT", quickstart.Heartbeat())
    monkeypatch.setattr(quickstart.Heartbeat, "EVERY", 0.1)
    printed, deadline = "", time.monotonic() + 30
    quickstart.say("blog: npm ci")
    with quickstart.HEARTBEAT.beating():
        while printed.count("\n") < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
            printed += capsys.readouterr().out
    capsys.readouterr()
    lines = [line.partition(" s  ")[2] for line in printed.splitlines()]
    assert lines[0] == "blog: npm ci" and len(lines) >= 3
    assert all(re.fullmatch(r"blog: npm ci takes \d+ s so far", line) for line in lines[1:])
    time.sleep(0.2)
    assert capsys.readouterr().out == ""


def test_steps_at_the_same_time_are_counted_once(quickstart, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(quickstart, "STATE", tmp_path)
    monkeypatch.setattr(quickstart, "BEGAN", time.time() - 30)
    (tmp_path / "steps").write_text("100.0\t10.0\tinstalling uv\n101.0\t12.0\tinstalling git\n113.0\t5.0\tSalt\n")
    quickstart.tell_seconds(list(quickstart.steps([])))
    printed = dict(reversed(line.split(None, 1)) for line in capsys.readouterr().out.splitlines()[2:])
    assert printed == {
        "installing uv": "10.0",
        "installing git": "12.0",
        "Salt": "5.0",
        "of these ran at the same time": "-9.0",
        "everything else": "12.0",
        "together": "30.0",
    }


def test_pillar_has_what_inspection_finds(quickstart, tmp_path, capsys):
    files = {
        "manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'blog.settings')",
        "blog/wsgi.py": "from django.core.wsgi import get_wsgi_application\napplication = get_wsgi_application()",
        "blog/settings.py": "INSTALLED_APPS = ['compressor']\nCOMPRESS_OFFLINE = True\n"
        "SECRET_KEY = os.environ['KEY']\nREGION = os.environ['REGION']\nSALT = os.environ['OWN_SALT']\n",
        "package.json": '{"scripts": {"build": "vite build"}}',
        "requirements.txt": "django\n",
    }
    options = quickstart.Options(repository=str(write_tree(tmp_path, files)), domains=["blog.example.org"], site="blog")
    options.found = quickstart.inspect(options)
    assert capsys.readouterr().out.partition(" s  ")[2] == (
        "found in the project: packages, build, commands, environment, secrets\n"
    )
    assert yaml.safe_load(quickstart.pillar_of(options))["django"]["sites"]["blog"] == {
        "folder": str(tmp_path),
        "domains": ["blog.example.org"],
        "packages": ["npm"],
        "build": ["npm install", "npm run build"],
        "commands": {"after_static": ["manage.py compress"]},
        "environment": {"KEY": {"from": "secret_key"}},
        "secrets": {"OWN_SALT": {"generate": 50}},
    }
    (tmp_path / "manage.py").unlink()
    (tmp_path / "blog/settings.py").unlink()
    options.found = {"build": ["make"]}
    assert quickstart.inspect(options) == {"build": ["make"]}
    assert capsys.readouterr().out.partition(" s  ")[2] == (
        "the project is not inspected: no manage.py found in the source\n"
    )


def test_login_of_a_repository_is_not_printed(quickstart, monkeypatch, capsys):
    url = "https://ann:hunter2@example.org/shop.git"

    def refuse(_given):
        quickstart.say(f"inspecting {url}")
        raise quickstart.Refusal(f"this machine serves shop from {url} already")

    monkeypatch.setattr(quickstart, "serve", refuse)
    monkeypatch.setattr(sys, "argv", ["quickstart", "serve"])
    assert quickstart.main() == 1
    printed = capsys.readouterr()
    assert "hunter2" not in printed.out + printed.err
    assert printed.out.endswith("@example.org/shop.git\n") and "@example.org/shop.git already" in printed.err


KEY = f"ssh-ed25519 {'A' * 68}"


def given(**arguments):
    return Namespace(**{"repository": None, "revision": None, "domain": None, "push": None, **arguments})


@pytest.fixture
def pushable(quickstart, monkeypatch, tmp_path):
    """A machine with systemd where quickstart has its files in a folder."""
    for name, path in (("STATE", tmp_path), ("SITES", tmp_path / "sites"), ("PILLAR", tmp_path / "django.sls")):
        monkeypatch.setattr(quickstart, name, path)
    monkeypatch.setattr(quickstart, "SYSTEMD", tmp_path)
    monkeypatch.setattr(quickstart, "listener", lambda _port: None)
    return quickstart


@pytest.mark.parametrize(
    "folder", ["blog", "My Blog", "2-my.blog", "a-very-long-name-of-a-project", "42", "x" * 19 + "-y"]
)
def test_laptop_knows_the_name_of_its_site(pushable, folder):
    target = program.place(Path("/nowhere", folder))
    assert pushable.site_name(target) == program.site_name(target)


def site_of(quickstart, options):
    return yaml.safe_load(quickstart.pillar_of(options))["django"]["sites"][options.site]


def test_site_is_pushed_once_its_first_release_is_active(pushable, tmp_path):
    folder = str(write_tree(tmp_path / "blog", {"manage.py": ""}))
    options = pushable.choose(
        pushable.Options(), given(repository=folder, domain=["b.example.org"], push=[f"ada={KEY}"])
    )
    options.found = {"packages": ["npm"]}
    assert site_of(pushable, options) == {"folder": folder, "domains": ["b.example.org"], "packages": ["npm"]}
    (tmp_path / "sites/blog/current").mkdir(parents=True)
    pushed = {"push": {"keys": {"ada": KEY}}, "domains": ["b.example.org"], "packages": ["npm"]}
    assert site_of(pushable, options) == pushed
    pushable.keep_pillar(options, is_asked=True)
    again = pushable.choose(pushable.Options.read(), given(repository=folder))
    again.found = options.found
    assert site_of(pushable, again) == pushed
    second = pushable.choose(pushable.Options.read(), given(push=[f"eve={KEY} eve@laptop"]))
    assert site_of(pushable, second)["push"]["keys"] == {"ada": KEY, "eve": f"{KEY} eve@laptop"}


@pytest.mark.parametrize(
    ("push", "says"),
    [
        ("ada", "ada has no public SSH key"),
        (f"={KEY}", "is no name of a key: up to 31"),
        (f"Ada={KEY}", "Ada is no name of a key"),
        ("ada=ssh-ed25519 A\ncommand=id", "has no public SSH key: the line of a .pub file"),
    ],
)
def test_key_that_the_pillar_does_not_take_is_refused_first(pushable, tmp_path, push, says):
    with pytest.raises(pushable.Refusal, match=says):
        pushable.choose(pushable.Options(), given(repository=str(tmp_path), push=[push]))
    assert not (tmp_path / "django.sls").exists()


def test_push_needs_a_project_and_systemd(pushable, monkeypatch, tmp_path):
    with pytest.raises(pushable.Refusal, match="--push goes with --repository"):
        pushable.choose(pushable.Options(), given(push=[f"ada={KEY}"]))
    monkeypatch.setattr(pushable, "SYSTEMD", tmp_path / "gone")
    with pytest.raises(pushable.Refusal, match="needs systemd"):
        pushable.choose(pushable.Options(), given(repository=str(tmp_path), push=[f"ada={KEY}"]))


# A machine without one of the two families of addresses


class Without:
    """The sockets of a machine without one family: its kernel does not have it, or it has no address of it."""

    def __init__(self, family, is_in_kernel):
        self.family, self.is_in_kernel = family, is_in_kernel

    def __call__(self, family, kind=socket.SOCK_STREAM):
        if family == self.family and not self.is_in_kernel:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        probe = MagicMock()
        probe.__enter__.return_value = probe
        if family == self.family:
            probe.connect.side_effect = OSError(errno.ENETUNREACH, "Network is unreachable")
        probe.getsockname.return_value = ("2001:db8::7" if family == socket.AF_INET6 else "192.0.2.7", 9)
        return probe


@pytest.mark.parametrize("is_in_kernel", [True, False])
def test_machine_with_ipv6_alone_has_an_address(quickstart, monkeypatch, is_in_kernel):
    monkeypatch.setattr(quickstart.socket, "socket", Without(socket.AF_INET, is_in_kernel))
    assert quickstart.address() == "2001:db8::7"
    assert "2001:db8::7" not in quickstart.own_names()  # which is no domain


def test_domain_with_addresses_that_the_kernel_does_not_know_is_noted(quickstart, monkeypatch):
    monkeypatch.setattr(quickstart.socket, "socket", Without(socket.AF_INET6, False))
    addresses = [(socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 80, 0, 0))]
    monkeypatch.setattr(quickstart.socket, "getaddrinfo", lambda *_: addresses)
    assert [*quickstart.missing_names(["blog.example.org"])] == [
        "blog.example.org points to 2001:db8::1: unless that leads here, point it to this machine, 192.0.2.7"
    ]


def test_machine_may_have_the_longest_name_of_linux(quickstart, monkeypatch):
    """Python refuses to look for one of 64 characters: `label too long`."""
    monkeypatch.setattr(quickstart.socket, "gethostname", lambda: "x" * 64)
    assert quickstart.own_names()[-1] == "localhost"


# A pillar that a failed release completes


@pytest.fixture
def deployed(quickstart, monkeypatch, tmp_path):
    """Options of a repository whose applies fail one after another, each as its attempt says."""
    site = tmp_path / "sites/blog"
    site.mkdir(parents=True)
    for name, path in (("STATE", tmp_path), ("SITES", tmp_path / "sites"), ("PILLAR", tmp_path / "django.sls")):
        monkeypatch.setattr(quickstart, name, path)
    options = quickstart.Options(repository="https://git.example.org/blog.git", domains=["a.example.org"], site="blog")
    quickstart.keep_pillar(options, is_asked=True)

    def run(*outcomes):
        left = list(outcomes)

        def apply(_options, *_arguments):
            outcome = left.pop(0)
            if outcome is None:
                return []
            if outcome != "refused":
                with (site / "deploys.jsonl").open("a") as file:
                    file.write('{"torn\n' + json.dumps({"result": "failed", "options": outcome}) + "\n")
            raise quickstart.Refusal("blog has its source: build: no gcc")

        monkeypatch.setattr(quickstart, "apply", apply)
        return quickstart.apply_completed(options)

    options.run, options.read = run, lambda: yaml.safe_load(quickstart.PILLAR.read_text())["django"]["sites"]["blog"]
    return options


def test_options_of_failed_releases_complete_the_pillar(quickstart, deployed, capsys):
    deployed.found = {"environment": {"KEY": {"from": "secret_key"}}, "packages": ["npm"]}
    quickstart.keep_pillar(deployed, is_asked=True)
    states, is_completed = deployed.run(
        {"packages": ["npm", "gcc"], "domains": ["evil.example.org"]},
        {"environment": {"URL": {"from": "database_url"}}, "database": {"engine": "postgres"}},
        {"health:path": "/about", "commands:after_static": ["manage.py compress"]},
        None,
    )
    assert (states, is_completed) == ([], True)
    assert deployed.read() == {
        "repository": "https://git.example.org/blog.git",
        "domains": ["a.example.org"],
        "environment": {"KEY": {"from": "secret_key"}, "URL": {"from": "database_url"}},
        "packages": ["npm", "gcc"],
        "database": {"engine": "postgres"},
        "health": {"path": "/about"},
        "commands": {"after_static": ["manage.py compress"]},
    }
    said = [line.partition(" s  ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said[:2] == [
        "the release failed: blog has its source: build: no gcc",
        "added to the pillar: packages: [npm, gcc]; applying again",
    ]
    assert len(said) == 6 and quickstart.Options.read().learned == deployed.learned


@pytest.mark.parametrize(
    ("outcomes", "count"),
    [
        ([{}], 0),
        ([{"repository": "https://evil.example.org", "sandbox": {"NoNewPrivileges": False}}], 0),
        ([{"packages": ["gcc"]}, {"packages": ["gcc"]}], 1),
        ([{"health:path": "/a"}, {"health:path": "/b"}, {"health:path": "/a"}], 2),
        ([{"packages": [f"p{number}"]} for number in range(20)], 6),
    ],
)
def test_completion_ends_where_nothing_is_new(quickstart, deployed, capsys, outcomes, count):
    with pytest.raises(quickstart.Refusal, match="no gcc"):
        deployed.run(*outcomes)
    assert capsys.readouterr().out.count("added to the pillar") == count


def test_an_addition_that_the_pillar_does_not_take_is_taken_back(quickstart, deployed):
    with pytest.raises(quickstart.Refusal):
        deployed.run({"packages": ["gcc"]}, {"packages": ["gcc", "no such"]}, "refused")
    assert deployed.read()["packages"] == ["gcc"]


def test_a_pillar_that_was_edited_is_not_completed(quickstart, deployed):
    edited = quickstart.PILLAR.read_text() + "# mine\n"
    quickstart.PILLAR.write_text(edited)
    with pytest.raises(quickstart.Refusal):
        deployed.run({"packages": ["gcc"]})
    assert quickstart.PILLAR.read_text() == edited


def test_files_of_quickstart_are_on_disk_before_they_have_their_names(quickstart, monkeypatch, tmp_path):
    synced = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_ino))
    quickstart.write(tmp_path / "django.sls", "x\n")
    assert synced == [(tmp_path / "django.sls").stat().st_ino]


def test_port_of_a_pillar_that_was_edited_is_not_looked_for(quickstart, deployed, monkeypatch, capsys):
    """Its proxy may be Apache, which has the port of the site."""
    monkeypatch.setattr(quickstart, "listener", lambda port: "apache2" if port == 80 else None)
    assert quickstart.choose(deployed, given()).port == 8080
    assert "apache2 listens on port 80" in capsys.readouterr().out
    quickstart.PILLAR.write_text(quickstart.PILLAR.read_text() + "      proxy: {kind: apache}\n")
    assert quickstart.choose(deployed, given()).port == 80 and capsys.readouterr().out == ""


# The first half, in bash


# Where messages go


@pytest.fixture
def asked(quickstart, deployed, monkeypatch):
    """Answer at a terminal; return whether the pillar has changed, how often it was asked, and the channels."""

    def answer(*answers, terminal=True, pasted=False):
        left, waited = list(answers), []
        lines = {"isatty": lambda _self: terminal, "readline": lambda _self: f"{left.pop(0)}\n"}
        monkeypatch.setattr(quickstart.sys, "stdin", type("In", (), lines)())
        monkeypatch.setattr(
            quickstart, "has_input", lambda seconds: pasted if not seconds else waited.append(seconds) or bool(left)
        )
        changed = quickstart.ask_for_messages(deployed)
        return changed, len(waited), yaml.safe_load(quickstart.PILLAR.read_text())["django"].get("notify")

    return answer


@pytest.mark.parametrize(
    ("place", "channel"),
    [
        ("ops@example.org", {"mail": ["ops@example.org"]}),
        ("https://hooks.slack.com/services/T/B/x", {"format": "slack"}),
        ("https://discord.com/api/webhooks/1/x", {"format": "discord"}),
        ("https://ntfy.sh/example", {"format": "ntfy"}),
        ("https://chat.example.org/hooks.slack.com", {"format": "json"}),
    ],
)
def test_place_of_messages_is_asked_once_and_is_in_the_pillar(quickstart, deployed, asked, place, channel):
    expected = channel if "mail" in channel else {"url": place, **channel}
    assert asked("nowhere in particular", place) == (True, 2, {"messages": expected})
    assert deployed.messages == place and quickstart.Options.read().messages == place
    assert asked() == (False, 0, {"messages": expected})


def test_nowhere_is_an_answer_that_is_kept(quickstart, asked):
    assert asked("") == (False, 1, None) and asked() == (False, 0, None)
    assert quickstart.Options.read().messages == ""


def test_nothing_is_asked_without_a_terminal_or_of_a_pillar_that_was_edited(quickstart, deployed, asked):
    assert asked(terminal=False) == (False, 0, None) and deployed.messages is None
    quickstart.PILLAR.write_text(quickstart.PILLAR.read_text() + "# mine\n")
    assert asked() == (False, 0, None)


def test_lines_that_were_pasted_with_the_command_are_left_to_the_shell(deployed, asked):
    assert asked("sudo ./test/run", pasted=True) == (False, 0, None) and deployed.messages is None


def test_question_without_an_answer_is_asked_by_the_next_run(deployed, asked):
    assert asked() == (False, 1, None) and deployed.messages is None
    assert asked("ops@example.org")[0]


def in_bash(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Run a script with quickstart's functions, and its state in a folder."""
    own = f"source {QUICKSTART}; state={folder}; log=$state/log; : >$log; QUICKSTART_BEGAN=$EPOCHREALTIME\n"
    return subprocess.run(["bash", "-c", own + script], capture_output=True, text=True, check=False, timeout=30)


@pytest.mark.parametrize(
    ("program", "words", "expected"),
    [
        ("nginx", ["nginx: master process /usr/sbin/nginx -g daemon on;"], True),
        ("nginx", ["/usr/sbin/nginx"], True),
        ("nginx", ["tail", "-f", "/var/log/nginx/error.log"], False),
        ("nginx", ["/usr/bin/nginx-exporter"], False),
        ("supervisord", ["/usr/bin/python3", "/usr/bin/supervisord", "-c", "/etc/supervisor/supervisord.conf"], True),
        ("supervisord", ["/usr/bin/python3", "/opt/watch.py", "/usr/bin/supervisord"], False),
        ("nginx", [], False),
    ],
)
def test_process_that_only_names_a_daemon_is_not_ended(tmp_path, program, words, expected):
    """As the engine looks at them (`host.daemons`): the number in a stale file may be of another process by now."""
    (tmp_path / "7").mkdir()
    (tmp_path / "7/cmdline").write_bytes(b"".join(word.encode() + b"\0" for word in words))
    function = re.search(r"^is_process_of\(\).*?^}", QUICKSTART.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    text = function[0].replace("/proc/", f"{tmp_path}/")
    assert (in_bash(f"{text}\nset -u; is_process_of {program} 7", tmp_path).returncode == 0) is expected
    assert in_bash(f"{text}\nset -u; is_process_of {program} 8", tmp_path).returncode == 1


@pytest.mark.parametrize("killed", [False, True])
def test_packages_of_a_killed_run_are_known_to_the_next_and_what_others_install_is_not(tmp_path, killed):
    stubs = f"dpkg-query() {{ sed 's/^/installed /' {tmp_path}/there; }}\n"
    stubs += "put_back() { :; }\nnote_what_is_here() { :; }\n"
    (tmp_path / "there").write_text("bash\n")
    end = "kill -9 $$" if killed else "exit 7"
    run = f"{stubs}claim() {{ echo nginx >>{tmp_path}/there; {end}; }}; serve"
    assert in_bash(run, tmp_path).returncode == (-9 if killed else 7)
    if not killed:
        (tmp_path / "there").write_text("bash\nhtop\nnginx\n")
    assert in_bash(f"{stubs}start_log", tmp_path).returncode == 0
    assert (tmp_path / "packages").read_text() == "nginx\n"


@pytest.mark.parametrize(
    ("databases", "clusters", "stays"),
    [
        ("postgres", "17 main", False),
        ("postgres", "15 main\n17 main", True),  # what is in the other one is not known
        ("postgres\nof_others", "17 main", True),
        ("psql: error: could not connect", "17 main", True),
        ("", "17 main", True),
    ],
)
def test_postgresql_stays_while_it_has_databases(tmp_path, databases, clusters, stays):
    """To purge its packages deletes them; only those that quickstart has installed are a question at all."""
    script = f"runuser() {{ echo {shlex.quote(databases)}; }}\npg_lsclusters() {{ echo {shlex.quote(clusters)}; }}\n"
    script += "postgresql_in_use"
    (tmp_path / "packages").write_text("git\n")
    assert in_bash(script, tmp_path).stdout == ""
    (tmp_path / "packages").write_text("git\nlibpq5\npostgresql-17\npostgresql-common\n")
    done = in_bash(script, tmp_path)
    assert done.stdout == ("postgresql-17\npostgresql-common\n" if stays else "")
    assert ("PostgreSQL has databases, or does not answer, and stays" in done.stderr) == stays


PURGING = """
dpkg-query() { printf 'config-files nginx\\ninstalled git\\n'; }
apt-get() {
    echo "apt-get ${@: -2}"
    [[ " $* " != *" locales "* ]] || rm -r "$etc/default" "$etc/locale.conf"
    [[ " $* " != *" damaged "* ]]
}
note_what_is_here
touch "$etc/own"
"""


@pytest.mark.parametrize("damaged", [False, True])
def test_what_was_in_etc_is_there_after_a_purge(tmp_path, damaged):
    """That of packages which were removed once, and what belongs to no package, such as the locale of the machine."""
    etc = write_tree(tmp_path / "etc", {"locale.conf": "LANG=de\n", "default/shop": "1", "passwd": "root\n"})
    (etc / "default/locale").symlink_to("../locale.conf")
    (etc / "locale.conf").chmod(0o640)
    script = f"etc={etc}; text=purge\n{PURGING}purge_packages nginx locales{' damaged' if damaged else ''}"
    done = in_bash(script, tmp_path)
    assert done.returncode == damaged, done.stderr
    assert (etc / "default/locale").readlink() == Path("../locale.conf")
    assert (etc / "locale.conf").read_text() == "LANG=de\n" and (etc / "locale.conf").stat().st_mode & 0o777 == 0o640
    assert (etc / "default/shop").read_text() == "1"
    assert ran(tmp_path) == ["apt-get remove nginx", "apt-get damaged locales" if damaged else "apt-get purge locales"]
    assert not (tmp_path / "etc.tar").exists()


def test_list_of_etc_that_was_cut_is_made_anew(tmp_path):
    """Else a purge deletes what it does not have."""
    etc = write_tree(tmp_path / "etc", {"locale.conf": "LANG=de\n"})
    cut = "list_etc() { printf '.\\0'; exit 9; }\n"
    assert in_bash(f"etc={etc}; text=purge\n{cut}{PURGING}", tmp_path).returncode == 9
    assert in_bash(f"etc={etc}; text=purge\n{PURGING}purge_packages locales", tmp_path).returncode == 0
    assert (etc / "locale.conf").read_text() == "LANG=de\n"


def test_what_says_that_something_is_whole_is_written_after_it(tmp_path):
    """A loss of power leaves files that are empty, of which others say that they are there."""
    etc = write_tree(tmp_path / "etc", {"locale.conf": "LANG=de\n"})
    (tmp_path / "uv/bin").mkdir(parents=True)
    (tmp_path / "uv/bin/uv").write_text(f"#!/bin/sh\nmkdir -p {tmp_path}/salt/bin\n")
    (tmp_path / "uv/bin/uv").chmod(0o755)
    script = f"etc={etc} salt={tmp_path}/salt uv={tmp_path}/uv; text=purge\n"
    script += "use_indexes_of_pip() { index_options=(); }\n"
    script += (
        f'sync() {{ echo "${{@: -1}}" $(cd {tmp_path}; ls etc.before etc.tar salt/.complete etc/default 2>&-); }}\n'
    )
    done = in_bash(f"{script}{PURGING}purge_packages locales; make_salt", tmp_path)
    places = [line.replace(str(tmp_path), "") for line in done.stdout.splitlines()]
    assert places == ["", " etc.before etc.tar", "/salt etc.before"] and (tmp_path / "salt/.complete").exists()


def test_purge_that_deletes_nothing_else_writes_nothing(tmp_path):
    etc = write_tree(tmp_path / "etc", {"locale.conf": "LANG=de\n"})
    changed = (etc / "locale.conf").stat().st_ctime_ns
    assert in_bash(f"etc={etc}; text=purge\n{PURGING}purge_packages git", tmp_path).returncode == 0
    assert (etc / "locale.conf").stat().st_ctime_ns == changed


def ran(folder: Path) -> list[str]:
    return [line for line in (folder / "log").read_text().splitlines() if line.startswith("apt-get")]


def test_what_a_killed_purge_has_deleted_comes_back_with_the_next_run(tmp_path):
    etc = write_tree(tmp_path / "etc", {"locale.conf": "LANG=de\n"})
    script = f"etc={etc}; text=purge\n{PURGING}put_back() {{ exit 9; }}; purge_packages locales"
    assert in_bash(script, tmp_path).returncode == 9 and not (etc / "locale.conf").exists()
    assert in_bash(f"etc={etc}; start_log", tmp_path).returncode == 0
    assert (etc / "locale.conf").read_text() == "LANG=de\n" and (etc / "own").exists()


def test_no_user_can_hold_a_lock_of_quickstart(tmp_path):
    """uv makes its lock with mode 0666, whatever the umask is; a lock that can be read can be held."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/uv").write_text(
        f"#!/bin/sh\nmkdir -p {tmp_path}/salt/bin\n: >{tmp_path}/salt/.lock\nchmod 666 {tmp_path}/salt/.lock\n"
        f"stat --format=%a {tmp_path}/salt >>{tmp_path}/modes\n"
    )
    (tmp_path / "bin/uv").chmod(0o755)
    (tmp_path / "lock").write_text("")
    (tmp_path / "lock").chmod(0o644)
    script = f"salt={tmp_path}/salt uv={tmp_path} lock={tmp_path}/lock\nuse_indexes_of_pip() {{ index_options=(); }}\n"
    done = in_bash(f"{script}umask 022; take_lock; make_salt", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "modes").read_text().split() == ["700", "700"]
    assert (tmp_path / "salt").stat().st_mode & 0o777 == 0o755 and not (tmp_path / "salt/.lock").exists()
    assert (tmp_path / "lock").stat().st_mode & 0o777 == 0o600
    (tmp_path / "salt/.lock").write_text("of an earlier version")
    in_bash(f"{script}installed_salt() {{ pinned_salt; }}; install_salt", tmp_path)
    assert not (tmp_path / "salt/.lock").exists()


def test_salt_call_names_its_cure_once_python_was_upgraded(tmp_path):
    script = f"home={tmp_path} salt={tmp_path}/salt configuration={tmp_path}/etc formula={tmp_path}/formula\n"
    done = in_bash(f"{script}put() {{ cat >$1; chmod $2 $1; }}; command() {{ :; }}; configure_salt", tmp_path)
    assert done.returncode == 0, done.stderr
    for folder in ("bin", "lib/python3.11"):
        (tmp_path / "salt" / folder).mkdir(parents=True)
    (tmp_path / "salt/bin/salt-call").write_text("#!/bin/sh\necho $*\n")
    (tmp_path / "salt/bin/salt-call").chmod(0o755)
    for series, printed in (("3.11", f"--config-dir={tmp_path}/etc test.ping\n"), ("3.13", "")):
        (tmp_path / f"python{series}").touch()
        (tmp_path / "salt/bin/python").unlink(missing_ok=True)
        (tmp_path / "salt/bin/python").symlink_to(tmp_path / f"python{series}")
        done = subprocess.run([tmp_path / "salt-call", "test.ping"], capture_output=True, text=True, check=False)
        assert done.stdout == printed and ("run ./quickstart again" in done.stderr) is not bool(printed)
        assert done.returncode == (0 if printed else 1)


@pytest.mark.parametrize("code", [0, 1])
def test_dead_virtualenv_of_uv_is_made_again_before_salt_is_installed(tmp_path, code):
    """The settings of pip are read by its pip, which an upgrade of Python leaves without its modules."""
    (tmp_path / "uv/bin").mkdir(parents=True)
    (tmp_path / "uv/version").write_text("0.0.1")
    (tmp_path / "uv/bin/pip").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "uv/bin/pip").chmod(0o755)
    done = in_bash(f"uv={tmp_path}/uv; quietly() {{ ls $uv; }}; make_uv", tmp_path)
    assert ("version" in done.stdout) is (code == 0), done.stderr


REMOVING = """
salt=$state/salt formula=$state/formula audit_log=$state/none shared_folders=("$state/none") remove_data={data}
mkdir -p "$salt/bin"
printf '#!/bin/sh\\necho asked "$@" >>{ran}\\n' >"$salt/bin/python"
chmod +x "$salt/bin/python"
installed_salt() {{ [[ ! -e $state/salt ]] || echo 3008; }}
remove_paths() {{ rm -rf "$salt"; }}
service() {{ false; }}
remove_packages() {{ {packages}; }}
{before}
remove
"""


@pytest.mark.parametrize(
    ("data", "again", "code", "asked"), [("", "", 0, 1), ("yes", "yes", 0, 1), ("yes", "", 0, 1), ("", "yes", 1, 1)]
)
def test_removal_that_was_interrupted_goes_on(tmp_path, data, again, code, asked):
    """The site is off, and Salt is gone, when apt fails; data that shall go after all needs both again."""
    state, ran = tmp_path / "state", tmp_path / "ran"
    state.mkdir()
    (state / "options.json").write_text("{}")
    values = {"ran": ran, "before": "", "packages": "exit 1"}
    assert in_bash(REMOVING.format(data=data, **values), state).returncode == 1
    assert not (state / "salt").exists() and (state / "options.json").exists()
    values |= {"before": "rm -r $salt", "packages": ":"}
    done = in_bash(REMOVING.format(data=again, **values), state)
    assert done.returncode == code and ("is damaged" in done.stderr) is bool(code)
    assert len(ran.read_text().splitlines()) == asked and state.exists() is bool(code)


@pytest.mark.parametrize(
    ("error", "tries", "code"),
    [
        ("E: Could not get lock /var/lib/apt/lists/lock. It is held by process 812 (apt-get)", 3, 0),
        ("E: Could not get lock /var/cache/apt/archives/lock. It is held by process 9 (unattended-upgr)", 3, 0),
        ("E: The repository 'http://deb.example.org bookworm Release' does not have a Release file.", 1, 1),
    ],
)
def test_another_apt_is_waited_for(tmp_path, error, tries, code):
    """apt itself waits for the lock of dpkg alone; after the boot of a new machine its timers have the others."""
    stub = f"""
    apt-get() {{
        echo "$*" >>{tmp_path}/ran
        (($(wc -l <{tmp_path}/ran) >= 3)) || {{ echo {shlex.quote(error)}; return 100; }}
    }}
    sleep() {{ :; }}; text=updating
    """
    done = in_bash(f"{stub}apt_get update", tmp_path)
    assert (done.returncode, len((tmp_path / "ran").read_text().splitlines())) == (code, tries)
    assert (error in done.stderr) is bool(code)


def test_programs_of_root_are_found_after_su(tmp_path):
    """Debian has no sudo where root has a password, and `su` keeps the PATH of the user, which lacks sbin."""
    done = in_bash("PATH=/usr/bin:/bin:/home/ada/bin; set_environment; echo $PATH; command -v runuser", tmp_path)
    assert done.stdout.splitlines()[0] == "/usr/bin:/bin:/home/ada/bin:/usr/local/sbin:/usr/sbin:/sbin"
    assert done.stdout.splitlines()[1:] and done.returncode == 0


def test_packages_are_those_of_the_platform(tmp_path):
    done = in_bash('echo "${first_packages[@]}" "${host_packages[@]}"', tmp_path)
    names = yaml.safe_load((QUICKSTART.parent / "django/platforms.yaml").read_text())["Debian"]["packages"]
    nouns = ("certificates", "python", "venv", "git", "ssh")
    assert sorted(done.stdout.split()) == sorted(names[noun] for noun in nouns)
    assert [names[noun] for noun in ("nginx", "supervisor", "bus")] == ["nginx", "supervisor", "dbus"]


@pytest.mark.parametrize(
    ("remove_data", "is_ours", "stays"), [("", True, True), ("yes", True, False), ("yes", False, True)]
)
def test_audit_log_with_former_years_is_data(tmp_path, remove_data, is_ours, stays):
    """It is deleted with the data only, and only where it began with quickstart; what stays is said."""
    names = ["audit-2025.jsonl", "audit.jsonl"]
    for name in (*names, "index.html"):
        (tmp_path / name).touch()
    listed = ["index.html", *(["audit.jsonl"] if is_ours else [])]
    (tmp_path / "paths").write_text("".join(f"{tmp_path}/{name}\n" for name in listed))
    script = f"audit_log={tmp_path}/audit.jsonl; remove_data={remove_data}; remove_paths; tell_of_audit_log"
    said = in_bash(script, tmp_path).stdout
    left = sorted(path.name for path in tmp_path.iterdir() if path.suffix in (".jsonl", ".html"))
    assert left == (names if stays else [])
    told = f"the audit log stays in {tmp_path}; to delete it: rm {tmp_path}/audit*.jsonl"
    assert said.partition(" s  ")[2].strip() == (told if stays else "")


def test_step_prints_what_it_does_while_it_is_silent(tmp_path):
    work = "until grep -q 'so far: two' $state/said; do sleep 0.05; done"
    script = (
        f"silence=0.2; work() {{ quietly sh -c 'echo one; echo two'; {work}; }}; "
        ": >$state/said; step 'installing uv' work > >(tee $state/said)"
    )
    lines = [line.partition(" s  ")[2] for line in in_bash(script, tmp_path).stdout.splitlines()]
    assert lines[0] == "installing uv"
    assert all(re.fullmatch(r"installing uv takes \d+ s so far(: one|: two)?", line) for line in lines[1:])
    assert re.fullmatch(r"\d+\.\d+\t\d+\.\d\tinstalling uv\n", (tmp_path / "steps").read_text())


def test_a_daemon_that_a_step_starts_does_not_keep_quickstart_waiting(tmp_path):
    daemon = f"setsid --fork sh -c 'echo $$ >{tmp_path}/daemon; exec sleep 60'"
    done = in_bash(f"work() {{ quietly {daemon}; }}; step 'installing nginx' work; echo done", tmp_path)
    assert done.stdout.endswith("done\n"), "it does not end within the time of in_bash"
    while not (tmp_path / "daemon").exists() or not (number := (tmp_path / "daemon").read_text()):
        time.sleep(0.01)
    os.kill(int(number), signal.SIGKILL)


def test_what_runs_at_the_same_time_all_ends_before_a_failure_does(tmp_path):
    script = (
        "salt() { step 'installing Salt' quietly sh -c 'echo no wheel; exit 3'; }\n"
        "host() { step 'installing git' quietly sh -c 'sleep 0.3; echo unpacked'; }\n"
        "together salt host; echo never"
    )
    done = in_bash(script, tmp_path)
    assert done.returncode == 1 and "never" not in done.stdout
    assert done.stderr == (
        f"quickstart: installing Salt failed:\n  | no wheel\nquickstart: all of it is in {tmp_path}/log\n"
    )
    assert (tmp_path / "log").read_text() == "no wheel\nunpacked\n"
    assert (tmp_path / "steps").read_text().endswith("installing git\n")


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ("", {"index_options": "--index-strategy unsafe-best-match"}),
        (
            "global.index-url='https://b/simple'\ninstall.index-url='https://a/simple'\n:env:.no-index='1'\n"
            "global.find-links='\\n/a b\\n/c'\nglobal.extra-index-url='https://x https://y'\n"
            "global.proxy='http://proxy:3128'\nglobal.cert='/etc/ca.pem'\nglobal.trusted-host='x'\n",
            {
                "UV_DEFAULT_INDEX": "https://a/simple",
                "UV_FIND_LINKS": "/a,b,/c",
                "UV_INDEX": "https://x https://y",
                "UV_INSECURE_HOST": "x",
                "ALL_PROXY": "http://proxy:3128",
                "SSL_CERT_FILE": "/etc/ca.pem",
                "index_options": "--no-index",
            },
        ),
        (
            ":env:.index-url='https://env/simple'\ninstall.index-url='https://a/simple'\n",
            {"UV_DEFAULT_INDEX": "https://env/simple", "index_options": "--index-strategy unsafe-best-match"},
        ),
    ],
)
def test_uv_has_the_indexes_of_pip(tmp_path, settings, variables):
    (tmp_path / "bin").mkdir()
    (tmp_path / "settings").write_text(settings)
    (tmp_path / "bin/pip").write_text(f"#!/bin/sh\ncat {tmp_path}/settings\n")
    (tmp_path / "bin/pip").chmod(0o755)
    names = "UV_DEFAULT_INDEX UV_INDEX UV_FIND_LINKS UV_INSECURE_HOST SSL_CERT_FILE ALL_PROXY"
    script = (
        f"unset {names}; uv={tmp_path}; use_indexes_of_pip; index_options=${{index_options[*]}}\n"
        f'for name in {names} index_options; do if [[ -v $name ]]; then echo "$name=${{!name}}"; fi; done'
    )
    done = in_bash(script, tmp_path)
    assert dict(line.split("=", 1) for line in done.stdout.splitlines()) == variables, done.stderr


def compose(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([QUICKSTART, *arguments], check=False, capture_output=True, text=True)


def test_compose_clones_a_project_and_writes_its_files(tmp_path):
    """Nothing is installed for it, and no root is needed."""
    files = {
        "manage.py": "os.environ.setdefault('DJANGO_SETTINGS_MODULE', 'blog.settings')\n",
        "blog/wsgi.py": "application = get_wsgi_application()\n",
        "blog/settings.py": "INSTALLED_APPS = []\n",
        "requirements.txt": "django\n",
    }
    origin, folder = write_tree(tmp_path / "origin", files), tmp_path / "blog"
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "1"], ["branch", "old"]):
        subprocess.run([*git, *words], check=True)
    given = ("--compose", str(folder), "--repository", str(origin), "--revision", "old", "--domain=a.example.org")
    done = compose(*given, "--python", "3.12")
    assert done.returncode == 0, done.stderr
    assert "written: .envs/.gitignore" in done.stdout
    assert (folder / ".git/HEAD").read_text() == "ref: refs/heads/old\n"
    assert "python:3.12-slim" in (folder / "Dockerfile").read_text()
    assert '["a.example.org"]' in (folder / "compose/settings_production.py").read_text()
    again = compose(*given, "--python=3.12")
    assert again.stdout == "nothing had to be written\n"
    assert again.stderr == f"quickstart: {folder} is a clone of {origin} already, and stays as it is\n"
    for words, message in (
        (
            ["--repository", "https://git.example.org/other.git"],
            "has files, and is no clone of https://git.example.org",
        ),
        (
            ["--repository", str(origin), "--revision=main"],
            f"has another branch than main: git -C {folder} switch main",
        ),
    ):
        refused = compose("--compose", str(folder), *words)
        assert refused.returncode == 1 and message in refused.stderr and not refused.stdout


def test_compose_clones_a_commit(tmp_path):
    origin, folder = write_tree(tmp_path / "origin", {"manage.py": "", "requirements.txt": "django\n"}), tmp_path / "a"
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "1"]):
        subprocess.run([*git, *words], check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "2"], check=True)
    done = compose("--compose", str(folder), "--repository", str(origin), "--revision", "0" * 40)
    assert done.returncode == 1 and f"quickstart: {origin} has no commit {'0' * 40}\n" in done.stderr
    assert [*folder.iterdir()] == []
    compose("--compose", str(folder), "--repository", str(origin), "--revision", commit[:12])
    assert (folder / ".git/HEAD").read_text() == f"{commit}\n" and (folder / "manage.py").is_file()
    done = compose("--compose", str(folder), "--repository", str(origin), "--revision", commit)
    assert f"{folder} is a clone of {origin} already" in done.stderr
    done = compose("--compose", str(folder), "--repository", str(origin), "--revision", "0" * 8)
    assert (
        done.returncode == 1 and f"{folder} has another commit than 00000000: git -C {folder} checkout" in done.stderr
    )


def test_compose_shows_no_login_of_a_repository(tmp_path):
    url = "://ann:hun@ter2@git.example.org/blog.git"
    remote = f'[remote "origin"]\n\turl = https{url}\n'
    folder = write_tree(tmp_path / "a", {"manage.py": "", ".git/config": remote, ".git/HEAD": "ref: refs/heads/main\n"})
    other = write_tree(tmp_path / "b", {"manage.py": ""})
    for path, scheme, message in (
        (folder, "https", "is a clone of https://git.example.org/blog.git already"),
        (other, "https", "is no clone of https://git.example.org/blog.git: "),
        (tmp_path / "c", "file", "file://git.example.org/blog.git cannot be cloned into"),
    ):
        done = compose("--compose", str(path), "--repository", f"{scheme}{url}")
        own = [line for line in done.stderr.splitlines() if line.startswith("quickstart:")]  # the others are git's
        assert any(message in line for line in own) and "hun" not in "".join(own)


def test_compose_writes_into_no_folder_that_is_not_the_clone(tmp_path):
    files = {"manage.py": "", "requirements.txt": "django\n"}
    remote = '[remote "origin"]\n\turl = https://git.example.org/other.git\n'
    for more in ({}, {".git/config": remote, ".git/HEAD": "ref: refs/heads/main\n"}):
        folder = write_tree(tmp_path / f"blog{len(more)}", files | more)
        done = compose("--compose", str(folder), "--repository", "https://git.example.org/blog.git")
        assert done.returncode == 1 and "is no clone of https://git.example.org/blog.git" in done.stderr
        assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {*files, *more}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to trust a folder")
@pytest.mark.parametrize("name", ["blog", "of-root/blog", "of-root/empty", "of-root/../of-root/blog"])
@pytest.mark.parametrize(("mode", "owner"), [(0o777, 0), (0o755, 65534)])
def test_compose_of_root_clones_into_no_folder_that_others_may_change(tmp_path, name, mode, owner):
    """Nor into one of root's in such a folder, which they may rename."""
    (tmp_path / "open/of-root/empty").mkdir(parents=True)
    (tmp_path / "open").chmod(mode)
    os.chown(tmp_path / "open", owner, owner)
    done = compose("--compose", str(tmp_path / "open" / name), "--repository", "file:///nonexistent")
    assert done.returncode == 1 and "is in a folder that another user may change" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to trust a folder")
def test_compose_of_root_clones_into_no_folder_of_all_users(tmp_path):
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o1777)
    done = compose("--compose", str(tmp_path / "open/blog"), "--repository", "file:///nonexistent")
    assert done.returncode == 1 and "is in a folder that another user may change" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("bare", [False, True])
def test_a_user_inspects_a_revision_of_an_own_repository(open_folder, bare):
    open_folder.chmod(0o777)
    files = {"manage.py": "", "shop/wsgi.py": "application = get_wsgi_application()\n", "requirements.txt": "django\n"}
    tree, user = write_tree(open_folder / "shop", files), {"user": 65534, "group": 65534, "extra_groups": []}
    user["env"] = {**os.environ, "HOME": "/nonexistent"}
    subprocess.run(["chown", "-R", "65534:65534", tree], check=True)
    git = ["git", "-C", str(tree), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "1"]):
        subprocess.run([*git, *words], check=True, **user)
    where = open_folder / "shop.git" if bare else tree
    if bare:
        subprocess.run(["git", "clone", "-q", "--bare", tree, where], check=True, cwd=open_folder, **user)
    argv = [QUICKSTART, "--inspect", where, *([] if bare else ["--revision", "main"])]
    done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd="/", **user)
    assert done.returncode == 0, done.stderr
    (site,) = yaml.safe_load(done.stdout)["django"]["sites"].values()
    assert site["repository"] == str(where)


def test_compose_without_a_folder_takes_no_option_for_one(tmp_path):
    done = subprocess.run(
        [QUICKSTART, "--compose", "--domain", "a.example.org"],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "no manage.py found in the source" in done.stderr


@pytest.mark.parametrize("option", ["--compose", "--inspect"])
def test_no_module_of_the_current_folder_runs(tmp_path, option):
    (tmp_path / "argparse.py").write_text("open('ran', 'w')\n")
    (tmp_path / "secrets.py").write_text("open('ran', 'w')\n")
    subprocess.run([QUICKSTART, option, "."], cwd=tmp_path, check=False, capture_output=True)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--python", "3.12"], "--python goes with --compose"),
        (["--compose", "/nonexistent", "--python", "x"], "--python needs a version such as 3.12"),
        (["--certificates", "r@example.org", "--domain", "a.example.org"], "--certificates goes with --compose"),
        (["--compose", "/nonexistent", "--certificates", "r@example.org"], "--certificates goes with --domain"),
        (["--compose", "/nonexistent", "--certificates", "ray"], "--certificates needs an address for mail"),
        (["--compose", "/nonexistent"], "/nonexistent is not a folder"),
        (["--run"], "--run goes with --inspect"),
        (
            ["--inspect", "--repository", "https://a.example/b.git"],
            "--inspect takes no --repository: name it after --inspect",
        ),
        (["--inspect", "{folder}", "--domain", "a.example.org"], "--inspect takes no --domain"),
        (["--inspect", "{folder}", "--push", "ray=key"], "--push goes with neither --inspect nor --compose"),
        (["--compose", "{folder}", "--push", "ray=key"], "--push goes with neither --inspect nor --compose"),
        (["--compose", "/nonexistent", "--inspect", "/"], "--inspect and --compose do not go together"),
        (["--compose", "/nonexistent", "--revision", "v1"], "--revision goes with --repository"),
        (["--compose", "/nonexistent", "--remove"], "--remove takes no --inspect or --compose"),
        (["--compose", "/nonexistent/x", "--repository", "file:///nonexistent"], "/nonexistent is not a folder"),
        (["--compose", "{folder}/x", "--repository", "file:///nonexistent"], "cannot be cloned into"),
    ],
)
def test_compose_refuses_what_it_cannot_do(tmp_path, arguments, message):
    done = compose(*(argument.format(folder=tmp_path) for argument in arguments))
    assert done.returncode == 1 and message in done.stderr
