"""Ubuntu 22.04 and 24.04: names by their grains, and what their systemd does not have. Rendered files are Debian's."""

import copy
import re
from typing import Any

import pytest
from django_formula.pillar import compiler
from django_formula.process import build_user, sandbox
from specimen import ROOT, contract

SITE = {"repository": "https://git.example.org/blog.git", "domains": ["blog.example.org"]}
#: Directives that systemd has learned after 249, the version of Ubuntu 22.04 (its NEWS).
NEWER = {
    250: "ExitType RestrictFileSystems RestrictNetworkInterfaces LoadCredentialEncrypted SetCredentialEncrypted",
    251: "ExtensionDirectories ConditionCPUFeature",
    252: "ConditionCredential StartupAllowedCPUs StartupAllowedMemoryNodes",
    253: "OpenFile MemoryZSwapMax LogFilterPatterns ReloadSignal",
    254: "RestartSteps RestartMaxDelaySec RestartMode MemoryKSM DelegateSubgroup ImportCredential RootEphemeral "
    "FileDescriptorStorePreserve MemoryPressureWatch MemoryPressureThresholdSec SetLoginEnvironment ProcessorMask",
    255: "CoredumpReceive SurviveFinalKillSignal NFTSet PollLimitIntervalSec PollLimitBurst",
    256: "CapsuleMode BindLogSockets AcceptFileDescriptors",
    257: "PrivatePIDs PassFileDescriptorsToExec ManagedOOMMemoryPressureDurationSec DeferReactivation",
}


def compiled(grains: dict[str, Any], **options: Any) -> dict[str, Any]:
    pillar = {"django": {"sites": {"blog": {**SITE, **options}}}}
    return compiler.compile(pillar, contract("schema.yaml"), contract("platforms.yaml"), grains)


def of(os: str, release: int) -> dict[str, Any]:
    family = "RedHat" if os == "AlmaLinux" else "Debian"
    return {"os": os, "os_family": family, "osmajorrelease": release, "init": "systemd"}


@pytest.mark.parametrize(("os", "release"), [("Ubuntu", 22), ("Ubuntu", 24), ("Debian", 12), ("Debian", 13)])
def test_platform_has_every_name_and_a_site_of_three_keys(os, release):
    result, debian = compiled(of(os, release)), compiled({"os_family": "Debian", "osmajorrelease": 12})
    assert result["errors"] == []
    assert result["platform"]["packages"].keys() == debian["platform"]["packages"].keys()
    assert result["platform"] == debian["platform"] or (os, release) in (("Ubuntu", 22), ("Debian", 13))


def test_debian_13_has_valkey_instead_of_redis():
    # The compiled platform shares its parts with the file, which is read once.
    platforms = [copy.deepcopy(compiled(of("Debian", release))["platform"]) for release in (12, 13)]
    assert [platform["packages"].pop("redis") for platform in platforms] == ["redis-tools", "valkey-tools"]
    docker = [platform["packages"].pop("docker") for platform in platforms]
    assert docker == [["docker.io"], ["docker.io", "docker-cli", "docker-buildx"]]
    programs = [platform["stores"].pop("redis") for platform in platforms]
    assert programs == ["/usr/bin/redis-check-rdb", "/usr/bin/valkey-check-rdb"]
    assert platforms[0] == platforms[1]


def test_ubuntu_22_builds_mysqlclient_with_pkg_config():
    assert "pkg-config" in compiled(of("Ubuntu", 22))["platform"]["packages"]["mysql"]
    assert "pkgconf" in compiled(of("Ubuntu", 24))["platform"]["packages"]["mysql"]
    assert "pkgconf" in compiled(of("Debian", 22))["platform"]["packages"]["mysql"], "another system's release"


def test_red_hat_is_refused():
    assert compiled(of("AlmaLinux", 9))["errors"] == [
        'grains:os_family — expected one of Debian, got "RedHat" (string)'
    ]


def test_no_unit_has_a_directive_that_systemd_249_does_not_know():
    newer = {name for names in NEWER.values() for name in names.split()}
    files = [*ROOT.glob("django/files/**/*"), *ROOT.glob("test/render/**/*")]
    units = [path for path in files if path.suffix in (".service", ".socket", ".timer", ".mount")]
    used = {name for path in units for name in re.findall(r"(?m)^([A-Z]\w+)=", path.read_text())}
    used |= {*build_user._SANDBOX, *sandbox._DEFAULTS}
    assert {"ExecStart", "SocketMode", "OnCalendar", "CPUWeight", "ProtectProc"} <= used
    assert used & newer == set()
