"""Commands: their identity, environment, output, timeouts and errors."""

import contextlib
import errno
import logging
import os
import pwd
import re
import resource
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from django_formula.host import commands
from django_formula.host.commands import Command, DeploymentError, _Progress, redact, run, seconds

as_root = pytest.mark.skipif(os.getuid() != 0, reason="left out: another identity is taken, which needs root")


@pytest.mark.parametrize(
    ("duration", "expected"),
    [("500ms", 0.5), ("1s", 1), ("30s", 30), ("5m", 300), ("12h", 43200), ("2d", 172800), ("0s", 0)],
)
def test_duration_is_converted_to_seconds(duration, expected):
    assert seconds(duration) == expected


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, "0"), (0.5, "0.5"), (15.25, "15.25"), (100.0, "100"), (999_999 * 86400.0, "86399913600")],
)
def test_seconds_have_no_exponent(length, expected):
    assert commands.number(length) == expected


@pytest.mark.parametrize("duration", ["", "5", 5, "1.5s", "5 m", "5w", "-5s", "5s\n", "999999999999d", "1000000d"])
def test_invalid_duration_is_refused(duration):
    with pytest.raises(DeploymentError, match="is not a duration"):
        seconds(duration)


@pytest.mark.parametrize(
    ("text", "secrets", "expected"),
    [
        ("key hunter2 ends", ["hunter2"], "key ********** ends"),
        ("hunter2hunter", ["hunter", "hunter2"], "********************"),
        ("an ant and more", ["an", "ant", "more"], "an ant and **********"),
        ("hunter2 is wrong", ["hunter2\n"], "********** is wrong"),
        ("connect(database='u?password=p%40s%2Fs+1')", ["p@s/s 1"], "connect(database='u?password=**********')"),
        ("p%40s/s%20 for p%40s%2Fs%20 and p%40s/s+", ["p@s/s "], "********** for ********** and **********"),
        ('{"password": "hun\\"t\\u00e9r"}', ['hun"t\xe9r'], '{"password": "**********"}'),
        ('{"password": "hun\\"t\xe9r"}', ['hun"t\xe9r'], '{"password": "**********"}'),
        ("is 'hun\\\\t\\xe9' it", ["hun\\t\xe9"], "is '**********' it"),
        (
            "12:00 -----BEGIN KEY-----\n12:00 MC4CAQAwBQYDK2Vw\n12:00 MC4CA",
            ["-----BEGIN KEY-----\nMC4CAQAwBQYDK2Vw\nMC4CA\n"],
            "12:00 **********\n12:00 **********\n12:00 MC4CA",
        ),
        ("https://ray:hunter2@git.example.org/blog.git", [], "https://**********@git.example.org/blog.git"),
        ("https://token@git.example.org/blog.git", [], "https://**********@git.example.org/blog.git"),
        ("https://ray:hun@ter2@git.example.org/", [], "https://**********@git.example.org/"),
        ("https://ray:@git.example.org/", [], "https://**********@git.example.org/"),
        ("see https://a.org/@ray and b@c.org", [], "see https://a.org/@ray and b@c.org"),
        (
            "key\n  Field required [type=missing, input_value={'a': 'hun...ter2'}, input_type=dict]\nb [type=missing, "
            "input_value={'a':\n'hun...",
            ["hunter2"],
            "key\n  Field required [type=missing, input_value=**********, input_type=dict]\nb [type=missing, "
            "input_value=**********",
        ),
    ],
)
def test_secrets_and_credentials_are_masked(text, secrets, expected):
    assert redact(text, secrets) == expected


def test_output_of_a_command_is_returned():
    assert run(["printf", r"%s\n", "a b", "$(id)"], doing="printing") == "a b\n$(id)\n"
    assert run(["cat"], doing="copying", stdin="grüße\n") == "grüße\n"


def test_long_input_is_written_to_a_command():
    text = "0123456789abcde\n" * 100_000
    assert run(["cat"], doing="copying", stdin=text) == text
    assert run(["head", "-c", "10"], doing="copying", stdin=text) == text[:10]
    assert run(["sh", "-c", "exec <&-; sleep 0.2; echo done"], doing="copying", stdin=text) == "done\n"
    assert run(["sh", "-c", "exec >&- 2>&-; cat >/dev/null"], doing="copying", stdin=text) == ""


def test_standard_error_is_returned_on_request():
    argv = ["sh", "-c", "echo out; echo err >&2"]
    assert run(argv, doing="printing") == "out\n"
    assert sorted(run(argv, doing="printing", errors_too=True).splitlines()) == ["err", "out"]


def test_command_has_a_clean_environment(monkeypatch):
    monkeypatch.setenv("SECRET", "canary")
    monkeypatch.setenv("https_proxy", "http://proxy.example.org")
    lines = run(["env"], doing="asking", environment={"LANG": "C", "MORE": "1"}).splitlines()
    assert sorted(lines) == ["HOME=/root", "LANG=C", "MORE=1", f"PATH={commands.PATH}"]
    assert commands.network_environment()["https_proxy"] == "http://proxy.example.org"
    assert "SECRET" not in commands.network_environment()


def test_command_has_the_given_folder_and_umask(tmp_path):
    old = os.umask(0o077)
    try:
        run(["touch", "made"], doing="touching", folder=str(tmp_path))
    finally:
        os.umask(old)
    assert (tmp_path / "made").stat().st_mode & 0o777 == 0o644


@as_root
def test_command_of_a_user_has_its_group_and_no_other():
    identity = pwd.getpwnam("nobody")
    told = run(["sh", "-c", "id -u; id -g; id -G; echo $HOME"], doing="asking", user="nobody").split()
    assert told == [str(identity.pw_uid), str(identity.pw_gid), str(identity.pw_gid), "/nonexistent"]


@pytest.mark.parametrize(
    ("script", "message", "log"),
    [
        ("echo out; echo err >&2; exit 3", "testing failed (exit 3)", "err\n"),
        ("echo out; exit 1", "testing failed (exit 1)", "out\n"),
        ("kill -9 $$", "testing failed (exit -9)", ""),
        (
            "echo https://a:b@c.org hunter2 >&2; exit 1",
            "testing failed (exit 1)",
            "https://**********@c.org **********\n",
        ),
        (r"printf '\377\n' >&2; exit 1", "testing failed (exit 1)", "\ufffd\n"),
    ],
)
def test_failure_has_the_output_of_the_program(script, message, log):
    with pytest.raises(DeploymentError) as error:
        run(["sh", "-c", script], doing="testing", secrets=["hunter2"], hint="look")
    assert (error.value.message, error.value.log, error.value.hint) == (message, log, "look")


def test_missing_program_is_an_error():
    with pytest.raises(DeploymentError, match=r"testing: /no/program cannot be started: No such file or directory"):
        run(["/no/program"], doing="testing")


@pytest.mark.parametrize(("argv", "hint"), [(["no-program"], "install no-program on this host"), (["/no/program"], "")])
def test_missing_program_is_to_be_installed(argv, hint):
    with pytest.raises(DeploymentError) as error:
        run(argv, doing="testing")
    assert error.value.hint == hint


@pytest.mark.parametrize(
    ("said", "transient"),
    [
        ("fatal: unable to access 'https://x/': Could not resolve host: x", True),
        ("connect to host x port 22: Connection refused", True),
        ("error: client error (Connect)", True),
        ("HTTP 503 Service Unavailable", True),
        ("OSError: [Errno 28] No space left on device", True),
        ("sqlite3.OperationalError: database is locked", True),
        ("No solution found when resolving dependencies", False),
        ("SyntaxError: invalid syntax", False),
        ("HTTP 404 Not Found", False),
    ],
)
def test_error_is_transient_by_the_output_of_the_program(said, transient):
    with pytest.raises(DeploymentError) as error:
        run(["sh", "-c", 'echo "$1"; exit 1', "sh", said], doing="testing")
    assert error.value.transient is transient


def test_command_of_a_script_of_yarn_says_why_it_fails():
    printed = (
        "$ ./fonts.sh\nfonttools is not available.\n\npip3 install fonttools\ninfo Visit https://x for documentation"
    )
    errors = "a warning\nerror Command failed with exit code 1."
    with pytest.raises(DeploymentError) as error:
        run(["sh", "-c", 'echo "$1"; echo "$2" >&2; exit 1', "sh", printed, errors], doing="testing")
    assert error.value.log == f"{errors}\n\nfonttools is not available.\npip3 install fonttools"


def test_task_of_gulp_that_yarn_runs_says_why_it_fails():
    printed = "$ gulp build\n[16:39:09] Starting 'images'...\n[16:39:09] Finished 'js' after 466 ms"
    errors = (
        "a\nwarning\n[16:39:10] 'images' errored after 680 ms\n[16:39:10] \033[31mTypeError\033[39m in plugin "
        '"\033[36mgulp-imagemin\033[39m"\nMessage:\n    fn is not a function\nDetails:\n    fileName: /srv/a.png\n'
        "    domainThrown: false\n\n[16:39:10] 'build' errored after 684 ms\nerror Command failed with exit code 1."
    )
    with pytest.raises(DeploymentError) as error:
        run(["sh", "-c", 'echo "$1"; echo "$2" >&2; exit 1', "sh", printed, errors], doing="testing")
    assert str(error.value).splitlines() == [
        "testing failed (exit 1)",
        '  | [16:39:10] TypeError in plugin "gulp-imagemin"',
        "  |     fn is not a function",
        "  | …",
        "  | error Command failed with exit code 1.",
        "  | [16:39:09] Starting 'images'...",
        "  | [16:39:09] Finished 'js' after 466 ms",
    ]


def gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has), or does so soon."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_hanging_program_is_killed_with_its_children(tmp_path):
    script = (
        f"echo before; (trap '' TERM; echo $BASHPID > {tmp_path}/child; sleep 60) & echo $$ > {tmp_path}/leader; wait"
    )
    began = time.monotonic()
    with pytest.raises(DeploymentError) as error:
        run(["bash", "-c", script], doing="testing", timeout=2, hint="hint")
    assert time.monotonic() - began < 30
    assert (error.value.message, error.value.transient) == ("testing: timed out after 2 s", True)
    assert "before" in error.value.log
    assert gone(int((tmp_path / "child").read_text())) and gone(int((tmp_path / "leader").read_text()))


@pytest.mark.parametrize(
    ("script", "cpu_of", "stood_still"),
    [
        ("sleep 60", lambda _ran: 0.2, True),
        ("sleep 60", lambda ran: ran, False),
        ("while :; do echo x; sleep 0.02; done", lambda _ran: 0.2, False),
        ("sleep 60", lambda ran: min(ran, 0.5), True),
    ],
    ids=["idle", "busy", "printing", "idle after its work"],
)
def test_error_tells_how_long_a_hanging_program_did_nothing(monkeypatch, script, cpu_of, stood_still):
    monkeypatch.setattr(commands, "PROGRESS", 0.1)
    monkeypatch.setattr(commands, "_STILL", 1.5)
    began = time.monotonic()
    with pytest.raises(commands.TimedOut) as error:
        run(["sh", "-c", script], doing="testing", timeout=2.5, cpu=lambda: cpu_of(time.monotonic() - began))
    text = r"; for the last \d s it had used no CPU and printed nothing" if stood_still else ""
    assert re.fullmatch(rf"testing: timed out after 2\.5 s{text}", error.value.message)


def test_hanging_program_receives_sigterm_first(tmp_path):
    script = f"trap 'echo ended > {tmp_path}/ended; exit' TERM; sleep 60 & wait"
    with pytest.raises(DeploymentError):
        run(["bash", "-c", script], doing="testing", timeout=2)
    assert (tmp_path / "ended").read_text() == "ended\n"


def test_children_of_a_program_are_killed_when_it_ends(tmp_path):
    run(["bash", "-c", f"(echo $BASHPID > {tmp_path}/child; exec sleep 60 >&- 2>&-) & wait -n & sleep 0.1"], doing="x")
    assert gone(int((tmp_path / "child").read_text()))


def test_program_is_killed_when_the_wait_is_interrupted(monkeypatch):
    started = []

    def interrupted(_command, process, *_arguments):
        started.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "_wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(["sleep", "60"], doing="testing")
    assert gone(started[0])


def test_secrets_are_masked_in_the_log(caplog):
    caplog.set_level(logging.DEBUG)
    with pytest.raises(DeploymentError):
        run(["sh", "-c", "echo canary; exit 1", "canary"], doing="testing", secrets=["canary"])
    run(["echo", "canary"], doing="testing", secrets=["canary"])
    assert "testing failed" in caplog.text and "canary" not in caplog.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prints", "told"),
    [
        ("", "testing takes 0 s so far"),
        (r"one\ntwo\n\n", "testing takes 0 s so far: two"),
        (r"one\rtwo \033[1m", "testing takes 0 s so far: two"),
        (r"one\n  Applying blog.0002...", "testing takes 0 s so far: Applying blog.0002..."),
        (r"one\nkey canary!", "testing takes 0 s so far: key **********!"),
        (r"one\nkey cana", "testing takes 0 s so far: one"),
        (r"one\nof several lines!", "testing takes 0 s so far: of **********!"),
        (r"one\nof several li", "testing takes 0 s so far: one"),
        (r"one\nget https://ray:hun", "testing takes 0 s so far: one"),
        (
            r"get https://ray:hunter2@pypi.example.org/\n",
            "testing takes 0 s so far: get https://**********@pypi.example.org/",
        ),
    ],
)
def test_progress_of_a_long_command_is_logged(caplog, monkeypatch, tmp_path, prints, told):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(commands, "PROGRESS", 0.1)
    line = told.partition("so far")[2]

    def look(record: logging.LogRecord) -> bool:
        if line in record.getMessage():
            (tmp_path / "seen").touch()
        return True

    secrets = ["canary", "several lines\nof a key"]
    script = f"printf '{prints}' >&2; until test -e {tmp_path}/seen; do sleep 0.05; done; cat"
    with caplog.filtering(look):  # type: ignore[arg-type]
        output = run(["sh", "-c", script], doing="testing", stdin="in", secrets=secrets, timeout=30)
    at_the_end = ": in"  # told only where a slow machine has the time for it
    assert output == "in" and {*said(caplog)} - {"", at_the_end} == {line} - {""}
    assert caplog.messages[0].startswith("testing takes ")


def said(caplog) -> list[str]:
    """The line of the output in each message; empty without one."""
    return [message.partition("so far")[2] for message in caplog.messages]


def test_progress_is_logged_once_per_line(caplog):
    caplog.set_level(logging.INFO)
    printed = [b"one\n", b"two\n"]
    progress = _Progress(Command([], doing="testing"), Mock(tails=lambda: printed))
    for printed[0] in (b"one\n", b"one\n", b"one\nthree\n", b"one\nthree\n"):
        progress.report(progress.next_time)
        progress.report(progress.next_time - 0.1)
    lines = ("15 s so far: two", "30 s so far", "45 s so far: three", "60 s so far")
    assert caplog.messages == [f"testing takes {line}" for line in lines]


@pytest.mark.slow
def test_progress_of_a_command_that_times_out_is_logged(caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(commands, "PROGRESS", 0.1)
    with pytest.raises(DeploymentError, match="timed out"):
        run(["sh", "-c", "echo one; sleep 9"], doing="testing", timeout=2)
    assert [line for line in said(caplog) if line] == [": one"]


def test_command_inherits_neither_locks_nor_files(tmp_path, monkeypatch):
    with open(tmp_path / "lock", "w") as lock, open(tmp_path / "other", "w") as other:
        os.set_inheritable(other.fileno(), True)
        monkeypatch.setattr(commands, "locks", {lock.fileno()})
        open_files = run(["ls", "-l", "/proc/self/fd"], doing="listing")
    assert str(tmp_path) not in open_files


def resident() -> int:
    """The most memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def test_endless_output_ends_a_command():
    before = resident()
    with pytest.raises(DeploymentError, match=r"^testing: it prints more than 16 MiB$"):
        run(["yes"], doing="testing")
    assert resident() - before < 80


def test_only_the_end_of_long_output_is_kept():
    before = resident()
    script = "yes begin | head -c 50000000; echo end; yes begin | head -c 50000000 >&2; echo err >&2"
    printed = run(["sh", "-c", script], doing="testing", only_the_end=True, errors_too=True)
    assert len(printed) <= 2 * commands.END and printed.endswith("err\n") and "end\n" in printed
    assert resident() - before < 80


@pytest.mark.slow
def test_command_completes_while_its_child_keeps_the_output_open(tmp_path):
    began = time.monotonic()
    assert run(["bash", "-c", f"sleep 60 & echo $! >{tmp_path}/left; echo done"], doing="testing") == "done\n"
    assert time.monotonic() - began < 30 and gone(int((tmp_path / "left").read_text()))


def test_error_shows_no_frames_of_javascript():
    frames = """
SyntaxError: no export named 'styleText'
    at ModuleJob._instantiate (node:internal/modules/esm/module_job:134:21)
    at async ModuleJob.run (node:internal/modules/esm/module_job:217:5)
    at async bundle (file:///srv/source/node_modules/vite/dist/config.js:36054:17)
    at /srv/source/a.js:1:2
    at CAC.<anonymous> (file:///srv/source/node_modules/vite/dist/cli.js:629:10)
Look at the page
"""
    assert str(DeploymentError("it failed", log=frames)).splitlines()[1:] == [
        "  | SyntaxError: no export named 'styleText'",
        "  | Look at the page",
    ]


def test_error_shows_the_last_lines_of_the_log():
    log = "".join(f"line {number}\n\n" for number in range(1, 9)) + "x" * 400
    text = str(DeploymentError("it failed", log=log, hint="do this"))
    lines = [f"  | line {number}" for number in range(5, 9)]
    assert text.splitlines() == ["it failed", *lines, f"  | {'x' * 300}", "do this"]
    assert str(DeploymentError("it failed")) == "it failed" and DeploymentError("it failed").transient is False


@pytest.mark.parametrize(
    "error",
    [
        ["ERROR in ./src/index.js 3:0-22", "Module not found: Error: Can't resolve './menu' in '/srv/source/src'"],
        ['✘ [ERROR] Could not resolve "./menu"', "    src/index.js:3:7:"],
        ["error during build:", '[vite]: Rollup failed to resolve import "./menu" from "src/index.js".'],
        ["src/index.ts(3,7): error TS2307: Cannot find module './menu'.", "Found 1 error."],
        ["npm ERR! code ERESOLVE", "npm ERR! ERESOLVE unable to resolve dependency tree"],
        ["npm error code EUSAGE", "npm error `npm ci` can only install packages with an existing package-lock.json"],
        ['error Couldn\'t find package "menu@1" required by "site@1".', "info Visit https://yarnpkg.com"],
        ["Error: Can't find stylesheet to import.", "  ╷"],
        [
            "   _mysql.c:1968:48: error: 'MYSQL' has no member named 'reconnect'",
            "    1968 |  self->connection.reconnect",
        ],
        ["   a.c:1:9: fatal error: longintrepr.h: No such file", "    1 | #include <longintrepr.h>"],
    ],
)
def test_error_shows_the_first_error_of_a_front_end_or_compiler(error):
    """The end of such an output tells what it leads to, or where the log is."""
    after = [f"line {number}" for number in range(1, 9)]
    lines = str(DeploymentError("it failed", log="\n".join(["begin", *error, *after]))).splitlines()
    assert lines[1:] == [f"  | {line}" for line in [*error, "…", *after[-3:]]]
    lines = str(DeploymentError("it failed", log="\n".join(["begin", *error, *after[:5]]))).splitlines()
    assert lines[1:] == [f"  | {line}" for line in [*error, "…", *after[2:5]]]
    lines = str(DeploymentError("it failed", log="\n".join(["begin", *error, *after[:3]]))).splitlines()
    assert lines[1:] == [f"  | {line}" for line in [*error, *after[:3]]]


def test_error_shows_what_a_program_printed_where_another_reports_its_failure():
    """Webpack prints its errors to standard output, and npm that webpack failed to standard error."""
    script = """
printf 'asset a.js\\n\\nERROR in ./src/index.js\\nModule not found: secret\\n    at x (node:internal/a.js:1:2)\\nend\\n'
for n in 1 2 3 4 5 6; do echo "npm ERR! $n" >&2; done
exit 1
"""
    with pytest.raises(DeploymentError) as error:
        run(["sh", "-c", script], doing="building", secrets=["secret"])
    assert str(error.value).splitlines() == [
        "building failed (exit 1)",
        "  | ERROR in ./src/index.js",
        "  | Module not found: **********",
        "  | …",
        *(f"  | npm ERR! {number}" for number in range(4, 7)),
    ]


@pytest.mark.parametrize("time", ["", "2026-11-22T06:00:00.000Z "])
def test_error_shows_no_frames_of_programs_of_the_formula(time):
    own = (
        '  File "/srv/django/blog/releases/1/config/django_formula_start.py", line 7, in main\n    main()\n    ~~~~^^\n'
    )
    own += '  File "<string>", line 9, in <module>'
    foreign = '  File "/srv/django/blog/releases/1/source/blog/wsgi.py", line 3, in <module>\n    start()'
    header = "Traceback (most recent call last):"
    log = "\n".join([header, own, "KeyError: 1", header, own, foreign, own, "ValueError: 2"])
    shown = ["it failed", "KeyError: 1", header, *foreign.splitlines(), "ValueError: 2"]
    log = "\n".join(f"{time}{line}" for line in log.splitlines())
    text = str(DeploymentError("it failed", log=log))
    assert [line.replace(f"  | {time}", "") for line in text.splitlines()] == shown


@pytest.mark.parametrize(("number", "transient"), [(errno.EMFILE, True), (errno.ENOENT, False)])
def test_too_many_open_files_is_a_transient_error(monkeypatch, number, transient):
    def refuse(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(commands.subprocess, "Popen", refuse)
    with pytest.raises(DeploymentError, match=os.strerror(number)) as error:
        commands.run(["true"], doing="x")
    assert error.value.transient is transient


def test_log_of_an_error_is_shown_without_colours():
    log = "\x1b[2m2026-11-24\x1b[0m [\x1b[32m\x1b[1minfo     \x1b[0m] request_finished \x1b[36mcode\x1b[0m=404"
    error = DeploymentError("health check failed", log=log)
    assert str(error) == "health check failed\n  | 2026-11-24 [info     ] request_finished code=404"


def test_what_a_command_prints_when_it_is_ended_is_no_progress():
    script = "trap 'echo disconnected >&2; exit 1' TERM; while :; do sleep 0.05; done"
    with pytest.raises(DeploymentError, match=r"no progress for 2 s") as error:
        run(["sh", "-c", script], doing="fetching", timeout=30, stall=2)
    assert "disconnected" in error.value.log


def test_command_ends_with_a_process_that_is_killed(tmp_path):
    """What a killed process has begun does not act later, when another has taken over."""
    started, acts, late = tmp_path / "started", tmp_path / "acts", tmp_path / "late"
    for is_ending in (True, False):
        child = os.fork()
        if not child:
            script = f"echo $$ >{started}; until test -e {acts}; do sleep 0.02; done; touch {late}"
            with commands.ending_with_this_process() if is_ending else contextlib.nullcontext():
                commands.run(["sh", "-c", script], doing="waiting")
            os._exit(0)
        while not started.exists() or not started.read_text():
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert not is_ending or gone(int(started.read_text()))
        acts.touch()
        while not is_ending and not late.exists():
            time.sleep(0.05)
        assert late.exists() is not is_ending
        started.unlink()
        acts.unlink()
