"""`serve --audit`: the service opens the log before its engines and keeps it until it is closed."""

from __future__ import annotations

import argparse
import errno
import hmac
import json
import os
from pathlib import Path

import pytest

from runtime.audit import AuditError, verify
from runtime.manifest_file import engines_fingerprint
from runtime.serving import command, service
from runtime.serving.audit import AuditLog
from runtime.serving.service import Service
from runtime.serving.settings import Settings
from tests.serving.live import assert_problem, encoded, engines_in, picture, policy_in, serving
from tests.serving.test_decisions import PROBLEM, decisions_of


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = engines_in(tmp_path_factory.mktemp("audited") / "engines")
    policy_in(folder)
    return folder


def test_a_service_holds_its_log_from_opening_to_closing(engines: Path, tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    with serving(Settings(engines, policy=True, audit=path)) as live:
        audit = live.server.service.audit
        assert audit is not None
        audit.append({"outcome": "pass"})
        with pytest.raises(AuditError, match="Another process"):
            AuditLog(path)
        live.server.service.reload()
        assert live.server.service.audit is audit
        audit.append({"outcome": "refer"})
    AuditLog(path).close()
    assert (verify(path).lines, verify(path).breaks) == (4, [])


def test_a_service_without_the_option_has_no_log(engines: Path) -> None:
    with serving(Settings(engines)) as live:
        assert live.server.service.audit is None


def test_a_log_that_cannot_be_used_stops_the_service_before_its_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "audit.log").write_bytes(b"a diary\n")

    def opened(*_: object) -> None:
        pytest.fail("the engines were opened")

    monkeypatch.setattr(service, "Generation", opened)
    broken = Service(Settings(tmp_path / "none", policy=True, audit=tmp_path / "audit.log"))
    with pytest.raises(AuditError, match="not sound"):
        broken.open()
    broken.close()


def test_engines_that_cannot_be_opened_release_the_log(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    broken = Service(Settings(tmp_path / "none", policy=True, audit=path))
    with pytest.raises(Exception, match="manifest"):
        broken.open()
    AuditLog(path).close()
    broken.close()


def test_a_service_that_cannot_record_is_not_ready(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Settings(engines, policy=True, audit=tmp_path / "audit.log")) as live:
        audit = live.server.service.audit
        assert audit is not None

        def failing(_: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing)
            with pytest.raises(AuditError):
                audit.append({"outcome": "pass"})
        message = "The audit log cannot be flushed to disk"
        assert_problem(live.client.get("/health/ready"), 503, message)


def test_the_options_become_settings(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    files = tmp_path / "a.log", tmp_path / "key"
    parsed = parser.parse_args(["--policy", "--audit", str(files[0]), "--audit-key", str(files[1])])
    settings = command._settings(parsed)
    assert (settings.audit, settings.audit_key) == files
    settings = command._settings(parser.parse_args([]))
    assert (settings.audit, settings.audit_key) == (None, None)
    with pytest.raises(ValueError, match="--audit FILE"):
        command._settings(parser.parse_args(["--audit-key", "key"]))
    with pytest.raises(ValueError, match="need --policy"):
        command._settings(parser.parse_args(["--audit", "a.log"]))


def test_the_command_reports_a_log_in_use(
    engines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with AuditLog(tmp_path / "audit.log"):
        arguments = ["--engines", str(engines), "--policy", "--audit"]
        arguments.append(str(tmp_path / "audit.log"))
        assert command.main(arguments) == 1
    assert "error: Another process writes the audit log" in capsys.readouterr().err


def test_decisions_are_in_the_log_before_they_are_given(
    engines: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, key = tmp_path / "audit.log", tmp_path / "key"
    key.write_bytes(b"0123456789abcdef\n")
    pictures = [encoded(picture(seed)) for seed in (0, 199)]
    settings = Settings(engines, policy=True, audit=path, audit_key=key)
    with serving(settings) as live:
        whole = [[0, 0, 24, 16]]
        answers = [live.decision(one, boxes=[whole]).json()["decision"] for one in pictures]
        answers.append(live.decision(*pictures, boxes=[whole, whole]).json()["decision"])
        answers.append(live.decision(b"no picture").json()["decision"])
        assert live.ages(pictures[0]).status_code == 200  # no decision
        assert_problem(live.client.post("/v1/decisions", json={}), 422, "images")
        records = [json.loads(line) for line in path.read_bytes().splitlines()][1:]
        fusion, counted = live.moe.binding.fusion_sha256, decisions_of(live)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            refused = live.decision(pictures[0], boxes=[whole])
            assert_problem(refused, 503, "could not be recorded, so it is not given")
            assert refused.json()["type"] == PROBLEM + "not-recorded"
            assert str(path) in caplog.text
            assert str(path) not in refused.text
            assert decisions_of(live) == counted
            assert live.ages(pictures[0]).status_code == 200
            assert live.client.get("/health/ready").status_code == 200
        assert live.decision(pictures[0], boxes=[whole]).status_code == 200
    for record, answer in zip(records, answers, strict=True):
        chain = {"hash", "previous", "sequence", "time", "event", "pictures"}
        assert {key: value for key, value in record.items() if key not in chain} == {
            "engines": engines_fingerprint(engines, "policy.json"),
            "fusion": fusion,
            "policy": answer["policy"],
            "outcome": answer["outcome"],
            "reasons": [reason["code"] for reason in answer["reasons"]],
        }
    twins = [
        f"hmac-sha256:{hmac.new(b'0123456789abcdef', p, 'sha256').hexdigest()}" for p in pictures
    ]
    assert [record["pictures"] for record in records[:3]] == [twins[:1], twins[1:], twins]
    report = verify(path)
    assert (report.lines, report.breaks) == (6, [])


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
