"""`django-formula` of a developer's machine: what it asks of ssh, and what runs on the other side."""

import io
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from django_formula_laptop import program
from django_formula_laptop.program import NAMES

ROOT = Path(__file__).parents[2]
#: Stands for ssh: notes what it was called with, leaves its options out, and runs the command here.
SSH = """#!/bin/sh
printf '%s\\n' "$*" >>"$CALLS"
while [ "${1#-}" != "$1" ]; do case $1 in
    -t) shift ;; -O) exit 0 ;; -G) echo "identityfile $KEYS/id_ed25519"; exit ;; *) shift 2 ;;
esac; done
host=$1; shift
[ "$host" != talks ] || echo Welcome to this host
[ "$host" != menu ] || { echo 1 status; exit 0; }
[ "$host" != away ] || exit 255
[ "$host" != fish ] || exec python3 -c 'import os, shlex, sys
words = shlex.split(sys.argv[1]); os.execvp(words[0], words)' "$*"
exec sh -c "$*"
"""
#: Stands for sudo and id: a user who may become root without a password, with one, or not.
SUDO = """#!/bin/sh
[ -z "$DENIED" ] || [ "$1" = -n -a "$2" = true ] || exit 1
[ "$1" != -n ] || { [ "$SUDO_IS" = free ] || exit 1; shift; }
echo "sudo $1" >>"$CALLS"
exec "$@"
"""
QUICKSTART = """echo "started $*" >>"$CALLS"; ls "$(dirname "$0")" | sed 's/^/has /' >>"$CALLS"; exit ${CODE:-0}"""


class Laptop:
    """A machine whose ssh leads to itself."""

    def __init__(self, folder: Path):
        self.folder, self.calls = folder, folder / "calls"
        self.program = [sys.executable, "-m", "django_formula_laptop"]
        bin_ = folder / "bin"
        bin_.mkdir()
        for name, text in (("ssh", SSH), ("sudo", SUDO), ("id", "#!/bin/sh\necho ${UID_IS:-1000}\n")):
            (bin_ / name).write_text(text)
            (bin_ / name).chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{bin_}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "laptop"),
            "CALLS": str(self.calls),
            "SUDO_IS": "free",
            "KEYS": str(folder),
        }

    def run(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.calls.write_text("")
        argv = [*self.program, *arguments]
        return subprocess.run(
            argv,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def lines(self, word: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if line.startswith(word)]


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    return Laptop(tmp_path)


@pytest.fixture
def quickstart(laptop: Laptop) -> Laptop:
    """The program as it is installed, with a quickstart that notes how it was called."""
    package = laptop.folder / "site/django_formula_laptop"
    (package / "formula").mkdir(parents=True)
    for path in (ROOT / "laptop/django_formula_laptop").glob("*.py"):
        (package / path.name).write_text(path.read_text())
    for name in NAMES:
        (package / "formula" / name).write_text("")
    (package / "formula/FORMULA").write_text("version: 1.2.3\n")
    (package / "formula/quickstart").write_text(QUICKSTART)
    laptop.environment["PYTHONPATH"] = str(laptop.folder / "site")
    return laptop


def test_up_sends_the_formula_and_runs_quickstart_as_root(quickstart: Laptop) -> None:
    done = quickstart.run(
        "up", "ada@web1", "--repository", "https://git.example.org/b.git", "--domain", "b.example.org"
    )
    assert done.returncode == 0, done
    assert quickstart.lines("started") == ["started --repository https://git.example.org/b.git --domain b.example.org"]
    assert "has pyproject.toml" in quickstart.lines("has") and quickstart.lines("sudo sh") == ["sudo sh"]
    assert all("ada@web1" in line and "ControlPath=/tmp/djf-" in line for line in quickstart.lines("-o"))
    assert not sent_to(quickstart).exists()


def sent_to(laptop: Laptop) -> Path:
    """Return the folder of the host in which the formula was unpacked."""
    names = {*re.findall(r"/var/tmp/django-formula\.\w+(?=/)", laptop.calls.read_text())}
    (name,) = names - {"/var/tmp/django-formula.XXXXXX"}
    return Path(name)


@pytest.mark.parametrize("fault", ["no password", "interrupted"])
def test_nothing_that_was_sent_is_left_on_the_host(quickstart: Laptop, clone: Path, fault: str) -> None:
    """It has the source of the project."""
    if fault == "interrupted":
        path = quickstart.folder / "site/django_formula_laptop/formula/quickstart"
        path.write_text("kill -INT $PPID; sleep 0.2; exit 130\n")
    done = quickstart.run("up", "web1", "--repository", str(clone), DENIED="yes" if fault == "no password" else "")
    assert done.returncode == (1 if fault == "no password" else 130), done
    assert not sent_to(quickstart).exists()


def test_full_disk_of_the_host_keeps_nothing_of_what_was_sent(quickstart: Laptop, clone: Path) -> None:
    made = quickstart.folder / "made"
    for name, text in (
        ("mktemp", f'mkdir "{made}" && echo "{made}"'),
        ("tar", f'touch "{made}/half"; cat >/dev/null; exit 2'),
    ):
        (quickstart.folder / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (quickstart.folder / "bin" / name).chmod(0o755)
    assert quickstart.run("up", "web1", "--repository", str(clone)).returncode == 1
    assert not made.exists()


def test_words_of_a_login_are_not_taken_for_an_answer(quickstart: Laptop) -> None:
    assert quickstart.run("up", "talks").returncode == 0 and quickstart.lines("started") == ["started "]


def test_login_may_have_a_shell_of_another_language(quickstart: Laptop) -> None:
    """As fish is, which has no `if …; then`."""
    done = quickstart.run("up", "fish")
    assert done.returncode == 0 and quickstart.lines("started") == ["started "], done


@pytest.mark.parametrize("program", ["ssh", "git"])
def test_missing_program_of_this_machine_is_named(quickstart: Laptop, clone: Path, program: str) -> None:
    (quickstart.folder / "bin" / program).unlink(missing_ok=True)
    done = quickstart.run(
        "up", "web1", *(["--repository", str(clone)] if program == "git" else []), PATH=str(quickstart.folder / "bin")
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"django-formula: {program} is not on the path of this machine", "  install it"]


def test_root_needs_no_sudo_and_an_exit_code_is_kept(quickstart: Laptop) -> None:
    done = quickstart.run("up", "root@web1", UID_IS="0", CODE="3")
    assert (done.returncode, quickstart.lines("sudo sh"), quickstart.lines("started")) == (3, [], ["started "])
    assert quickstart.run("--version").stdout == "1.2.3\n"


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (["up", "away"], {}, "away cannot be reached, or a command failed there (exit 255)\n  try: ssh away true"),
        (["up", "menu"], {}, "menu answers otherwise than a shell of Linux does"),
        (
            ["up", "web1"],
            {"SUDO_IS": "password"},
            "sudo of web1 asks for a password, and this is no terminal\n  run it",
        ),
        (["up", "web1", "--repository", "."], {}, "has no commit to send: fatal: not a git repository"),
        (["up", "web1", "--repository", ".", "--revision", "x"], {}, "--revision is of a URL"),
        (["up", "web1", "--push"], {}, "--push goes with a folder of this machine\n  --repository FOLDER"),
        (["up", "web1", "--repository", ".", "--push"], {}, "there is no SSH key to push with\n  make one: ssh-keygen"),
        (["up", "web1", "--repository", ".", "--push", "gone"], {}, "gone cannot be read: No such file or directory"),
        (["up"], {}, "the following arguments are required: [USER@]HOST"),
        (["up", "--", "-oProxyCommand=id"], {}, "a host is expected after the verb"),
        (["status", "-oProxyCommand=id"], {}, "a host is expected after the verb"),
        (["a;id", "web1"], {}, "a;id is no verb"),
    ],
)
def test_what_cannot_be_done_is_said(
    quickstart: Laptop, arguments: list[str], environment: dict[str, str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty := quickstart.folder / "empty").mkdir()
    monkeypatch.chdir(empty)
    done = quickstart.run(*arguments, **environment, GIT_CEILING_DIRECTORIES=str(quickstart.folder))
    assert done.returncode and says in done.stderr and "Traceback" not in done.stderr
    assert quickstart.lines("started") == []


def test_commit_of_a_folder_is_sent_and_placed(quickstart: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = quickstart.folder / "My Blog"
    folder.mkdir()
    git = ["git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    (folder / "manage.py").write_text("committed\n")
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "First"]):
        subprocess.run([*git, *words], check=True)
    (folder / ".env").write_text("KEY=secret\n")  # stays here
    projects = quickstart.folder / "srv"
    path = quickstart.folder / "site/django_formula_laptop/program.py"
    path.write_text(path.read_text().replace('"/srv/projects"', f'"{projects}"'))
    for text in ("committed\n", "changed\n"):
        (folder / "manage.py").write_text(text)
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-am", "Next"], check=True)
        done = quickstart.run("up", "web1", "--repository", str(folder))
        assert done.returncode == 0 and quickstart.lines("started") == [f"started --repository {projects}/my-blog"]
        assert [(path.name, path.stat().st_mode & 0o777) for path in sorted(projects.iterdir())] == [
            (".my-blog.origin", 0o644),
            ("my-blog", 0o700),
        ]
        assert [(path.name, path.read_text()) for path in (projects / "my-blog").iterdir()] == [("manage.py", text)]


KEY = f"ssh-ed25519 {'A' * 68}"


@pytest.fixture
def clone(quickstart: Laptop) -> Path:
    """A repository with a commit, on a machine whose host has the site `my-blog` as one that is pushed."""
    folder = quickstart.folder / "My Blog"
    (folder / "part").mkdir(parents=True)
    (folder / "part/manage.py").touch()
    git = ["git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "First"]):
        subprocess.run([*git, *words], check=True)
    (quickstart.folder / "push/my-blog").mkdir(parents=True)
    path = quickstart.folder / "site/django_formula_laptop/program.py"
    text = path.read_text().replace('"/var/lib/django-formula/push"', f'"{quickstart.folder}/push"')
    path.write_text(text.replace('"/srv/projects"', f'"{quickstart.folder}/srv"'))
    return folder


def commit(folder: Path, text: str) -> None:
    """Commit a file to the repository of a folder, which is made where there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manage.py").write_text(text)
    git = ["git", "-C", str(folder), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    known = _is_inside(folder)
    for words in ([] if known else [["init", "--quiet"]]) + [["add", "."], ["commit", "--quiet", "-m", text]]:
        subprocess.run([*git, *words], check=True)


def _is_inside(folder: Path) -> bool:
    argv = ["git", "-C", str(folder), "rev-parse"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_project_that_a_killed_run_has_moved_aside_is_there_again(tmp_path: Path) -> None:
    """Between its two renames there is none; and what comes next may fail too."""
    placed = tmp_path / "srv/blog"
    placed.parent.mkdir()
    (tmp_path / "srv/blog.old").mkdir()
    (tmp_path / "srv/blog.old/manage.py").touch()
    argv = ["sh", "-c", program._PLACE, "place", str(tmp_path), str(placed)]
    assert subprocess.run(argv, capture_output=True, check=False).returncode, "nothing was sent"
    assert os.listdir(placed) == ["manage.py"]


def test_project_with_submodules_is_not_sent_without_them(quickstart: Laptop, clone: Path) -> None:
    entry = f"160000,{'1' * 40},vendor/library"
    git = ["git", "-C", str(clone), "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["update-index", "--add", "--cacheinfo", entry], ["commit", "--quiet", "-m", "Library"]):
        subprocess.run([*git, *words], check=True)
    done = quickstart.run("up", "web1", "--repository", str(clone))
    assert done.returncode == 1 and quickstart.lines("started") == []
    text = f"django-formula: {clone} has submodules, which are not part of its commit: 'vendor/library'\n"
    assert done.stderr == text + "  push it, and have the host fetch it with them: --repository URL\n"


def test_project_of_another_with_a_folder_of_the_same_name_is_not_replaced(quickstart: Laptop, clone: Path) -> None:
    """It would be released on the site of the first one, and migrate its database."""
    first, other = quickstart.folder / "one/backend", quickstart.folder / "other/backend"
    for folder in (first, other):
        commit(folder, folder.parent.name)
    placed = quickstart.folder / "srv/backend/manage.py"
    assert quickstart.run("up", "web1", "--repository", str(first)).returncode == 0 and placed.read_text() == "one"
    done = quickstart.run("up", "web1", "--repository", str(other))
    origin = quickstart.folder / "srv/.backend.origin"
    assert done.returncode == 1 and quickstart.lines("started") == [] and placed.read_text() == "one"
    assert done.stderr.splitlines() == [
        f"django-formula: {placed.parent} of this host is another project, whose folder has the same name",
        f"  give yours another name; or, where it is the same project, run on the host: rm {origin}",
    ]
    commit(first, "next")
    assert quickstart.run("up", "web1", "--repository", str(first)).returncode == 0 and placed.read_text() == "next"
    origin.unlink()
    assert quickstart.run("up", "web1", "--repository", str(other)).returncode == 0 and placed.read_text() == "other"


def test_parts_of_a_repository_are_projects_and_a_clone_without_history_is_any_of_them(
    quickstart: Laptop, clone: Path
) -> None:
    whole = quickstart.folder / "whole"
    commit(whole, "whole")
    for part in ("shop/web", "blog/web"):
        commit(whole / part, part)
    placed = quickstart.folder / "srv/web/manage.py"
    assert quickstart.run("up", "web1", "--repository", str(whole / "shop/web")).returncode == 0
    assert quickstart.run("up", "web1", "--repository", str(whole / "blog/web")).returncode == 1
    assert placed.read_text() == "shop/web"
    shallow = quickstart.folder / "ci/web"
    argv = ["git", "clone", "--quiet", "--depth=1", f"file://{whole}", str(shallow)]
    subprocess.run(argv, check=True)
    assert quickstart.run("up", "web1", "--repository", str(shallow)).returncode == 0
    assert placed.read_text() == "whole"
    assert quickstart.run("up", "web1", "--repository", str(whole / "blog/web")).returncode == 1


def remote(folder: Path) -> list[str]:
    argv = ["git", "-C", str(folder), "config", "--get-regexp", "remote.live.(url|push)"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("ada@web1", "my-blog-push@web1:my-blog"),
        ("web1", "my-blog-push@web1:my-blog"),
        ("ssh://ada@web1:2222", "ssh://my-blog-push@web1:2222/my-blog"),
        ("ada@2001:db8::1", "my-blog-push@[2001:db8::1]:my-blog"),
        ("ssh://ada@[2001:db8::1]:2222", "ssh://my-blog-push@[2001:db8::1]:2222/my-blog"),
    ],
)
def test_folder_is_pushed_from_then_on(quickstart: Laptop, clone: Path, host: str, url: str) -> None:
    (quickstart.folder / "id_ed25519.pub").write_text(f"{KEY} Ada's laptop\n")
    for _again in range(2):
        done = quickstart.run("up", host, "--repository", str(clone), "--push", LOGNAME="Ada Lovelace")
        assert done.returncode == 0 and f"in {clone}: git push live" in done.stdout, done
        started = f"started --push ada-lovelace={KEY} --repository {quickstart.folder}/srv/my-blog"
        assert quickstart.lines("started") == [started]
        assert remote(clone) == [f"remote.live.url {url}", "remote.live.push HEAD:refs/heads/main"]


def test_remote_of_another_is_left_alone(quickstart: Laptop, clone: Path) -> None:
    (key := quickstart.folder / "key.pub").write_text(KEY)
    subprocess.run(["git", "-C", str(clone), "remote", "add", "live", "git@git.example.org:blog"], check=True)
    done = quickstart.run("up", "web1", "--repository", str(clone), "--push", str(key))
    assert done.returncode == 1 and "has a remote live already, git@git.example.org:blog" in done.stderr
    assert "git push my-blog-push@web1:my-blog HEAD:main" in done.stderr
    assert remote(clone) == ["remote.live.url git@git.example.org:blog"]


def test_remote_that_was_half_made_is_completed(quickstart: Laptop, clone: Path) -> None:
    """It was killed after `git remote add`; and the user's git writes the hosts of remotes in its own way."""
    (quickstart.folder / "id_ed25519.pub").write_text(KEY)
    url = "my-blog-push@web1:my-blog"
    git = ["git", "-C", str(clone)]
    subprocess.run([*git, "remote", "add", "live", url], check=True)
    subprocess.run([*git, "config", "url.ssh://through/.insteadOf", "my-blog-push@"], check=True)
    done = quickstart.run("up", "web1", "--repository", str(clone), "--push")
    assert done.returncode == 0, done
    assert remote(clone) == [f"remote.live.url {url}", "remote.live.push HEAD:refs/heads/main"]


def test_what_cannot_be_pushed_is_said_before_anything_is_sent(quickstart: Laptop, clone: Path) -> None:
    (quickstart.folder / "id_ed25519.pub").write_text(KEY)
    (private := quickstart.folder / "id_ed25519").write_text("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    for folder, key, says in (
        (clone, str(private), f"{private} is no public key\n  name the file that ends in .pub"),
        (clone / "part", "", f"is a part of one\n  --repository {clone}"),
    ):
        done = quickstart.run("up", "web1", "--repository", str(folder), "--push", *[key] * bool(key))
        assert done.returncode == 1 and says in done.stderr and quickstart.lines("started") == [], done


def test_failed_quickstart_adds_no_remote(quickstart: Laptop, clone: Path) -> None:
    (quickstart.folder / "id_ed25519.pub").write_text(KEY)
    assert quickstart.run("up", "web1", "--repository", str(clone), "--push", CODE="1").returncode == 1
    assert remote(clone) == []


def test_verbs_are_those_of_the_host(quickstart: Laptop) -> None:
    (stub := quickstart.folder / "salt-call").write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    stub.chmod(0o755)
    path = quickstart.folder / "site/django_formula_laptop/program.py"
    path.write_text(path.read_text().replace("/opt/django-formula/salt-call", str(stub)))
    done = quickstart.run("logs", "ada@web1", "blog", "grep=a b", "--out=json", "since='$(id)'")
    assert done.stdout == "django.logs|blog|grep=a b|--out=json|since='$(id)'|", done


@pytest.mark.slow
def test_wheel_has_the_formula_and_the_program(tmp_path: Path) -> None:
    argv = ["uv", "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*argv, "--out-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    version = (ROOT / "FORMULA").read_text().partition("version: ")[2].split("\n")[0]
    assert wheel.name == f"django_formula-{version}-py3-none-any.whl" and wheel.stat().st_size < 5_000_000
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if "__pycache__" in name or "/test/" in name]
    subprocess.run(["uv", "venv", "--quiet", "--python", sys.executable, str(tmp_path / "v")], check=True)
    install = ["uv", "pip", "install", "--quiet", "--no-index", "--python", str(tmp_path / "v"), str(wheel)]
    subprocess.run(install, check=True)
    printed = subprocess.run(
        [tmp_path / "v/bin/django-formula", "--version"], check=True, capture_output=True, text=True
    )
    assert printed.stdout == f"{version}\n"
    program = "from django_formula_laptop import program; import sys; sys.stdout.buffer.write(program.archive(None))"
    sent = subprocess.run([tmp_path / "v/bin/python", "-c", program], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(sent)) as tar:
        unpacked = {member.name for member in tar.getmembers() if member.isfile()}
    tracked = subprocess.run(["git", "-C", str(ROOT), "ls-files"], check=True, capture_output=True, text=True).stdout
    needed = {
        name for name in tracked.splitlines() if name.split("/")[0] in {"django", "engine", "_modules", "_states"}
    }
    assert {f"formula/{name}" for name in needed} <= unpacked
