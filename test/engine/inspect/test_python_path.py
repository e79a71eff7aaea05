"""The folders that a project is imported from."""

import pytest
from django_formula.inspect import python_path

HEAD = "import os, sys, pathlib\nfrom pathlib import Path\nBASE_DIR = Path(__file__).resolve().parent\n"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("sys.path.insert(0, 'apps')", ["web/apps"]),
        ("sys.path.append('./apps/')", ["web/apps"]),
        ("sys.path += ['apps', str(BASE_DIR / 'lib')]", ["web/apps", "web/lib"]),
        ("sys.path.extend([BASE_DIR.parent / 'src'])", ["src"]),
        ("sys.path.append('../src')", ["src"]),
        ("sys.path.insert(0, os.path.join(BASE_DIR, 'apps'))", ["web/apps"]),
        ("sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), '..', 'src'))", ["src"]),
        ("sys.path.insert(0, os.path.abspath(os.path.join(os.path.dirname(__file__), os.pardir, 'src')))", []),
        ("sys.path.insert(0, str(Path(__file__).resolve().parents[1] / 'src'))", ["src"]),
        ("ROOT = BASE_DIR.parent\nsys.path.append(str(ROOT.joinpath('src')))", ["src"]),
        ("def main():\n    here = Path(__file__).parent\n    sys.path.append(os.fspath(here / 'apps'))", ["web/apps"]),
        ("sys.path.append(os.getcwd())\nsys.path.append(str(Path.cwd() / 'apps'))", ["web/apps"]),
        ("sys.path.append(pathlib.Path('apps').absolute().as_posix())", ["web/apps"]),
        ("sys.path.append(os.path.realpath('apps') + '/x')", []),
        ("sys.path.append(str(BASE_DIR.parent))", ["."]),
        ("sys.path.append(os.environ['LIB'])\nsys.path.append(name)\nsys.path.append(5)\nsys.path.append()", []),
        ("sys.path.append('/usr/lib')\nsys.path.append('../..')\nsys.path.append('missing')\nsys.path.append('')", []),
        ("sys.path.append('apps')\nsys.path.append(BASE_DIR / 'apps')", ["web/apps"]),
        ("sys.path.append('a:b')", []),
        ("sys.path.append(Path(__file__).parents[99])\nsys.path.append(Path())\nsys.path.append('\\0')", []),
        ("sys.path.append('apps'", []),
        ("other.append('apps')", []),
    ],
)
def test_folders_that_manage_py_adds_to_sys_path_are_found(tmp_path, line, found):
    for folder in ("web/apps", "web/lib", "web/a:b", "src"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "web/manage.py").write_text(f"{HEAD}{line}\n")
    assert python_path.declared(tmp_path, "web") == found


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("[tool.setuptools.packages.find]\nwhere = ['src', 'lib']", ["src", "lib"]),
        ("[tool.setuptools.package-dir]\n'' = 'src'", ["src"]),
        ("[tool.setuptools.package-dir]\nblog = 'lib/blog'\nshop = 'src'", ["lib"]),
        ("[tool.poetry]\npackages = [{include = 'blog', from = 'src'}, {include = 'shop'}]", ["src"]),
        ("[tool.setuptools]\npackages = ['blog']\n[tool.poetry]\npackages = 5", []),
        ("[tool.setuptools.packages.find]\nwhere = 'src'\n[tool.poetry]\npackages = ['src']", []),
        ("[tool.setuptools.packages.find]\nwhere = ['.', '..', '/', 'missing', 'web']", ["."]),
        ("[tool.setuptools.packages.find", []),
        ("tool = 1", []),
    ],
)
def test_folders_of_packages_in_pyproject_are_found(tmp_path, content, found):
    for folder in ("src", "lib/blog", "web"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "pyproject.toml").write_text(content)
    assert python_path.declared(tmp_path, "web") == found


def test_pyproject_is_read_in_the_folder_of_manage_py_and_at_the_top(tmp_path):
    for folder in ("src", "web/src"):
        (tmp_path / folder).mkdir(parents=True)
    for folder in (".", "web"):
        (tmp_path / folder / "pyproject.toml").write_text("[tool.setuptools.packages.find]\nwhere = ['src']")
    assert python_path.declared(tmp_path, "web") == ["web/src", "src"]
    assert python_path.declared(tmp_path, ".") == ["src"]
    assert python_path.declared(tmp_path, "src") == []


def test_files_of_an_editor_of_windows_are_read(tmp_path):
    """They begin with a byte order mark."""
    for folder in ("apps", "src"):
        (tmp_path / folder).mkdir()
    (tmp_path / "manage.py").write_text("import sys\nsys.path.append('apps')\n", encoding="utf-8-sig")
    (tmp_path / "pyproject.toml").write_text("[tool.setuptools.packages.find]\nwhere = ['src']", encoding="utf-8-sig")
    assert python_path.declared(tmp_path, ".") == ["apps", "src"]


def test_devices_are_not_read(tmp_path):
    for name in ("manage.py", "pyproject.toml"):
        (tmp_path / name).symlink_to("/dev/zero")
    assert python_path.declared(tmp_path, ".") == []
