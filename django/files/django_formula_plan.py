"""Report the effective settings of a release, to compare them with another's: a request on stdin, JSON on stdout."""

import hashlib
import hmac
import re

import django_formula_start


def settings(request):
    """Return each setting by its name or its path in dictionaries: its text, None if that is hidden, and a hash."""
    django_formula_start.import_application(request["application"])
    from django.conf import settings
    from django.views.debug import SafeExceptionReporterFilter

    shown = SafeExceptionReporterFilter().get_safe_settings()
    found = {}
    for name, safe in shown.items():
        for path, value, cleansed in leaves(name, getattr(settings, name, None), safe):
            found[path] = described(value, cleansed, request)
    return found


def leaves(path, value, cleansed):
    """Yield the values in nested dictionaries, each with its path and what Django's debug page shows of it."""
    if isinstance(value, dict) and isinstance(cleansed, dict) and value:
        for name, inner in value.items():
            yield from leaves(f"{path}.{name}", inner, cleansed.get(name))
    else:
        yield path, value, cleansed


def described(value, cleansed, request):
    text = as_text(value, request["names"])
    digest = hmac.new(request["key"].encode(), text.encode(errors="replace"), hashlib.sha256).hexdigest()
    plain = f"{value}{value!r}"
    hidden = any(secret in plain for secret in request["secrets"]) or set(str(cleansed)) == {"*"}
    return {"text": None if hidden else as_text(cleansed, request["names"])[:1000], "hash": digest}


def as_text(value, names):
    """Return a value as text that is equal in every process and release: without addresses and the release's name."""
    text = "{" + ", ".join(sorted(map(repr, value))) + "}" if isinstance(value, (set, frozenset)) else repr(value)
    text = re.sub(r" at 0x[0-9a-f]+", "", text)
    for name in names:
        text = text.replace(name, "(release)")
    return text


def main():
    django_formula_start.serve({"settings": settings})


if __name__ == "__main__":
    main()
