"""`django.logs`: which programs are asked for the lines that are wanted, of which releases, and as whom."""

import sys

import pytest
from django_formula.host import commands
from django_formula.host import file as host_file
from django_formula.host.commands import DeploymentError, Ended
from django_formula.process import supervisor
from django_formula.verbs import logs
from world import commit

UNITS = ["--unit=django-blog-0001", "--unit=django-blog-0002"]
ID = "9123ac9f0b1c2d3e4f5061728394a5b6"
SHOWN = ["--output", "short-iso", "--no-pager", "--quiet"]


@pytest.fixture
def two(world):
    world.apply()
    world.push("two")
    world.apply()
    return world


def asked(world, **arguments):
    """Return what is shown, and the last command."""
    return logs.show("blog", 7, **arguments), world.commands[-1]


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ({"since": "2026-11-27T06:00Z"}, ["--since=@1795759200", "--lines=7"]),
        ({"level": "warning"}, ["--priority=warning", "--lines=7"]),
        ({"grep": "--rotate"}, ["--reverse", "--grep=--rotate", "--lines=7"]),
    ],
)
def test_all_releases_are_searched_for_what_is_asked(two, arguments, options):
    key = host_file.read_json(two.site.secrets / "secret_key.json")["key"]
    two.prints["journalctl"] = f"last {key}\nfirst\n" if "grep" in arguments else f"first\nlast {key}"
    text, command = asked(two, **arguments)
    assert text == "first\nlast **********" and command == ["journalctl", *UNITS, *options, *SHOWN]


def test_search_that_finds_nothing_is_no_error(two, monkeypatch):
    monkeypatch.setattr(commands, "execute", lambda command: Ended(1, "", ""))
    assert logs.show("blog", 7, grep="nothing") == ""
    monkeypatch.setattr(commands, "execute", lambda command: Ended(1, "", 'Bad pattern "("'))
    with pytest.raises(DeploymentError, match=r"reading the journal failed \(exit 1\)"):
        logs.show("blog", 7, grep="(")


def test_request_is_found_in_the_proxy_and_in_the_journal_around_it(two, monkeypatch, tmp_path):
    answers = {
        "short-unix": f"1795759200.25 web1 blog[7]: /boom [{ID}]\n  a line more\n",
        "short-iso": f"x web1 blog[7]: other\nx web1 blog[7]: /boom [{ID}]\nx web1 blog[7]:   frame\n",
    }
    made = []

    def execute(command):
        made.append([*command.argv])
        shown = next((one for one in answers if one in command.argv), "")
        return Ended(0, answers[shown], "") if shown else Ended(0, f'{{"id":"{ID}"}}\n', "")

    monkeypatch.setattr(commands, "execute", execute)
    found = f"x web1 blog[7]: /boom [{ID}]\nx web1 blog[7]:   frame"
    notice = "the access log of nginx has no ids: set django:sites:blog:proxy:access_log: json"
    assert logs.show("blog", 7, id=ID) == f"{notice}\n{found}"
    assert made[0][3:6] == [f"--grep={ID}", "--lines=7", "--reverse"]
    assert made[1][1:5] == [*UNITS, "--since=@1795759199", "--until=@1795759202"]
    two.options["proxy"] = {"access_log": "json"}
    two.apply()
    daemon = type("Daemon", (), {"log": str(tmp_path / "error.log"), "service": "nginx"})
    monkeypatch.setattr(logs.proxies.serving(two.site), "DAEMON", daemon, raising=False)
    (tmp_path / "django-blog.log").touch()
    assert logs.show("blog", 7, id=ID[:8]) == f'{{"id":"{ID}"}}\n{found}'
    grep = next(argv for argv in made if argv[0] == "grep")
    assert grep[-3:] == [f"--regexp={ID[:8]}", "--", str(tmp_path / "django-blog.log")]


@pytest.mark.parametrize(
    ("salt_call", "ends"),
    [
        (["salt-call", "--local"], "'salt-call --local django.logs blog 5 '\"'\"'grep=no ink'\"'\"' follow=True'"),
        ([], "'journalctl --unit=django-blog-0002 --output short-iso --no-pager --quiet --follow --lines=5 '"
         "\"'\"'--grep=no ink'\"'\"''"),
    ],
)  # fmt: skip
def test_without_a_terminal_the_command_that_has_one_is_returned(two, salt_call, ends):
    text = logs.follow("blog", 5, None, "web1", salt_call=salt_call, grep="no ink")
    assert text.replace("\"'\"'", "'").replace("''", "'") == f"following needs a terminal: ssh -t web1 {ends}".replace(
        "\"'\"'", "'"
    ).replace("''", "'")


def test_lines_that_come_are_masked_and_shown(two, monkeypatch, capsys):
    key = host_file.read_json(two.site.secrets / "secret_key.json")["key"]
    program = f"print('one {key}'); print('two \\x1b[2J')"
    manager = type(logs.instances.process_manager(two.site, two.site.current))
    monkeypatch.setattr(manager, "follow", lambda *_: [sys.executable, "-c", program])
    assert logs.follow("blog", 5, None, "web1", salt_call=None) == ""
    assert capsys.readouterr().out == "one **********\ntwo \\x1b[2J\n"
    with pytest.raises(DeploymentError, match="follow shows what comes"):
        logs.follow("blog", 5, None, "web1", salt_call=None, id=ID)


def test_terminal_is_that_of_salt_call(monkeypatch):
    monkeypatch.setattr(logs.shutil, "which", {"salt-call": "/usr/bin/salt-call"}.get)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert logs.salt_call({"__cli": "salt-call"}) is None
    assert logs.salt_call({"__cli": "salt-minion", "file_client": "remote"}) == ["salt-call"]
    assert logs.salt_call({"file_client": "local"}) == ["salt-call", "--local"]
    monkeypatch.setattr(logs.shutil, "which", lambda name: None)
    assert logs.salt_call({"file_client": "local"}) == []


# Log files of supervisor


@pytest.fixture
def file_log(make_site, monkeypatch):
    """The log of a release under supervisor: `lines` of the file and of the rotated one."""
    site, run, execute, users = make_site(process="supervisor"), commands.run, commands.execute, set()

    def without_user(argv, user, **options):
        users.add(user)
        return run(argv, **options)

    def executed(command):
        users.add(command.user)
        return execute(commands.dataclasses.replace(command, user=None))

    monkeypatch.setattr(commands, "run", without_user)
    monkeypatch.setattr(commands, "execute", executed)
    release = site.releases / f"0042-{commit('x')[:12]}"

    def search(selection, before="", now=""):
        (site.log.top / "0042.log.1").write_text(before)
        (site.log.top / "0042.log").write_text(now)
        text = supervisor.MANAGER.search(site, [release], selection)
        assert users <= {"blog", None}
        return text.splitlines()

    search.site, search.release = site, release
    return search


TIME = "2026-11-27T13:00:00+0000 "
OLD = f"{TIME}old [{ID}]\n{TIME}  frame\n{TIME}ValueError: no ink\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"lines": 2}, ["2026-11-27T14:00:00+0000 Boom", "2026-11-27T14:10:00+0000 -v"]),
        ({"grep": "boom"}, ["2026-11-27T14:00:00+0000 Boom"]),
        ({"grep": "-v"}, ["2026-11-27T14:10:00+0000 -v"]),
        ({"grep": "nothing"}, []),
        ({"since": "2026-11-27T14:05Z"}, ["2026-11-27T14:10:00+0000 -v"]),
        ({"id": ID[:8]}, OLD.splitlines()),
    ],
)
def test_files_are_searched_as_the_journal_is(file_log, arguments, expected):
    now = "2026-11-27T14:00:00+0000 Boom\n2026-11-27T14:10:00+0000 -v\n"
    assert file_log(logs.selections.parse(**{"lines": 50, **arguments}), OLD, now) == expected


def test_files_have_no_levels(file_log):
    with pytest.raises(DeploymentError, match="the log files of blog have no levels"):
        file_log(logs.selections.parse(level="error"))
    with pytest.raises(DeploymentError, match="exclude each other under supervisor"):
        supervisor.MANAGER.follow(file_log.site, file_log.release, logs.selections.parse(grep="x"))
    argv = supervisor.MANAGER.follow(file_log.site, file_log.release, logs.selections.parse(5))
    assert argv[0] == "/usr/bin/setpriv" and argv[-3:] == ["--retry", "--", str(file_log.site.log.top / "0042.log")]
