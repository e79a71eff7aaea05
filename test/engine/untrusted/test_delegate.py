"""Functions that run with the rights of a less trusted user, within limits."""

import os
import pwd
import time
from pathlib import Path

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import delegate
from django_formula.untrusted.foreign import Foreign

pytestmark = pytest.mark.skipif(os.getuid() != 0, reason="left out: another identity is taken, which needs root")


def ask(function, *arguments, **options):
    return delegate.ask("nobody", function, *arguments, **options)


def test_process_has_irrevocably_become_the_user():
    def look():
        with pytest.raises(PermissionError):
            os.setuid(0)
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return [os.getresuid(), os.getresgid(), os.getgroups(), status["NoNewPrivs"].strip(), status["CapEff"].strip()]

    identity = pwd.getpwnam("nobody")
    assert ask(look) == [[identity.pw_uid] * 3, [identity.pw_gid] * 3, [], "1", "0" * 16]


def test_process_has_no_descriptors_and_may_use_paths(tmp_path):
    with open(tmp_path / "lock", "w") as lock:
        os.set_inheritable(lock.fileno(), True)
        descriptors = ask(lambda: len(os.listdir("/proc/self/fd")))
    assert descriptors == 5  # three, that of the answer, and that of this folder
    assert ask(lambda: str(Foreign(tmp_path).path)) == str(tmp_path)


def test_unreadable_file_is_an_error(tmp_path):
    with pytest.raises(DeploymentError) as error:
        ask(lambda: Path("/etc/shadow").read_text(), doing="reading")
    hint = "nobody may not open it, or the target of a link in its path"
    assert str(error.value) == f"reading: /etc/shadow: Permission denied\n{hint}" and not error.value.transient


def test_errors_are_raised_again():
    def fail():
        raise DeploymentError("it failed", log="a log", hint="a hint", transient=True)

    with pytest.raises(DeploymentError) as error:
        ask(fail)
    assert (str(error.value), error.value.transient) == ("it failed\n  | a log\na hint", True)
    with pytest.raises(DeploymentError, match=r"reading: RecursionError: "):
        ask(lambda: _forever(), doing="reading")
    with pytest.raises(DeploymentError, match=r"reading: TypeError: "):
        ask(lambda: {1, 2}, doing="reading")


def _forever():
    return _forever()


def test_process_has_limits():
    began = time.monotonic()
    with pytest.raises(DeploymentError, match=r"^reading: timed out after 0\.3 s$") as error:
        ask(time.sleep, 60, doing="reading", timeout=0.3)
    assert error.value.transient and time.monotonic() - began < 30
    with pytest.raises(DeploymentError, match=r"^reading: (MemoryError|it ended without)"):
        ask(lambda: len(bytearray(1 << 30)), doing="reading", memory=100 << 20)
    with pytest.raises(DeploymentError, match="it ended without an answer"):
        ask(lambda: "x" * (17 << 20), doing="reading")
    with pytest.raises(DeploymentError, match="it ended without an answer"):
        ask(lambda: os.kill(os.getpid(), 9), doing="reading")


def test_process_is_waited_for():
    child = ask(os.getpid)
    assert not Path(f"/proc/{child}").exists()


def test_process_may_have_weeks():
    assert ask(lambda: 7, timeout=60 * 86400.0) == 7
    assert ask(lambda: 7, timeout=999_999 * 86400.0) == 7
