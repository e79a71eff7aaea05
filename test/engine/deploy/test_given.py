"""What Salt gives an apply: files of the file server."""

import pytest
from django_formula.deploy.given import Given
from django_formula.host.commands import DeploymentError


def test_file_that_is_no_text_is_named(tmp_path):
    path = tmp_path / "blog.der"
    path.write_bytes(b"0\x82\x03\x01")
    given = Given({}, lambda uri: uri, lambda _url: str(path), {})
    with pytest.raises(DeploymentError, match=r"^salt://blog\.der is no text in UTF-8") as error:
        given.pem("salt://blog.der")
    assert "PEM" in error.value.hint
