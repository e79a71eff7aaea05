import stat

import pytest
from django_formula.release import releases

ONE, TWO = {"release": "0001-aaaaaaaaaaaa", "result": "released"}, {"release": None, "result": "failed", "error": "é\n"}


def test_attempts_are_read_as_they_were_written(make_site):
    site = make_site()
    assert releases.attempts(site) == [] and releases.sequences(site) == []
    assert not releases.has_released(site)
    for attempt in (ONE, TWO):
        releases.append_attempt(site, attempt)
    assert releases.attempts(site) == [ONE, TWO]
    assert stat.S_IMODE(site.deploys.stat().st_mode) == 0o640 and site.deploys.read_bytes().count(b"\n") == 2
    assert releases.has_released(site) and releases.sequences(site) == [1]


@pytest.mark.parametrize("torn", range(1, 60))
def test_a_torn_last_line_hides_nothing_else(make_site, torn):
    site = make_site()
    for attempt in (ONE, TWO):
        releases.append_attempt(site, attempt)
    whole = site.deploys.read_bytes()
    site.deploys.write_bytes(whole[:-torn])
    assert releases.attempts(site)[:1] == [ONE] and releases.has_released(site)
    releases.append_attempt(site, TWO)
    assert releases.attempts(site)[0] == ONE and releases.attempts(site)[-1] == TWO


@pytest.mark.parametrize("garbage", [b"\0\0\0", b"\xff\xfe{", b"7\n", b"[]", b"\n\n", b'{"release": "0042-'])
def test_garbage_is_passed_over(make_site, garbage):
    site = make_site()
    releases.append_attempt(site, ONE)
    with open(site.deploys, "ab") as file:
        file.write(garbage)
    assert releases.attempts(site) == [ONE]
    releases.append_attempt(site, TWO)
    assert releases.attempts(site) == [ONE, TWO]
    assert releases.sequences(site) == ([1, 42] if b"0042" in garbage else [1])
