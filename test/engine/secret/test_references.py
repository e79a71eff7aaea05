"""What a reference of the pillar refers to, and what is said where it has no value."""

import pytest
from django_formula.host.commands import DeploymentError
from django_formula.secret import references

URI = "sdb://vault/secret/blog/database"
CIPHER = "-----BEGIN PGP MESSAGE-----\n\nhQEMA\n-----END PGP MESSAGE-----\n"


def answers(given):
    """Salt's `sdb.get` that returns or raises this."""

    def get(_uri):
        if isinstance(given, Exception):
            raise given
        return given

    return get


def test_value_is_the_text_that_is_kept():
    assert references.value(URI, answers("canary-1")) == "canary-1"


def test_key_with_line_ends_of_windows_has_those_of_linux():
    key = "-----BEGIN PRIVATE KEY-----\nabc\n-----END PRIVATE KEY-----\n"
    assert references.value(URI, answers(key.replace("\n", "\r\n"))) == key


@pytest.mark.parametrize(
    ("given", "cause", "cure"),
    [
        (URI, "this Salt has no sdb profile vault", "write the profile into the configuration of this minion"),
        (KeyError("vault.get"), "this Salt has no sdb driver vault", "install the extension with vault"),
        (None, "profile vault has no secret/blog/database", "see what it has: salt-call sdb.get sdb://vault/secret/"),
        (1234, "it is no text", "put a number in quotes"),
        ({"database": "canary-1"}, "it is no text", "name a key of a map"),
        ("", "it is empty", "correct it where it is kept"),
        (" \n", "it is empty", "correct it where it is kept"),
        ("**********", "it is a mask of the value", "correct it where it is kept"),
        ("canary-1\r\n", "it has a carriage return or a NUL", "correct it where it is kept"),
        ("canary\0-1", "it has a carriage return or a NUL", "correct it where it is kept"),
        (CIPHER, "it was not decrypted", "correct it where it is kept"),
        (ConnectionError("no route to vault:8200\nand more"), "ConnectionError: no route to vault:8200", "look at the"),
        (
            OSError("https://ray:canary-1@vault refused"),
            "OSError: https://**********@vault refused",
            "look at the store",
        ),
        (KeyError("data"), "KeyError: 'data'", "look at the store"),
        (ValueError(), "ValueError:", "look at the store"),
        (
            ValueError(f"Could not decrypt cipher {CIPHER.encode()!r}, received: b'gpg: no secret key'"),
            "ValueError: Could not decrypt cipher …, received: b'gpg: no secret key'",
            "look at the store",
        ),
        (ValueError("x" * 9999), f"ValueError: {'x' * 300}", "look at the store"),
    ],
)
def test_reference_without_a_value_says_why_and_what_to_do(given, cause, cure):
    with pytest.raises(DeploymentError) as caught:
        references.value(URI, answers(given))
    error = caught.value
    assert error.message.rstrip() == f"{URI} has no value: {cause}"
    assert error.hint.startswith(cure) or cure in error.hint
    assert error.hint.endswith(": docs/guides/secrets.md") and "canary" not in str(error)
    assert error.__suppress_context__ or error.__context__ is None
