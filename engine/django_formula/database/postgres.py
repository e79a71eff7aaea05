"""Set PostgreSQL up on this host: read its state with one query, and make roles and databases with psql."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from django_formula.database import engines, server
from django_formula.database.engines import POSTGRES
from django_formula.database.server import Change, DatabaseServer, ManagedDatabase, Network, owner_comment
from django_formula.host import commands, daemons, file
from django_formula.host.commands import DeploymentError
from django_formula.untrusted import delegate

#: The user of Debian's servers.
_USER = "postgres"
#: Where Debian and the PostgreSQL project's packages install each version; psql in PATH is a wrapper, twice as slow.
PROGRAMS = Path("/usr/lib/postgresql")
#: What the formula has of an archive of the servers of this host, and pgbackrest's configuration there.
ARCHIVE = Path("/var/lib/django-formula/points")
ARCHIVED = ARCHIVE / "pgbackrest.conf"
#: The user that PgBouncer runs as, and the name in pg_ident.conf for the logins that it has.
POOL_USER = "_django-pool"
POOL = "django-pool"
#: The certificate that Debian makes for each host, which nothing can check.
_SNAKEOIL = "/etc/ssl/certs/ssl-cert-snakeoil.pem"
_STATE = """
SELECT json_build_object(
  'hba', current_setting('hba_file'),
  'ident', current_setting('ident_file'),
  'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN
      ('listen_addresses', 'max_connections', 'ssl', 'ssl_cert_file', 'ssl_key_file')),
  'loaded', extract(epoch FROM pg_conf_load_time()),
  'roles', (SELECT json_object_agg(rolname, json_build_object(
      'comment', shobj_description(oid, 'pg_authid'), 'login', rolcanlogin, 'verifier', rolpassword,
      'rights', rolsuper OR rolcreaterole OR rolreplication,
      'member_of', (SELECT json_agg(pg_get_userbyid(roleid)) FROM pg_auth_members WHERE member = a.oid)))
      FROM pg_authid a),
  'databases', (SELECT json_object_agg(datname, json_build_object(
      'comment', shobj_description(oid, 'pg_database'), 'owner', pg_get_userbyid(datdba),
      'acts_as', (SELECT json_object_agg(pg_get_userbyid(setrole), one) FROM pg_db_role_setting, unnest(setconfig) one
               WHERE setdatabase = d.oid AND one LIKE 'role=%'),
      'is_public', EXISTS (SELECT FROM aclexplode(coalesce(datacl, acldefault('d', datdba)))
                      WHERE grantee = 0 AND privilege_type = 'CONNECT'))) FROM pg_database d))
"""


class PostgreSQLServer(DatabaseServer):
    """PostgreSQL."""

    engine = POSTGRES
    daemon = daemons.POSTGRES

    def is_installed(self) -> bool:
        return any(PROGRAMS.glob("*/bin/postgres"))

    def address(self, database: ManagedDatabase) -> tuple[Any, ...]:
        return (database.socket, database.port or POSTGRES.port)

    def query(self, database: ManagedDatabase) -> dict[str, Any]:
        """Return roles, databases, and the paths and contents of the files that configure authentication.

        These are read and written as the server's user, who names them, and may replace a folder above them by a link.
        """
        state: dict[str, Any] = json.loads(_psql(database, _STATE, doing="querying PostgreSQL"))
        files = {kind: Path(state[kind]) for kind in ("hba", "ident")}
        texts = delegate.ask(_USER, _texts, files, doing="reading how PostgreSQL authenticates")
        unread = [kind for kind, path in files.items() if path.exists() and path.stat().st_mtime > state["loaded"]]
        return {**state, "texts": texts, "unread": unread}

    def empty_state(self) -> dict[str, Any]:
        return {"hba": "pg_hba.conf", "ident": "pg_ident.conf", "roles": {}, "databases": {}, "texts": {}, "unread": []}

    def login(self, database: ManagedDatabase, state: Mapping[str, Any]) -> str:
        """Return the login that has the password, or the one that the active release does not use.

        A role has a single password, so a new password comes with the other role of the pair.
        """
        comment, roles = owner_comment(database.site), state["roles"].items()
        verifiers = {name: role["verifier"] or "" for name, role in roles if role["comment"] == comment}
        for user in (database.user, database.other_user):
            if engines.is_verifier_of(verifiers.get(user, ""), database.password or "", user):
                return user
        is_used = database.has_active_release and verifiers.get(database.user)
        return database.other_user if is_used else database.user

    def pending_changes(self, databases: Sequence[ManagedDatabase], state: Mapping[str, Any]) -> list[Change]:
        found: dict[str, Change] = {}
        users = {database.user for database in databases}
        for database in databases:
            closing = _close_former_login(database, state) if database.other_user not in users else ()
            found_there = (*_role(database, state), *_database(database, state), *_extensions(database, state))
            for change in (*found_there, *closing):
                found[change.item] = change
        return [*found.values(), *_authentication(databases[0].site, databases, state)]

    def network_changes(self, network: Network, state: Mapping[str, Any]) -> list[Change]:
        """Return changes of `postgresql.auto.conf`, which overrides other files, and of the certificate."""
        return [*_settings(network, state), *_certificate(network, state)]

    def apply_network(self, database: ManagedDatabase, changes: Sequence[Change]) -> None:
        files = {path: text for change in changes for path, text in change.files.items()}
        server.write_certificate(files, "postgres")
        statements = [statement for change in changes for statement in change.statements]
        _psql(database, "\n".join([*statements, "SELECT pg_reload_conf();"]), doing="setting PostgreSQL up")
        if any(change.restarts for change in changes):
            server.start_after_network("postgresql@")
            daemons.restart(self.daemon)

    def end_others(self, database: ManagedDatabase) -> None:
        _psql(database, _end_others(database), doing="ending connections of other hosts")

    def closing_changes(self, database: ManagedDatabase, state: Mapping[str, Any]) -> list[Change]:
        return [*_authentication(database.site, [], state)]

    def removals(self, database: ManagedDatabase, state: Mapping[str, Any]) -> list[Change]:
        comment = owner_comment(database.site)
        roles = [name for name, role in state["roles"].items() if role["comment"] == comment]
        names = [
            name for name, found in state["databases"].items() if found["comment"] == comment or found["owner"] in roles
        ]
        return [
            *(Change(f"database {name}", "dropped", [f"DROP DATABASE {_name(name)} WITH (FORCE);"]) for name in names),
            *(Change(f"role {name}", "dropped", [f"DROP ROLE {_name(name)};"]) for name in roles),
            *_authentication(database.site, [], state),
        ]

    def apply(self, database: ManagedDatabase, changes: Sequence[Change]) -> None:
        statements = [statement for change in changes for statement in change.statements]
        if statements:
            _set_up(database, "\n".join(statements))
        files = {path: text for change in changes for path, text in change.files.items()}
        for path, text in files.items():
            delegate.ask(_USER, _write, Path(path), text, doing="changing how PostgreSQL authenticates")
        if files:
            _psql(database, "SELECT pg_reload_conf();", doing="reloading PostgreSQL")


def _texts(files: Mapping[str, Path]) -> dict[str, str]:
    return {kind: file.read_text(path) or "" for kind, path in files.items()}


def _write(path: Path, text: str) -> None:
    file.write(path, text, mode=0o640, user=_USER, group=_USER)


def _settings(network: Network, state: Mapping[str, Any]) -> Iterable[Change]:
    settings = state["settings"]
    present = settings["listen_addresses"].replace(" ", "").split(",")
    places = server.listening([*filter(None, present)], network.address)
    if places != present:
        text = ",".join(places)
        statement = f"ALTER SYSTEM SET listen_addresses = {_text(text)};"
        yield Change("listen_addresses", f"{text}; PostgreSQL is restarted", [statement], restarts=True)
    number = server.enough(network.connections, int(settings["max_connections"]))
    if number != int(settings["max_connections"]):
        statement = f"ALTER SYSTEM SET max_connections = {number};"
        yield Change("max_connections", f"{number}; PostgreSQL is restarted", [statement], restarts=True)


def _certificate(network: Network, state: Mapping[str, Any]) -> Iterable[Change]:
    settings, (certificate, key) = state["settings"], server.certificate_files(POSTGRES)
    used = settings["ssl_cert_file"]
    if settings["ssl"] == "on" and used not in (str(certificate), _SNAKEOIL):
        raise DeploymentError(
            f"PostgreSQL on this host has a certificate of its own, {used}, which its other clients may rely on",
            hint="use it as a server elsewhere: set database:host, and take the part database out of hosts",
        )
    wanted = {"ssl": "on", "ssl_cert_file": str(certificate), "ssl_key_file": str(key)}
    statements = [
        f"ALTER SYSTEM SET {name} = {_text(value)};" for name, value in wanted.items() if settings[name] != value
    ]
    files = {str(certificate): network.certificate, str(key): network.key}
    is_unread = certificate.exists() and certificate.stat().st_mtime > state["loaded"]
    if statements or is_unread or server.differ(files):
        yield Change("certificate", "new", statements, files)


def _end_others(database: ManagedDatabase) -> str:
    """Return the statement that ends the connections of a login from hosts that may not use it."""
    allowed = ", ".join(f"{_text(client)}::inet" for client in database.clients)
    users = ", ".join(_text(user) for user in database.users)
    login, elsewhere = f"usename IN ({users})", f"NOT client_addr = ANY (ARRAY[{allowed}]::inet[])"
    end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    return f"{end} WHERE {login} AND client_addr IS NOT NULL AND {elsewhere};"


def _role(database: ManagedDatabase, state: Mapping[str, Any]) -> Iterable[Change]:
    name, role = _name(database.user), state["roles"].get(database.user)
    comment, item = owner_comment(database.site), f"role {database.user}"
    kept = database.verifier or (engines.postgres_verifier(database.password) if database.password else "")
    password = f" PASSWORD {_text(kept)}" if kept else ""
    if role is None:
        create = f"BEGIN; CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEROLE CREATEDB{password};"
        yield Change(item, "new", [f"{create} COMMENT ON ROLE {name} IS {_text(comment)}; COMMIT;"])
        return
    if not role["login"] or (role["rights"] and role["comment"] != comment):
        problem = "cannot log in" if not role["login"] else "has rights beyond its own databases"
        raise DeploymentError(
            f"PostgreSQL already has a role {database.user} that is not the site's, and it {problem}",
            hint=f"set {database.key}:user to another name{database.or_as_it_is}",
        )
    if not _is_kept(database, role["verifier"] or ""):
        if role["comment"] != comment:
            raise DeploymentError(
                f"PostgreSQL already has a role {database.user} that is not the site's, with another password",
                hint=f"set {database.key}:user to another name{database.or_its_password}",
            )
        if database.verifier and database.has_active_release and role["verifier"]:
            raise server.login_in_use(database)
        yield Change(item, "password changed", [f"ALTER ROLE {name}{password};"])


def _is_kept(database: ManagedDatabase, stored: str) -> bool:
    """Return whether what a server stores of a role's password is that of the database."""
    if database.verifier:
        return stored == database.verifier
    return not database.password or engines.is_verifier_of(stored, database.password, database.user)


def _close_former_login(database: ManagedDatabase, state: Mapping[str, Any]) -> Iterable[Change]:
    """Yield the change that closes the other login of a pair, once no process uses its password any more."""
    role = state["roles"].get(database.other_user, {})
    is_over = database.is_password_active or (database.clients and not database.former)
    if is_over and role.get("verifier") and role["comment"] == owner_comment(database.site):
        statement = f"ALTER ROLE {_name(database.other_user)} PASSWORD NULL;"
        yield Change(f"role {database.other_user}", "password removed", [statement])


def _database(database: ManagedDatabase, state: Mapping[str, Any]) -> Iterable[Change]:
    name, found = _name(database.database), state["databases"].get(database.database)
    comment, item = owner_comment(database.site), f"database {database.database}"
    close = f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;"
    if found is None:
        options = f"OWNER {_name(database.user)} TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8'"
        mark = f"COMMENT ON DATABASE {name} IS {_text(comment)};"
        yield Change(item, "new", [f"CREATE DATABASE {name} {options};", close, mark])
        return
    owner, role = state["roles"].get(found["owner"], {}), state["roles"].get(database.user, {})
    if found["owner"] != database.user and owner.get("comment") == comment:
        acts_as = (found["acts_as"] or {}).get(database.user)
        if found["owner"] not in (role.get("member_of") or ()) or acts_as != f"role={found['owner']}":
            yield _membership(database, found["owner"])
    elif found["owner"] != database.user:
        raise DeploymentError(
            f"PostgreSQL already has a database {database.database}, owned by {found['owner']}",
            hint=f"set {database.key}:name to another name; or {database.key}:user to {found['owner']}"
            f"{database.or_as_it_is}",
        )
    if found["is_public"] and comment in (found["comment"], role.get("comment")):
        yield Change(item, "closed to other roles", [close])


def _extensions(database: ManagedDatabase, state: Mapping[str, Any]) -> Iterable[Change]:
    present = _present_extensions(database) if database.extensions and database.database in state["databases"] else []
    for name in database.extensions:
        if name not in present:
            item = f"extension {name} of {database.database}"
            yield Change(item, "new", _create_extension(database.database, name))


def _present_extensions(database: ManagedDatabase) -> list[str]:
    script = [_connected(database.database), "SELECT extname FROM pg_catalog.pg_extension;"]
    return _psql(database, "\n".join(script), doing=f"querying the extensions of {database.database}").split()


def _create_extension(database: str, name: str) -> list[str]:
    """Return the lines of a script that create an extension, as the superuser."""
    return [_connected(database), f"CREATE EXTENSION IF NOT EXISTS {_name(name)} CASCADE;", _connected("postgres")]


def _connected(database: str) -> str:
    """Return the lines of a script that continue in another database, and resolve no name of its owner before Django's.

    Objects of its owner, who is less trusted, can be in ``public``; settings of the database cannot change this.
    """
    return f"\\connect {_name(database)}\nSET search_path = public;"


def prepare_copy(database: ManagedDatabase, name: str) -> None:
    """Create the extensions of a database in another one, into which a backup of it is loaded.

    Raises:
        DeploymentError: the server refuses it.
    """
    lines = [line for extension in database.extensions for line in _create_extension(name, extension)]
    _set_up(database, "\n".join(lines))


def _set_up(database: ManagedDatabase, script: str) -> None:
    try:
        _psql(database, script, doing="setting PostgreSQL up")
    except DeploymentError as error:
        if re.search(r"extension .* is not available|could not open extension control file", error.log):
            packages = f"django:sites:{database.site}:packages"
            error.hint = f"add the Debian package of the extension to {packages}; {database.key}:extensions names it"
        raise


def _membership(database: ManagedDatabase, owner: str) -> Change:
    """Return the change by which a second login of the site acts as the role that owns the site's database."""
    user, name = _name(database.user), _name(database.database)
    grant = f"GRANT {_name(owner)} TO {user}; ALTER ROLE {user} IN DATABASE {name} SET role = {_text(owner)};"
    return Change(f"membership of {database.user}", f"of {owner}", [f"BEGIN; {grant} COMMIT;"])


def _authentication(site: str, databases: Sequence[ManagedDatabase], state: Mapping[str, Any]) -> Iterable[Change]:
    """Yield changes of pg_hba.conf and pg_ident.conf, where Debian's lines do not authenticate a login as required.

    Debian's lines authenticate a system user over the socket as the role of its name, and every role with a password
    over TCP. Lines for other roles of the site stay: the active release, or an older one, may use them. A line is for
    all databases, because a backup is loaded into a database of another name; rights decide what a role may open.
    """
    hba, ident = _required_lines(site, databases, state)
    pairs = (one.users if one.clients else (one.user, *([one.other_user] if one.password else [])) for one in databases)
    users = {user for pair in pairs for user in pair}
    roles = state["roles"].items()
    former = {name for name, role in roles if databases and role["comment"] == owner_comment(site)} - users
    for kind, lines in (("hba", [*dict.fromkeys(hba)]), ("ident", [*dict.fromkeys(ident)])):
        text = state["texts"].get(kind, "")
        lines += [line for line in _lines(text, site) if _role_in(line) in former]
        required = _with_lines(text, site, lines)
        if required != text or (lines and kind in state["unread"]):
            yield Change(Path(state[kind]).name, "changed", files={state[kind]: required})


def _required_lines(
    site: str, databases: Sequence[ManagedDatabase], state: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Return the lines of pg_hba.conf and of pg_ident.conf that the site's logins require."""
    hba: list[str] = []
    ident: list[str] = []
    for database in databases:
        if database.clients:
            hba += _lines_for(database)
            ident += _users_of(database) if database.pool else []
        elif database.over_socket and database.password:
            pair = {user: f'local all "{user}" scram-sha-256' for user in (database.user, database.other_user)}
            is_new_way = pair[database.user] not in state["texts"].get("hba", "")
            if database.has_active_release and database.user in state["roles"] and is_new_way:
                raise server.login_in_use(database)
            hba += [pair[user] for user in sorted(pair)]
        elif database.over_socket and database.user != database.system_user:
            hba.append(f'local all "{database.user}" peer map=django-{site}')
            ident.append(f'django-{site} "{database.system_user}" "{database.user}"')
    return hba, ident


def _lines_for(database: ManagedDatabase) -> Iterable[str]:
    """Yield the lines by which a login is for some hosts alone; after them the server looks no further."""
    for login in database.users:
        if database.pool:
            yield f'local "{database.database}" "{login}" peer map={POOL}'
        for client in database.clients:
            yield f'hostssl all "{login}" {client}/{128 if ":" in client else 32} scram-sha-256'
        yield f'host all "{login}" all reject'


def _users_of(database: ManagedDatabase) -> list[str]:
    """Return the lines of pg_ident.conf for a login that PgBouncer has: for it, and as before for the site's user.

    A release that was active before the site got several hosts may still use the socket.
    """
    users = [POOL_USER, *([database.system_user] if database.system_user == database.user else [])]
    return [f'{POOL} "{user}" "{login}"' for login in database.users for user in users]


def _block(site: str) -> str:
    """Return the pattern of a site's lines in a file, as a group, with the lines around them."""
    begin, end = (re.escape(f"# django-formula: {text}{site}\n") for text in ("", "end of "))
    return f"(?ms)^{begin}(.*?)^{end}"


def _lines(text: str, site: str) -> list[str]:
    found = re.search(_block(site), text)
    return found[1].splitlines() if found else []


def _role_in(line: str) -> str:
    """Return the role that a line of pg_hba.conf or pg_ident.conf is about."""
    return "".join(line.split()[2:3]).strip('"')


def _with_lines(text: str, site: str, lines: Iterable[str]) -> str:
    """Return the text of a file with these lines of a site at its head, and no other lines of that site."""
    rest = re.sub(_block(site), "", text)
    block = "".join(f"{line}\n" for line in lines)
    return f"# django-formula: {site}\n{block}# django-formula: end of {site}\n{rest}" if block else rest


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _version(program: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", program.parts[-3])]


def newest_psql() -> str:
    """Return the psql of the newest PostgreSQL on this host."""
    return str(max(PROGRAMS.glob("*/bin/psql"), key=_version, default=Path("psql")))


def connection(database: str) -> str:
    """Return a database as its clients read it: a name with ``=``, or that is a URL, would be a whole connection."""
    quoted = database.replace("\\", r"\\").replace("'", r"\'")
    return f"dbname='{quoted}'"


def _psql(database: ManagedDatabase, text: str, *, doing: str) -> str:
    port = database.port or POSTGRES.port
    hint = f"check that it runs on port {port}, else set {database.key}:port{database.or_as_it_is}"
    return ask(text, port=port, socket=database.socket, doing=doing, hint=hint)


def ask(
    text: str,
    *,
    port: int,
    socket: str,
    doing: str,
    hint: str = "",
    database: str = "postgres",
    timeout: float = 60,
) -> str:
    """Run a script on a server of this host as its superuser, and return the output.

    Args:
        socket: the folder or file of its unix socket; empty for the default one.
        database: the one that it runs in.
        timeout: seconds.

    Raises:
        DeploymentError: the server does not answer, or refuses it.
    """
    argv = [newest_psql(), "--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password"]
    argv += ["--set=ON_ERROR_STOP=1", f"--dbname={connection(database)}", f"--port={port}"]
    return commands.run(
        [*argv, *([f"--host={socket}"] if socket else [])],
        doing=doing,
        user=_USER,
        # Before 15 a site may put functions into the schema public, which are found before those of PostgreSQL.
        environment={"PGCONNECT_TIMEOUT": "10", "PGOPTIONS": "-c search_path=pg_catalog"},
        timeout=timeout,
        stdin=text,
        secrets=re.findall(r"SCRAM-SHA-256\$[^']+", text),
        hint=hint,
    )
