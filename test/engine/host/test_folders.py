"""Folders with an owner, a group and a mode."""

import pytest
from django_formula.host import folders
from django_formula.host.commands import DeploymentError
from django_formula.host.folders import Folder


def test_folder_is_created_and_its_mode_restored(make_site, tmp_path):
    site = make_site()
    assert {folder: folders.problem(folder) for folder in site.folders()} == dict.fromkeys(site.folders(), "")
    folder = Folder(tmp_path / "one/two", "blog", "blog", 0o2750)
    assert folders.problem(folder) == "missing"
    folders.make(folder)
    assert folders.problem(folder) == ""
    folder.path.chmod(0o777)
    assert folders.problem(folder).endswith(" 0777, not blog:blog 2750")
    folders.make(folder)
    assert folders.problem(folder) == ""


@pytest.mark.parametrize("what", ["a file", "a link"])
def test_path_that_is_not_a_folder_is_refused(own_host, what):
    path = own_host / "releases"
    path.symlink_to(own_host) if what == "a link" else path.write_text("")
    with pytest.raises(DeploymentError) as error:
        folders.problem(Folder(path, "root", "root", 0o755))
    assert error.value.message == f"{path} is in the way: it is not a folder"
    assert error.value.hint == f"move it away: mv {path} {path}.aside"
