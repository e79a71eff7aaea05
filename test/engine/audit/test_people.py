"""What people may do: files of keys and rights, and what their keys run."""

import importlib.util
import json
import stat
from types import SimpleNamespace

import pytest
import yaml
from django_formula.audit import chain, ops, people
from django_formula.host import archive, commands, users
from django_formula.host.commands import DeploymentError
from specimen import ROOT

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHJ5S2dPZ0lWQ1h6R0ZtV0pQbGJwUWRCdUZ6cGFk ada@laptop"
WANTED = {
    "sites": {"blog": {"ada": ["release", "request", "status"], "support": ["status"]}, "shop": {"ada": ["status"]}},
    "keys": {"ada": KEY},
}
SALT_CALL = ["/usr/bin/salt-call", "--local"]


@pytest.fixture
def host(own_host, monkeypatch):
    """A host on which users are made by commands that are only noted."""
    known, ran = [], []
    user = SimpleNamespace(pw_gecos="People of Django sites")
    monkeypatch.setattr(users, "find_user", lambda name: user if name in known else None)

    def run(argv, **_options):
        ran.append(argv)
        if argv[0] in ("useradd", "userdel"):
            (known.append if argv[0] == "useradd" else known.remove)(argv[-1])
        return ""

    monkeypatch.setattr(people.commands, "run", run)
    monkeypatch.setattr(people.archive, "install", lambda _module, path: path.write_bytes(b"PK\5\6" + bytes(18)))
    for name in commands.network_environment():
        monkeypatch.delenv(name, raising=False)
    return SimpleNamespace(root=own_host, ran=ran, user=user)


def apply(wanted=WANTED, salt_call=SALT_CALL, test=False):
    return people.apply(wanted, salt_call, test=test)


def test_key_runs_one_program_and_nothing_else(host):
    assert apply(test=True).changes and not people.CONFIG.exists()
    apply()
    assert not apply().changes
    (line,) = [line for line in people.KEYS.read_text().splitlines() if line[0] != "#"]
    assert line == f'restrict,command="/usr/bin/sudo -n {people.PROGRAM} ada" {KEY}'
    assert f"django-ops ALL=(root) NOPASSWD: {people.PROGRAM} ada\n" in people.SUDOERS.read_text()
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (people.CONFIG, people.SUDOERS, people.KEYS)}
    assert [*modes.values()] == [0o600, 0o440, 0o644]
    assert "support" not in people.KEYS.read_text() + people.SUDOERS.read_text()


@pytest.mark.parametrize("content", [None, b"", b"PK\3\4 to the middle"], ids=["missing", "empty", "torn"])
def test_program_that_is_not_whole_is_made_again(host, content):
    apply()
    people.ARCHIVE.unlink()
    if content is not None:
        people.ARCHIVE.write_bytes(content)
    found = {str(people.ARCHIVE): "new" if content is None else "changed"}
    assert apply(test=True).changes == found and apply().changes == found
    assert archive.is_whole(people.ARCHIVE) and not apply().changes


def test_person_who_is_removed_has_no_key_and_no_right(host):
    apply()
    without = {"sites": {"blog": {"support": ["status"]}}, "keys": {}}
    changes = apply(without).changes
    assert changes[str(people.KEYS)] == changes["user django-ops"] == "removed"
    assert [path.exists() for path in (people.KEYS, people.SUDOERS, people.PROGRAM, people.ARCHIVE, people.HOME)] == [
        False
    ] * 5
    assert people.rights() == without["sites"]
    assert people.remove(test=False) == {str(people.CONFIG): "removed"} and people.remove(test=False) == {}


def test_keys_need_salt_and_a_user_of_their_own(host, monkeypatch):
    with pytest.raises(DeploymentError, match="there is no salt-call"):
        apply(salt_call=[])
    assert apply({"sites": {"blog": {"ada": ["status"]}}, "keys": {}}, []).changes
    host.user.pw_gecos = "Operations"
    monkeypatch.setattr(users, "find_user", lambda _name: host.user)
    with pytest.raises(DeploymentError, match="exists already and is not ours"):
        apply()


@pytest.mark.parametrize(
    ("asked", "ran"),
    [
        ("release blog", "django_ops.release blog"),
        ("status blog", "django_ops.status blog"),
        ("  status shop ", "django_ops.status shop"),
        ("release shop", ""),
        ("rollback blog", ""),
        ("status", ""),  # of which site?
        ("", ""),
        ("request blog", "--retcode-passthrough django_ops.request blog"),
        ("request blog 0012345", "--no-parse=commit --retcode-passthrough django_ops.request blog commit=0012345"),
        ("request blog main", ""),
        ("request blog 0012345 x", ""),
        ("request blog 001234", ""),
        ("request 0012345", ""),
        ("release blog 0012345", ""),
        ("release blog force=True", ""),
        ("release  blog", ""),
        ("release blog\nrm", ""),
        ("release blog\n", "django_ops.release blog"),
        ("release --config-dir=/tmp", ""),
        ("cmd.run id", ""),
        ("status *", ""),
        ("status ../blog", ""),
        ("status blog;id", ""),
        ("status $(id)", ""),
        ("/usr/lib/openssh/sftp-server", ""),
        ("scp -t /root", ""),
        ("release blog" + " " * 5000 + "x", ""),
    ],
)
def test_text_of_a_client_is_compared_with_names(host, monkeypatch, capsys, asked, ran):
    apply()
    called = []
    monkeypatch.setattr(ops.os, "geteuid", lambda: 0)
    monkeypatch.setattr(ops.subprocess, "call", lambda argv, **options: (called.append((argv, options)), 7)[1])
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", asked)
    monkeypatch.setenv("LD_PRELOAD_TRIED", "x")
    assert ops.main("ada") == (7 if ran else 1)
    assert [" ".join(argv) for argv, _options in called] == ([f"/usr/bin/salt-call --local {ran}"] if ran else [])
    assert all(
        {*options["env"]} == {"PATH", "LANG", "HOME", "SSH_CONNECTION", "DJANGO_OPS_PERSON"} for _, options in called
    )
    if not ran:
        assert "release blog" in capsys.readouterr().err
    refused = chain.current().read_text().splitlines() if chain.current().exists() else []
    assert [json.loads(line)["result"] for line in refused] == (["refused"] if asked and not ran else [])


def test_person_reaches_the_network_by_the_proxy_of_the_apply(host, monkeypatch):
    """sshd and sudo have none; with it goes what `request` notes for the program that works it off."""
    proxies = {"https_proxy": "http://user:hunter2@proxy.example.org:3128", "no_proxy": "localhost"}
    for name, value in proxies.items():
        monkeypatch.setenv(name, value)
    apply()
    assert stat.S_IMODE(people.CONFIG.stat().st_mode) == 0o600
    for name in proxies:
        monkeypatch.delenv(name)
    given = {}
    monkeypatch.setattr(ops.os, "geteuid", lambda: 0)
    monkeypatch.setattr(ops.subprocess, "call", lambda _argv, env, **_options: (given.update(env), 0)[1])
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", "request blog")
    assert ops.main("ada") == 0
    assert proxies.items() <= given.items()


def test_program_refuses_others(host, monkeypatch, capsys):
    apply()
    assert ops.main("ada", "x") == 2 and ops.main() == 2
    monkeypatch.setattr(ops.os, "geteuid", lambda: 1000)
    assert ops.main("ada") == 2
    monkeypatch.setattr(ops.os, "geteuid", lambda: 0)
    monkeypatch.setenv("SSH_ORIGINAL_COMMAND", "status blog")
    assert ops.main("eve") == 1


@pytest.mark.parametrize(
    ("site", "verb", "who", "is_allowed"),
    [
        ("blog", "release", {"ada"}, True),
        ("blog", "release", {"support"}, False),
        ("blog", "status", {"support"}, True),
        ("shop", "release", {"ada"}, False),
        ("blog", "release", {"ada", "support"}, False),  # threads of a minion: each of them may
        ("blog", "release", {"root"}, True),
        ("blog", "release", {"sudo_eve"}, True),
        ("blog", "release", set(), True),
        ("blog", "release", {"eve"}, False),
        (["blog"], "release", {"eve"}, False),
    ],
)
def test_user_of_a_master_has_the_rights_of_the_pillar(host, site, verb, who, is_allowed):
    apply()
    if is_allowed:
        people.refuse(site, verb, who)
        return
    with pytest.raises(DeploymentError, match="may not call"):
        people.refuse(site, verb, who)
    (line,) = map(json.loads, chain.current().read_text().splitlines())
    assert (line["verb"], line["result"]) == ("release", "refused")


def test_schema_has_the_functions_that_people_may_have():
    schema = yaml.safe_load((ROOT / "django/schema.yaml").read_text())
    person = schema["$defs"]["site"]["properties"]["people"]["additionalProperties"]["properties"]
    assert person["may"]["items"]["enum"] == [*people.VERBS]


@pytest.fixture
def functions(monkeypatch, own_host):
    """The module `django_ops` as Salt loads it, for ada by SSH, with functions of `django` that are noted."""
    spec = importlib.util.spec_from_file_location("django_ops", ROOT / "_modules/django_ops.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    called = []
    known = {
        f"django.{verb}": lambda *words, verb=verb: called.append((verb, *words)) or "done" for verb in people.VERBS
    }
    vars(module).update(__opts__={"cachedir": "/nonexistent"}, __salt__=known, __context__={}, called=called)
    monkeypatch.setenv("DJANGO_OPS_PERSON", "ada")
    monkeypatch.setattr(people, "rights", lambda: {"blog": {"ada": ["request", "status"]}})
    monkeypatch.setattr(module.sites, "find", lambda name: name)
    return module


def test_functions_check_who_calls_and_take_no_option(functions):
    assert functions.status("blog") == functions.request("blog") == "done"
    assert "ada may not call release for blog" in functions.release("blog") and functions.__context__ == {"retcode": 1}
    assert functions.called == [("status", "blog"), ("request", "blog")]
    for verb in set(people.VERBS) - set(people.OF_COMMITS):
        with pytest.raises(TypeError):
            getattr(functions, verb)("blog", "1234567")


def test_commit_of_a_request_is_one_of_the_revision(functions, monkeypatch):
    monkeypatch.setattr(functions.commits, "of_revision", lambda _site, commit: commit + "0" * 33)
    assert functions.request("blog", "1234567") == "done" and functions.called == [
        ("request", "blog", "1234567" + "0" * 33)
    ]

    def refuse(_site, commit):
        raise DeploymentError(f"{commit} is no commit of main")

    monkeypatch.setattr(functions.commits, "of_revision", refuse)
    assert "is no commit of main" in functions.request("blog", "1234567") and functions.__context__ == {"retcode": 2}
    assert len(functions.called) == 1
