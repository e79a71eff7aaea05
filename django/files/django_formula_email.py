"""Mail: the settings that the pillar gives, and the mails of errors, of which a burst sends only a few."""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import time

import django
from django.conf import global_settings
from django.utils.log import AdminEmailHandler

SMTP = "django.core.mail.backends.smtp.EmailBackend"
#: Backends of Django that send nothing.
SILENT = tuple(f"django.core.mail.backends.{name}.EmailBackend" for name in ("console", "dummy", "filebased", "locmem"))
#: The options of a mailer that settings name otherwise.
OPTIONS = {
    "EMAIL_HOST": "host",
    "EMAIL_PORT": "port",
    "EMAIL_HOST_USER": "username",
    "EMAIL_HOST_PASSWORD": "password",
    "EMAIL_USE_TLS": "use_tls",
    "EMAIL_USE_SSL": "use_ssl",
    "EMAIL_TIMEOUT": "timeout",
}
HOUR = 3600


def settings(project, values, email):
    """The settings of mail; a LOGGING of the project stays as it is."""
    password = pathlib.Path(email["password_file"]).read_text() if email["password_file"] else ""
    found = {**email["settings"], "EMAIL_HOST_PASSWORD": password}
    if uses_mailers(project):
        server = {option: found.pop(name) for name, option in OPTIONS.items()}
        found["MAILERS"] = mailers(project.get("MAILERS") or {}, server)
    else:
        backend = project.get("EMAIL_BACKEND", SMTP)
        found["EMAIL_BACKEND"] = SMTP if backend in SILENT else backend
    if email["admins"]:
        is_new = django.VERSION >= (6, 0)
        found["ADMINS"] = [address if is_new else (address.partition("@")[0], address) for address in email["admins"]]
    if email["admins"] and "LOGGING" not in project:
        logging = values["LOGGING"]
        mails = {"class": f"{__name__}.ErrorMails", "level": "ERROR", **email["errors"]}
        of_django = {**logging["loggers"]["django"], "handlers": ["console", "mail_admins"]}
        found["LOGGING"] = {
            **logging,
            "handlers": {**logging["handlers"], "mail_admins": mails},
            "loggers": {**logging["loggers"], "django": of_django},
        }
    return found


def uses_mailers(project):
    """Whether Django takes the mail server from MAILERS: it refuses EMAIL_* next to it, which it knows until 2028."""
    return django.VERSION >= (6, 1) and ("MAILERS" in project or not hasattr(global_settings, "EMAIL_HOST"))


def mailers(own, server):
    """MAILERS of a project, of which the default one uses the server, unless it sends by other means."""
    default = own.get("default") or {}
    backend, options = default.get("BACKEND", SMTP), default.get("OPTIONS") or {}
    if backend in SILENT:
        default = {"BACKEND": SMTP, "OPTIONS": server}
    elif backend == SMTP or "host" in options:
        default = {**default, "OPTIONS": {**options, **server}}
    return {**own, "default": default}


class ErrorMails(AdminEmailHandler):
    """Mail errors to ADMINS: the same error once an hour, and so many in an hour at most, of all processes of a site.

    path: a file that the processes of the site share
    hourly: how many mails in an hour
    """

    def __init__(self, path, hourly, **options):
        super().__init__(**options)
        self.path, self.hourly = path, hourly
        self.known = {"sent": {}, "left": 0}
        self.left = 0

    def emit(self, record):
        try:
            passes = self._shared(record)
        except OSError:  # no such folder
            passes = self._passes(record)
        if passes:
            super().emit(record)

    def format_subject(self, subject):
        others = f" (and {self.left} errors that were not mailed)" if self.left else ""
        return super().format_subject(subject) + others

    def _shared(self, record):
        """Whether a mail is sent, by what all processes have sent, or this one where the file has no whole record."""
        with open(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600), "r+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.known = known_of(file.read(1 << 16)) or self.known
            passes = self._passes(record)
            with contextlib.suppress(OSError):  # a full disk, which the mail may be about
                file.seek(0)
                file.truncate(file.write(json.dumps(self.known).encode()))
        return passes

    def _passes(self, record):
        now = time.time()
        sent = {key: when for key, when in self.known["sent"].items() if now - HOUR < when <= now}
        error = key_of(record)
        passes = error not in sent and len(sent) < self.hourly
        if passes:
            self.left, self.known = self.known["left"], {"sent": {**sent, error: now}, "left": 0}
        else:
            self.known = {"sent": sent, "left": self.known["left"] + 1}
        return passes


def known_of(text):
    """What was sent, by the text of the file; None if that is damaged or empty."""
    try:
        known = json.loads(text)
        return {"sent": {key: float(when) for key, when in known["sent"].items()}, "left": int(known["left"])}
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def key_of(record):
    """What makes an error the same: the exception and where it was raised, or else the place that logged it."""
    parts = [record.name, record.pathname, record.lineno, str(record.msg)]
    if record.exc_info and record.exc_info[2]:
        frame = record.exc_info[2]
        while frame.tb_next:
            frame = frame.tb_next
        parts = [record.exc_info[0].__name__, frame.tb_frame.f_code.co_filename, frame.tb_lineno]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
