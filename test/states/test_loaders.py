"""The loaders themselves: what the other tests of this layer stand on."""

from images import pins


def test_salt_has_the_pinned_version(loaders):
    assert pins("salt") == [f"salt=={loaders().modules.test.version()}"]


def test_states_have_the_given_pillar_and_grains(loaders, tmp_path):
    made = loaders({"motto": "pillar"}, grains={"motto": "grain"})
    assert made.opts["pillar"]["motto"] == "pillar"
    assert made.modules.grains.get("motto") == "grain"
    changed = made.states.file.managed(name=str(tmp_path / "note"), contents_pillar="motto", test=True)
    assert changed.result is None and not (tmp_path / "note").exists()
    made.states.file.managed(name=str(tmp_path / "note"), contents_pillar="motto")
    assert (tmp_path / "note").read_text().strip() == "pillar"


def test_pillar_is_compiled_by_the_renderer(loaders):
    render = loaders({"django": {"sites": {}}}).modules.slsutil.renderer
    read = render("salt://django/django_pillar_render.py", default_renderer="py")
    assert (read["errors"], read["sites"]) == ([], {})
