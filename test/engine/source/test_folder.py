"""A local folder as the source: it is read with the rights of the user who can write to it."""

import os
import pwd
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest
from django_formula.host import commands
from django_formula.host.commands import DeploymentError
from django_formula.source import commits, mirror, reader
from django_formula.source import folder as source_folder

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="takes the identity of users"),
    pytest.mark.slow,  # real processes that race or are waited for
]
RAY = pwd.getpwnam("nobody")


@pytest.fixture
def tmp_path(open_folder):
    return open_folder


@pytest.fixture
def ray(make_site, tmp_path):
    """Return a site that is deployed from a folder in Ray's home."""
    home = tmp_path / "home/ray"
    (home / "blog/blog").mkdir(parents=True)
    (home / "blog/manage.py").write_text("manage\r\n")
    (home / "blog/blog/models.py").write_text("models\n")
    (home / "blog/.gitignore").write_text("*.log\n")
    (home / "blog/debug.log").write_text("ignored")
    for path in [home, *home.rglob("*")]:
        os.chown(path, RAY.pw_uid, RAY.pw_gid)
    home.chmod(0o700)
    site = make_site(folder="/srv/checkout")
    site.config["folder"] = str(home / "blog")
    mirror.prepare(site, None)
    return site


def files(site, tree):
    target = site.releases / tree[:12]
    commits.export(site, tree, target)
    return {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}


def test_folder_of_a_user_is_read_as_that_user(ray):
    folder = Path(ray.config["folder"])
    tree = source_folder.tree(ray)
    expected = {"manage.py": b"manage\r\n", "blog/models.py": b"models\n", ".gitignore": b"*.log\n"}
    assert files(ray, tree) == expected
    store = ray.root / "folder.git"
    assert (store.stat().st_uid, store.stat().st_mode & 0o777) == (RAY.pw_uid, 0o700)
    assert not {path.stat().st_uid for path in ray.mirror.rglob("*")} - {0}, "no file in the mirror is owned by Ray"
    (folder / "blog/models.py").write_text("others\n")
    changed = source_folder.tree(ray)
    assert changed != tree and files(ray, changed) == {**expected, "blog/models.py": b"others\n"}
    (folder / "blog/models.py").write_text("models\n")
    assert source_folder.tree(ray) == tree


def test_folder_with_many_files_is_copied_as_a_pack(ray):
    folder = Path(ray.config["folder"])
    for number in range(150):
        (folder / f"{number}.py").write_text(f"{number}\n")
    tree = source_folder.tree(ray)
    assert len(files(ray, tree)) == 153 and list((ray.mirror / "objects/pack").glob("*.pack"))


def test_unchanged_folder_is_not_copied_again(ray, monkeypatch):
    tree = source_folder.tree(ray)
    ran = []
    run = commands.run
    monkeypatch.setattr(commands, "run", lambda argv, **options: ran.append(argv[1]) or run(argv, **options))
    assert source_folder.tree(ray) == tree
    assert ran == ["add", "write-tree"]


def test_file_that_its_user_may_not_read_is_refused(ray):
    folder = Path(ray.config["folder"])
    (folder / "secret.py").write_text("hunter2\n")
    (folder / "secret.py").chmod(0o600)
    with pytest.raises(DeploymentError, match=f"reading {folder} as {RAY.pw_name} failed") as error:
        source_folder.tree(ray)
    assert "secret.py" in error.value.log and "make all of it readable for that user" in error.value.hint


def test_folder_replaced_by_a_link_exposes_no_file_of_root(ray, tmp_path):
    """While git reads, Ray replaces a folder of the project by a link to a folder of root."""
    folder = Path(ray.config["folder"])
    secret = tmp_path / "root"
    secret.mkdir(mode=0o700)
    (secret / "models.py").write_text("hunter2\n")
    ended = threading.Event()

    def swap():
        while not ended.is_set():
            os.rename(folder / "blog", folder / "aside")
            os.symlink(secret, folder / "blog")
            time.sleep(0.001)
            os.unlink(folder / "blog")
            os.rename(folder / "aside", folder / "blog")
            time.sleep(0.001)

    attacker = threading.Thread(target=swap)
    attacker.start()
    try:
        for number in range(20):
            (folder / f"{number}.txt").write_text("")
            try:
                tree = source_folder.tree(ray)
            except DeploymentError:
                continue
            assert not [path for path, content in files(ray, tree).items() if b"hunter2" in content]
    finally:
        ended.set()
        attacker.join()


def test_damaged_repository_of_the_folder_is_created_again(ray):
    tree = source_folder.tree(ray)
    shutil.rmtree(ray.root / "folder.git/objects")
    (Path(ray.config["folder"]) / "new.py").write_text("new\n")
    changed = source_folder.tree(ray)
    assert changed != tree and "new.py" in files(ray, changed)
    (ray.root / "folder.git/HEAD").write_text("")
    assert source_folder.tree(ray) == changed


def test_folder_given_to_another_user_is_read_as_that_user(ray):
    tree = source_folder.tree(ray)
    mail = pwd.getpwnam("mail")
    subprocess.run(["chown", "-R", "mail:mail", Path(ray.config["folder"]).parent], check=True)
    assert source_folder.tree(ray) == tree
    assert (ray.root / "folder.git").stat().st_uid == mail.pw_uid
    subprocess.run(["chown", "-R", "root:root", Path(ray.config["folder"]).parent], check=True)
    assert source_folder.tree(ray) == tree


def test_folder_of_a_uid_without_a_user_refused(ray):
    subprocess.run(["chown", "-R", "54321:54321", Path(ray.config["folder"])], check=True)
    subprocess.run(["chown", "54321", Path(ray.config["folder"]).parent], check=True)
    with pytest.raises(DeploymentError, match="is owned by uid 54321, which is not a user of this host"):
        source_folder.tree(ray)


@pytest.fixture
def root_site(make_site, tmp_path):
    """Return a site that is deployed from a folder of root."""
    folder = tmp_path / "srv/blog"
    (folder / "blog").mkdir(parents=True)
    (folder / "blog/models.py").write_text("models\n")
    site = make_site(folder="/srv/checkout")
    site.config["folder"] = str(folder)
    mirror.prepare(site, None)
    return site


def test_folder_of_root_is_read_as_root(root_site):
    (Path(root_site.config["folder"]) / "blog/secret.py").touch(0o600)
    assert files(root_site, source_folder.tree(root_site)).keys() == {"blog/models.py", "blog/secret.py"}
    assert not (root_site.root / "folder.git").exists()


def test_lock_of_a_killed_git_is_removed(root_site):
    (root_site.mirror / "folder.index.lock").touch()
    assert files(root_site, source_folder.tree(root_site)).keys() == {"blog/models.py"}


def test_folder_of_root_refused_when_another_user_owns_a_folder_in_it(root_site):
    os.chown(Path(root_site.config["folder"]) / "blog", RAY.pw_uid, RAY.pw_gid)
    with pytest.raises(DeploymentError, match="but blog in it is nobody:nogroup 0755") as error:
        source_folder.tree(root_site)
    assert "add blog to its .gitignore" in error.value.hint
    (Path(root_site.config["folder"]) / ".gitignore").write_text("/blog/\n")
    assert files(root_site, source_folder.tree(root_site)).keys() == {".gitignore"}


@pytest.mark.parametrize("mode", [0o777, 0o2775])
@pytest.mark.parametrize("which", [".", ".."])
def test_folder_of_root_refused_when_other_users_may_write_to_it(root_site, mode, which):
    loose = Path(os.path.normpath(Path(root_site.config["folder"]) / which))
    os.chown(loose, 0, RAY.pw_gid)
    loose.chmod(mode)
    with pytest.raises(DeploymentError, match=f"other users may write to {loose} and replace"):
        source_folder.tree(root_site)


def test_reader_is_the_first_user_who_can_replace_the_path(tmp_path):
    home = tmp_path / "home"
    (home / "ray/inner").mkdir(parents=True)
    os.chown(home / "ray", RAY.pw_uid, RAY.pw_gid)
    (home / "link").symlink_to("ray/inner")
    (home / "absolute").symlink_to(home / "ray")
    (home / "up").symlink_to("../home/./ray")
    (home / "loop").symlink_to("loop")
    (home / "theirs").symlink_to("/")
    os.chown(home / "theirs", RAY.pw_uid, RAY.pw_gid, follow_symlinks=False)
    assert reader.reader(str(home)) == reader.ROOT
    for name in ("ray", "ray/inner", "link", "absolute", "absolute/inner", "up/inner", "theirs/root"):
        assert reader.reader(f"{home}/{name}").name == "nobody", name
    for name in ("loop", "none"):
        with pytest.raises(OSError, match=r"loop|No such file"):
            reader.reader(f"{home}/{name}")
    (home / "tmp").mkdir()
    (home / "tmp").chmod(0o1777)
    (home / "tmp/own").mkdir()
    assert reader.reader(f"{home}/tmp/own") == reader.ROOT
    with pytest.raises(DeploymentError, match="other users may write to"):
        reader.reader(f"{home}/tmp")


def test_repository_of_another_user_is_read_as_that_user(make_site, tmp_path):
    """Its references and objects may be links, which lead no further than its owner's rights."""
    secret, theirs = tmp_path / "root", tmp_path / "theirs"
    for path in (secret, theirs):
        subprocess.run(["git", "init", "-q", "-b", "main", path], check=True)
        commit = ["git", "-C", path, "-c", "user.name=A", "-c", "user.email=a@a.org", "commit", "-qm", path.name]
        (path / f"{path.name}.txt").write_text("hunter2\n")
        subprocess.run(["git", "-C", path, "add", "."], check=True)
        subprocess.run(commit, check=True)
    stolen = subprocess.run(["git", "-C", secret, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    secret.chmod(0o700)
    (theirs / ".git/objects/info/alternates").write_text(f"{secret}/.git/objects\n")
    (theirs / ".git/refs/heads/stolen").write_text(f"{stolen}\n")
    (theirs / ".git/config").open("a").write("[uploadpack]\n\tallowAnySHA1InWant = true\n")
    subprocess.run(["chown", "-R", "nobody:nogroup", theirs], check=True)
    site = make_site(repository=str(theirs))
    mirror.prepare(site, None)
    main = commits.resolve(site, "main")
    with pytest.raises(DeploymentError):
        commits.export(site, stolen, site.releases / "stolen")
    assert not list(site.releases.rglob("root.txt"))
    (theirs / ".git/refs/heads/stolen").unlink()
    commits.export(site, main, site.releases / "one")
    assert (site.releases / "one/theirs.txt").exists()
