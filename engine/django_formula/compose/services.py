"""The compose files: what runs in production, and on the machine of a developer."""

import json
import shlex
from collections.abc import Collection, Iterator
from typing import Any

from django_formula.compose import secrets as compose_secrets
from django_formula.compose import settings
from django_formula.compose.plan import Plan

#: What the containers of a project have in common.
_APP = """\
x-app: &app
  image: localhost/{name}:{kind}
  user: "${{APP_USER:-{user}}}"
  environment: {{DJANGO_SETTINGS_MODULE: {settings}}}
  secrets: [{secrets}]
"""
_PRODUCTION = """\
# {name} in production: docker compose -f compose.production.yml up --detach
# nginx listens on 127.0.0.1:8080 only, for the proxy of this host: a published port passes the host's firewall. It does
# not depend on app, or compose would stop it for each release of app alone.
{common}  volumes: [data:/srv/data, media:/srv/media, run:/srv/run, static:/srv/static{contents}]
  read_only: true
  tmpfs: [/tmp]
  cap_drop: [ALL]
  security_opt: ["no-new-privileges:true"]
  stop_grace_period: 40s
  restart: unless-stopped

services:
  app:
    <<: *app
    build: {{context: .{dockerfile}}}
    healthcheck: {{test: [CMD, /srv/healthy], interval: 5s, timeout: 5s, retries: 3, start_period: 120s}}
{app}
  nginx:
    image: docker.io/library/nginx:1.28
{ports}    volumes:
      - ./compose/nginx.conf:/etc/nginx/conf.d/default.conf:ro
      - media:/srv/media:ro
      - run:/srv/run
      - static:/srv/static:ro
{mounts}    read_only: true
    tmpfs: [/var/cache/nginx, /run, /tmp]
    cap_drop: [ALL]
    cap_add: [CHOWN, SETGID, SETUID]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
{services}
volumes:
  data:
  media:
  run:
  static:
{volumes}
secrets:
{files}"""

_LOCAL = """\
# {name} on the machine of a developer: docker compose -f compose.local.yml up
# http://localhost:8000 is served from the files in this folder, and again after each change. Mail is in the log.
{common}  volumes: [".:/app", "data_local:/srv/data", "media_local:/srv/media"]

services:
  app:
    <<: *app
    build: {{context: .{dockerfile}}}
    command: [develop]
    ports: ["127.0.0.1:8000:8000"]
{app}{services}
volumes:
  data_local:
  media_local:
{volumes}
secrets:
{files}"""

_POSTGRES = """
  database:
    image: {image}
    environment:
      POSTGRES_DB: {name}
      POSTGRES_USER: {name}
      POSTGRES_PASSWORD_FILE: /run/secrets/database_password
      PGHOST: 127.0.0.1  # of pg_isready: during its first start PostgreSQL listens on a socket only
    secrets: [database_password]
    volumes: ["database{suffix}:/var/lib/postgresql/data"]
    security_opt: ["no-new-privileges:true"]
    healthcheck: {{test: [CMD, pg_isready], interval: 5s, timeout: 5s, retries: 3, start_period: 120s}}
    restart: unless-stopped
"""
_MYSQL = """
  database:
    image: docker.io/library/mariadb:11.8
    environment:
      MARIADB_DATABASE: {name}
      MARIADB_USER: {name}
      MARIADB_PASSWORD_FILE: /run/secrets/database_password
      MARIADB_RANDOM_ROOT_PASSWORD: "1"
    secrets: [database_password]
    volumes: ["database{suffix}:/var/lib/mysql"]
    security_opt: ["no-new-privileges:true"]
    healthcheck:
      test: [CMD, healthcheck.sh, --connect, --innodb_initialized]
      interval: 5s
      timeout: 5s
      retries: 3
      start_period: 120s
    restart: unless-stopped
"""
_REDIS = """
  {service}:
    image: docker.io/library/redis:7.4
    command: {command}
{volumes}    security_opt: ["no-new-privileges:true"]
    healthcheck: {{test: [CMD, redis-cli, ping], interval: 5s, timeout: 5s, retries: 3, start_period: 60s}}
    restart: unless-stopped
"""
_MEMCACHED = """
  cache:
    image: docker.io/library/memcached:1.6
    command: [memcached, --memory-limit=64]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
"""
_PORTS = """\
    ports: ["${LISTEN:-127.0.0.1:8080}:8080"]
"""
_PORTS_TLS = """\
    command: [/srv/serve]
    ports: ["${LISTEN:-127.0.0.1:8080}:8080", "${LISTEN_TLS:-127.0.0.1:8443}:8443"]
"""
_MOUNTS_TLS = """\
      - ./compose/serve:/srv/serve:ro
      - challenges:/srv/challenges:ro
      - tls:/srv/tls:ro
"""
_CERTIFICATES = """
  certificates:
    image: docker.io/certbot/certbot:v4.0.0
    entrypoint: [/srv/certificates]
    environment:
      ACME_DIRECTORY: "${ACME_DIRECTORY:-https://acme-v02.api.letsencrypt.org/directory}"
    volumes:
      - ./compose/certificates:/srv/certificates:ro
      - certbot:/etc/letsencrypt
      - challenges:/srv/challenges
      - tls:/srv/tls
    read_only: true
    tmpfs: [/tmp, /var/lib/letsencrypt, /var/log/letsencrypt]
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    restart: unless-stopped
"""
_WORKER = """
  {service}:
    <<: *app
    command: {command}
{after}"""
#: Extensions of PostgreSQL that an image of its own has.
_EXTENSIONS = {"postgis": "docker.io/postgis/postgis:17-3.5", "vector": "docker.io/pgvector/pgvector:pg17"}
#: Redis as a queue keeps what it has; as a cache it drops the oldest.
_QUEUE = ["redis-server", "--appendonly", "yes", "--maxmemory-policy", "noeviction"]
_CACHE = ["redis-server", "--save", "", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]

#: What `manage.py rqworker` has for the levels of its log; 0 is for warnings and errors.
_VERBOSITY = {"DEBUG": 2, "INFO": 1}


def production(plan: Plan, user: str) -> str:
    """Return compose.production.yml.

    Args:
        user: the uid and gid of the containers of the project.
    """
    return _file(_PRODUCTION, plan, user, "production")


def local(plan: Plan, user: str) -> str:
    """Return compose.local.yml."""
    return _file(_LOCAL, plan, user, "local")


def _file(template: str, plan: Plan, user: str, kind: str) -> str:
    suffix = "_local" if kind == "local" else ""
    conditions = dict.fromkeys(_stores(plan), "service_healthy")
    if plan.cache == "memcached":  # which has no program for a health check
        conditions["cache"] = "service_started"
    own = _after(conditions)
    needed = {"secret_key": compose_secrets.has_key_file(plan), "database_password": "database" in conditions}
    secrets = {"environment": kind, **{name: name for name, is_needed in needed.items() if is_needed}}
    kept = [name for name in conditions if name != "cache"]
    tls = ["certbot", "challenges", "tls"] if plan.email and kind == "production" else []
    names = ", ".join(secrets)
    common = _APP.format(name=plan.name, kind=kind, user=user, settings=module(plan, kind), secrets=names)
    return template.format(
        name=plan.name,
        dockerfile="" if plan.dockerfile == "Dockerfile" else f", dockerfile: {plan.dockerfile}",
        common=common,
        app=own,
        contents="".join(f", {json.dumps(f'./{path}:/app/{path}:ro')}" for path in plan.contents),
        ports=_PORTS_TLS if plan.email else _PORTS,
        mounts=_MOUNTS_TLS if plan.email else "",
        services="".join(_services(plan, suffix, own)),
        volumes="".join(f"  {name}{suffix}:\n" for name in [*kept, *tls]),
        files="".join(f"  {name}: {{file: ./.envs/{path}}}\n" for name, path in secrets.items()),
    )


def module(plan: Plan, kind: str) -> str:
    """Return the settings module of a compose file."""
    return f"compose.settings_{kind}" if plan.has_overlay else plan.settings_module


def _stores(plan: Plan) -> list[str]:
    """Return the services that keep data."""
    is_server = plan.engine != "sqlite"
    return [name for name, has in (("database", is_server), ("queue", plan.queue), ("cache", plan.cache)) if has]


def _after(conditions: dict[str, str]) -> str:
    lines = [f"      {name}: {{condition: {condition}}}\n" for name, condition in conditions.items()]
    return "".join(["    depends_on:\n", *lines]) if lines else ""


def _services(plan: Plan, suffix: str, own: str) -> list[str]:
    """Return the services of the site in addition to app and nginx."""
    name = settings.database_name(plan)
    found = {"postgres": [_POSTGRES], "mysql": [_MYSQL]}.get(plan.engine, [])
    found = [one.format(name=name, suffix=suffix, image=_postgres(plan)) for one in found]
    if plan.queue == "redis":
        volumes = f'    volumes: ["queue{suffix}:/data"]\n'
        found.append(_REDIS.format(service="queue", command=json.dumps(_QUEUE), volumes=volumes))
    if plan.cache == "redis":
        found.append(_REDIS.format(service="cache", command=json.dumps(_CACHE), volumes=""))
    if plan.cache == "memcached":
        found.append(_MEMCACHED)
    after = (
        _after({"app": "service_started"}) + own.partition("\n")[2] if suffix else _after({"app": "service_healthy"})
    )
    workers = compose_secrets.workers(plan)
    for worker, about in workers.items():
        line = json.dumps(command(plan, about)).replace("$", "$$")
        found.append(_WORKER.format(service=service(worker, workers), command=line, after=after))
    return [*found, _CERTIFICATES] if plan.email and not suffix else found


def _postgres(plan: Plan) -> str:
    """Return the image of PostgreSQL with the extensions that the project needs."""
    extensions = plan.options.get("database", {}).get("extensions", [])
    return next((image for name, image in _EXTENSIONS.items() if name in extensions), "docker.io/library/postgres:17")


def service(worker: str, workers: Collection[str]) -> str:
    """Return the name of the service of one of the workers."""
    is_short = worker == "default" and "worker" not in workers
    return worker if worker in ("beat", "worker") else "worker" if is_short else f"worker_{worker}"


def command(plan: Plan, worker: dict[str, Any]) -> list[str]:
    """Return the command of a worker."""
    kind, app = worker["kind"], worker.get("app") or ""
    queues, number = worker.get("queues") or [], worker.get("processes")
    options = [*_options(worker.get("options") or {})]
    if kind == "celery":
        chosen = [f"--queues={','.join(queues)}"] if queues else []
        return [
            "celery",
            f"--app={app}",
            "worker",
            "--loglevel=INFO",
            *chosen,
            f"--concurrency={number or 2}",
            *options,
        ]
    if kind == "celery_beat":
        state = ["--schedule=/srv/data/celerybeat-schedule", "--pidfile="]
        return ["celery", f"--app={app}", "beat", "--loglevel=INFO", *state, *options]
    if kind == "rq":
        return ["python", *plan.django, "rqworker", *(queues or ["default"]), *options]
    if kind == "huey":
        return ["python", *plan.django, "run_huey", *([f"--workers={number}"] if number else []), *options]
    return words(plan, worker["command"])


def _options(given: dict[str, Any]) -> Iterator[str]:
    """Yield the options of a worker as its program takes them: a flag without a value, or not at all."""
    if given.get("periodic") is False:
        yield "--no-periodic"
    if level := given.get("logging_level"):
        yield f"--verbosity={_VERBOSITY.get(level, 0)}"
    for name, value in given.items():
        if name not in ("periodic", "logging_level") and value is not None and value is not False:
            option = f"--{name.replace('_', '-')}"
            yield option if value is True else f"{option}={value}"


def words(plan: Plan, command: str) -> list[str]:
    """Return the words of a command of the project, as the containers run it."""
    found = shlex.split(command)
    return ["python", *plan.django, *found[1:]] if found[0] in ("manage.py", "./manage.py") else found
