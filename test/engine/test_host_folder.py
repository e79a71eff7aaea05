"""Folders with an owner, a group and a mode."""

import django_host_folder
import pytest
from django_host_command import DeploymentError
from django_host_folder import Folder


def test_folder_is_created_and_its_mode_restored(make_site, tmp_path):
    site = make_site()
    assert {folder: django_host_folder.problem(folder) for folder in site.folders()} == dict.fromkeys(
        site.folders(), ""
    )
    folder = Folder(tmp_path / "one/two", "blog", "blog", 0o2750)
    assert django_host_folder.problem(folder) == "missing"
    django_host_folder.make(folder)
    assert django_host_folder.problem(folder) == ""
    folder.path.chmod(0o777)
    assert django_host_folder.problem(folder).endswith(" 0777, not blog:blog 2750")
    django_host_folder.make(folder)
    assert django_host_folder.problem(folder) == ""


@pytest.mark.parametrize("what", ["a file", "a link"])
def test_path_that_is_not_a_folder_is_refused(own_host, what):
    path = own_host / "releases"
    path.symlink_to(own_host) if what == "a link" else path.write_text("")
    with pytest.raises(DeploymentError) as error:
        django_host_folder.problem(Folder(path, "root", "root", 0o755))
    assert error.value.message == f"{path} is in the way: it is not a folder"
    assert error.value.hint == f"move it away: mv {path} {path}.aside"
