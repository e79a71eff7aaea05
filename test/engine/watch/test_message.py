"""Messages as each kind of channel takes them: data, in which texts of others are no markup."""

import json

import pytest
from django_formula.watch import message

HOSTILE = "KeyError: '`\x1b[31m<script>&@everyone```\n*x*"
BATCH = {
    "host": "web1",
    "time": 1764208000.0,
    "id": "17",
    "messages": [
        {
            "what": "event",
            "site": "blog",
            "kind": "failed",
            "text": f"0043-abcdefabcdef failed in the step static: {HOSTILE}",
            "command": "salt-call django.record blog 0043-abcdefabcdef",
            "since": 1764208000.0,
            "by": "root",
        }
    ],
}
DOWN = {"what": "problem", "site": "shop", "kind": "down", "text": "GET / returned 502", "command": "", "since": 0}


def test_title_names_host_site_and_kind():
    assert message.title(BATCH) == "[web1] blog: release failed"
    assert message.title({**BATCH, "messages": [DOWN]}) == "[web1] shop: down"
    assert message.title({**BATCH, "messages": [{**DOWN, "what": "good"}]}) == "[web1] shop: good again: down"
    assert message.title({**BATCH, "messages": [{**DOWN, "site": ""}]}) == "[web1] down"
    assert message.title({**BATCH, "messages": [DOWN, *BATCH["messages"]]}) == "[web1] 2 messages of 2 sites"


def test_title_of_messages_of_the_host_counts_it_among_no_sites():
    disk = {**DOWN, "site": "", "kind": "disk"}
    assert message.title({**BATCH, "messages": [disk, disk]}) == "[web1] 2 messages"
    assert message.title({**BATCH, "messages": [disk, DOWN]}) == "[web1] 2 messages of 1 site"


def test_text_has_the_command_and_who_on_lines_of_their_own():
    first, do, by = message.text(BATCH, 5000).split("\n")
    assert first.startswith("blog: 0043-abcdefabcdef failed in the step static: KeyError")
    assert (do, by) == ("    do: salt-call django.record blog 0043-abcdefabcdef", "    by: root")
    assert len(message.text({**BATCH, "messages": [DOWN] * 500}, 500)) == 500
    assert message.text({**BATCH, "messages": [DOWN] * 31}, 9000).endswith("and 1 more: salt-call django.status")


@pytest.mark.parametrize("form", [one for one in message.FORMATS if one != "apprise"])
def test_text_of_a_project_is_data_in_each_format(form):
    made = message.request(BATCH, form, "t0ken")
    assert made.headers["Authorization"] == "Bearer t0ken" and b"t0ken" not in made.body
    text = made.body.decode()
    if form == "ntfy":
        assert made.headers["Title"] == "[web1] blog: release failed" and made.headers["Priority"] == "3"
        assert "\x1b" not in text
        return
    value = json.loads(text)
    if form == "json":
        assert value == {"version": 1, **BATCH}
    elif form == "teams":
        (card,) = (one["content"] for one in value["attachments"])
        assert {part["type"] for block in card["body"] for part in block["inlines"]} == {"TextRun"}
    else:
        shown = value["content"] if form == "discord" else value["text"]
        assert shown.count("```") == 2 and shown.endswith("```") and "\x1b" not in shown
        assert form != "slack" or ("<script>" not in shown and "&lt;script&gt;&amp;" in shown)
        assert form != "discord" or (value["allowed_mentions"] == {"parse": []} and len(shown) <= 2000)


def test_long_batch_stays_below_the_limit_of_discord():
    content = json.loads(message.request({**BATCH, "messages": [{**DOWN, "text": "x" * 300}] * 40}, "discord").body)
    assert len(content["content"]) <= 2000


@pytest.mark.parametrize("letter", ["x", "\u6d4b", "\U0001f680"])
@pytest.mark.parametrize("size", [10, 300, 3000])
def test_long_batch_stays_below_the_limit_of_teams(letter, size):
    messages = [{**DOWN, "text": letter * size, "command": "salt-call", "by": "root"}] * 40
    body = message.request({**BATCH, "messages": messages}, "teams").body
    assert len(body) <= 28000 and letter * 10 in str(json.loads(body))


def test_urgent_message_has_a_higher_priority():
    assert message.request({**BATCH, "messages": [DOWN]}, "ntfy").headers["Priority"] == "4"
