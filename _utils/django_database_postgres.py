"""PostgreSQL on this host: asked by one query what it has, and told by psql what a site lacks."""

import base64
import hashlib
import hmac
import json
import re
import secrets as secrets_module
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import django_database
import django_host_command
import django_host_file
import django_host_service
from django_database import Lack, Share, mark
from django_host_command import DeploymentError

PORT = 5432
#: Where Debian and the project's own packages have each version; psql on PATH is a wrapper that costs twice as much.
PROGRAMS = Path("/usr/lib/postgresql")
_ITERATIONS = 4096
_QUESTION = """
SELECT json_build_object(
  'hba', current_setting('hba_file'),
  'ident', current_setting('ident_file'),
  'loaded', extract(epoch FROM pg_conf_load_time()),
  'roles', (SELECT json_object_agg(rolname, json_build_object(
      'mark', shobj_description(oid, 'pg_authid'), 'login', rolcanlogin, 'verifier', rolpassword,
      'rights', rolsuper OR rolcreaterole OR rolreplication,
      'of', (SELECT json_agg(pg_get_userbyid(roleid)) FROM pg_auth_members WHERE member = oid))) FROM pg_authid),
  'databases', (SELECT json_object_agg(datname, json_build_object(
      'mark', shobj_description(oid, 'pg_database'), 'owner', pg_get_userbyid(datdba),
      'acts', (SELECT json_object_agg(pg_get_userbyid(setrole), one) FROM pg_db_role_setting, unnest(setconfig) one
               WHERE setdatabase = d.oid AND one LIKE 'role=%'),
      'open', EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))
                      WHERE grantee = 0 AND privilege_type = 'CONNECT'))) FROM pg_database d))
"""


def is_installed() -> bool:
    """Whether there is a server of this kind on this host, whoever has installed it."""
    return any(PROGRAMS.glob("*/bin/postgres"))


def is_running() -> bool:
    """Whether one runs."""
    return django_host_service.pid(django_host_service.POSTGRES) is not None


def ask(share: Share) -> dict[str, Any]:
    """What the server of a share has: roles, databases, the files that say who may log in, and their texts.

    Raises:
        DeploymentError: it does not answer.
    """
    answer: dict[str, Any] = json.loads(_psql(share, _QUESTION, doing="asking PostgreSQL"))
    files = {kind: Path(answer[kind]) for kind in ("hba", "ident")}
    texts = {kind: django_host_file.read_text(path) or "" for kind, path in files.items()}
    unread = [kind for kind, path in files.items() if path.exists() and path.stat().st_mtime > answer["loaded"]]
    return {**answer, "texts": texts, "unread": unread}


def nothing() -> dict[str, Any]:
    """What a server has that is still to be installed."""
    return {"hba": "pg_hba.conf", "ident": "pg_ident.conf", "roles": {}, "databases": {}, "texts": {}, "unread": []}


def login(share: Share, answer: Mapping[str, Any]) -> str:
    """The login for a password: the one that has it; where none has, the one that the live release does not use.

    A role has one password, so a new one comes with the other role of the pair.
    """
    roles = answer["roles"].items()
    kept = {name: role["verifier"] or "" for name, role in roles if role["mark"] == mark(share.site)}
    for user in (share.user, share.other):
        if fits(kept.get(user, ""), share.password or "", user):
            return user
    return share.other if share.live and kept.get(share.user) else share.user


def lacks(shares: Sequence[Share], answer: Mapping[str, Any]) -> list[Lack]:
    """What a site lacks on a server.

    Raises:
        DeploymentError: somebody else has what the site would have.
    """
    found: dict[str, Lack] = {}
    users = {share.user for share in shares}
    for share in shares:
        former = _former(share, answer) if share.other not in users else ()
        for lack in (*_role(share, answer), *_database(share, answer), *former):
            found[lack.what] = lack
    return [*found.values(), *_access(shares[0].site, shares, answer)]


def _role(share: Share, answer: Mapping[str, Any]) -> Iterable[Lack]:
    name, role = _name(share.user), answer["roles"].get(share.user)
    what = f"role {share.user}"
    secret = f" PASSWORD {_text(verifier(share.password))}" if share.password else ""
    if role is None:
        made = f"BEGIN; CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEROLE CREATEDB{secret};"
        yield Lack(what, "new", [f"{made} COMMENT ON ROLE {name} IS {_text(mark(share.site))}; COMMIT;"])
        return
    if not role["login"] or (role["rights"] and role["mark"] != mark(share.site)):
        problem = "cannot log in" if not role["login"] else "may do more on this server than own a database"
        raise DeploymentError(
            f"there is a role {share.user} in PostgreSQL already, and it {problem}",
            hint=f"choose another: {share.at}:user; or use the server as it is: {share.at}:manage: false",
        )
    if share.password and not fits(role["verifier"] or "", share.password, share.user):
        if role["mark"] != mark(share.site):
            raise DeploymentError(
                f"there is a role {share.user} in PostgreSQL already, with another password",
                hint=f"choose another: {share.at}:user; or give its password: {share.at}:password",
            )
        yield Lack(what, "password changed", [f"ALTER ROLE {name}{secret};"])


def _former(share: Share, answer: Mapping[str, Any]) -> Iterable[Lack]:
    """The other login of a pair is closed when nothing runs any more that has its password."""
    role = answer["roles"].get(share.other, {})
    if share.alone and role.get("verifier") and role["mark"] == mark(share.site):
        yield Lack(f"role {share.other}", "password taken away", [f"ALTER ROLE {_name(share.other)} PASSWORD NULL;"])


def _database(share: Share, answer: Mapping[str, Any]) -> Iterable[Lack]:
    name, database = _name(share.database), answer["databases"].get(share.database)
    what = f"database {share.database}"
    close = f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;"
    if database is None:
        made = f"CREATE DATABASE {name} OWNER {_name(share.user)} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';"
        yield Lack(what, "new", [made, close, f"COMMENT ON DATABASE {name} IS {_text(mark(share.site))};"])
        return
    owner, role = answer["roles"].get(database["owner"], {}), answer["roles"].get(share.user, {})
    if database["owner"] != share.user and owner.get("mark") == mark(share.site):
        acts = (database["acts"] or {}).get(share.user)
        if database["owner"] not in (role.get("of") or ()) or acts != f"role={database['owner']}":
            yield _stands_for(share, database["owner"])
    elif database["owner"] != share.user:
        raise DeploymentError(
            f"there is a database {share.database} in PostgreSQL already, and {database['owner']} owns it",
            hint=f"choose another: {share.at}:name; or the login that owns it: {share.at}:user; "
            f"or use the server as it is: {share.at}:manage: false",
        )
    if database["open"] and mark(share.site) in (database["mark"], role.get("mark")):
        yield Lack(what, "closed to others", [close])


def _stands_for(share: Share, owner: str) -> Lack:
    """Another login of the site, beside the one that owns its database; what it makes is the owner's."""
    user, database = _name(share.user), _name(share.database)
    member = f"GRANT {_name(owner)} TO {user}; ALTER ROLE {user} IN DATABASE {database} SET role = {_text(owner)};"
    return Lack(f"membership of {share.user}", f"of {owner}", [f"BEGIN; {member} COMMIT;"])


def _access(site: str, shares: Sequence[Share], answer: Mapping[str, Any]) -> Iterable[Lack]:
    """Lines of the server's own files, before those of others, where Debian's do not let a login in as it is meant.

    Debian's let a system user in over the socket as the role of its name, and everybody with a password over TCP.
    What lets another role of the site in stays: it may be the one that the live release uses, or one before it. A line
    is for all databases, for a backup is loaded into one of another name; what a role may open, its rights say.
    """
    hba, ident = [], []
    for share in shares:
        if share.over_socket and share.password:
            pair = {user: f'local all "{user}" scram-sha-256' for user in (share.user, share.other)}
            if share.live and share.user in answer["roles"] and pair[share.user] not in answer["texts"].get("hba", ""):
                raise django_database.in_use(share)
            hba += [pair[user] for user in sorted(pair)]
        elif share.over_socket and share.user != share.system_user:
            hba.append(f'local all "{share.user}" peer map=django-{site}')
            ident.append(f'django-{site} "{share.system_user}" "{share.user}"')
    now = {user for share in shares for user in (share.user, *([share.other] if share.password else []))}
    former = {name for name, role in answer["roles"].items() if shares and role["mark"] == mark(site)} - now
    for kind, lines in (("hba", [*dict.fromkeys(hba)]), ("ident", [*dict.fromkeys(ident)])):
        text = answer["texts"].get(kind, "")
        lines += [line for line in _lines(text, site) if _who(line) in former]
        wanted = _with_lines(text, site, lines)
        if wanted != text or (lines and kind in answer["unread"]):
            yield Lack(Path(answer[kind]).name, "changed", files={answer[kind]: wanted})


def _block(site: str) -> str:
    """What matches a site's lines in a file, as a group, with those around them."""
    begin, end = (re.escape(f"# django-formula: {text}{site}\n") for text in ("", "end of "))
    return f"(?ms)^{begin}(.*?)^{end}"


def _lines(text: str, site: str) -> list[str]:
    found = re.search(_block(site), text)
    return found[1].splitlines() if found else []


def _who(line: str) -> str:
    """The login that a line lets in."""
    return "".join(line.split()[2:3]).strip('"')


def _with_lines(text: str, site: str, lines: Iterable[str]) -> str:
    """The text of a file with a site's lines at its head, and no others of that site."""
    rest = re.sub(_block(site), "", text)
    block = "".join(f"{line}\n" for line in lines)
    return f"# django-formula: {site}\n{block}# django-formula: end of {site}\n{rest}" if block else rest


def make(share: Share, lacking: Sequence[Lack]) -> None:
    """Make what is lacking on the server of a share.

    Raises:
        DeploymentError: the server refuses it.
    """
    statements = [statement for lack in lacking for statement in lack.statements]
    if statements:
        _psql(share, "\n".join(statements), doing="setting PostgreSQL up")
    files = {path: text for lack in lacking for path, text in lack.files.items()}
    for path, text in files.items():
        django_host_file.write(Path(path), text, mode=0o640, user="postgres", group="postgres")
    if files:
        _psql(share, "SELECT pg_reload_conf();", doing="reloading PostgreSQL")


def belongings(share: Share, answer: Mapping[str, Any]) -> list[Lack]:
    """What was made for a site on a server, and how it is dropped."""
    ours = [name for name, role in answer["roles"].items() if role["mark"] == mark(share.site)]
    databases = [
        name
        for name, database in answer["databases"].items()
        if database["mark"] == mark(share.site) or database["owner"] in ours
    ]
    return [
        *(Lack(f"database {name}", "dropped", [f"DROP DATABASE {_name(name)} WITH (FORCE);"]) for name in databases),
        *(Lack(f"role {name}", "dropped", [f"DROP ROLE {_name(name)};"]) for name in ours),
        *_access(share.site, [], answer),
    ]


def verifier(password: str, salt: bytes = b"") -> str:
    """What a server keeps of a password, made here so that no statement and no log of the server has the password."""
    salt = salt or secrets_module.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", unicodedata.normalize("NFKC", password).encode(), salt, _ITERATIONS)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    parts = [base64.b64encode(part).decode() for part in (salt, stored, hmac.digest(salted, b"Server Key", "sha256"))]
    return f"SCRAM-SHA-256${_ITERATIONS}:{parts[0]}${parts[1]}:{parts[2]}"


def fits(kept: str, password: str, user: str) -> bool:
    """Whether what a server keeps is of this password."""
    found = re.fullmatch(rf"SCRAM-SHA-256\${_ITERATIONS}:([^$]+)\$.*", kept)
    if found:
        return hmac.compare_digest(kept, verifier(password, base64.b64decode(found[1])))
    return kept == "md5" + hashlib.md5(f"{password}{user}".encode(), usedforsecurity=False).hexdigest()


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _version(program: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", program.parts[-3])]


def _psql(share: Share, text: str, *, doing: str) -> str:
    newest = max(PROGRAMS.glob("*/bin/psql"), key=_version, default=Path("psql"))
    port = share.port or PORT
    argv = [str(newest), "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password"]
    argv += ["--set=ON_ERROR_STOP=1", "--dbname=postgres", f"--port={port}"]
    return django_host_command.run(
        [*argv, *([f"--host={share.socket}"] if share.socket else [])],
        doing=doing,
        user="postgres",
        environment={"PGCONNECT_TIMEOUT": "10"},
        timeout=60,
        stdin=text,
        secrets=re.findall(r"SCRAM-SHA-256\$[^']+", text),
        hint=f"does it run, on port {port}? Else {share.at}:port; and {share.at}:manage: false leaves it alone",
    )
