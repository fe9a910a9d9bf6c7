"""Health, metrics, the page and the problems of unknown paths."""

from __future__ import annotations

import re

from runtime.serving.generation import PAGE, _public_address
from tests.serving.live import Live, assert_problem, encoded, picture

SVG = "http://www.w3.org/2000/svg"


def test_experts_and_health(live: Live) -> None:
    experts = live.client.get("/v1/experts").json()
    assert [expert["name"] for expert in experts["experts"]] == ["a", "b", "both"]
    assert experts["experts"][2]["inputs"] == ["face", "person"]
    assert [expert["license"] for expert in experts["experts"]] == [None, None, "CC0-1.0"]
    assert {expert["location"] for expert in experts["experts"]} == {None}, "they come from files"
    assert experts["limits"]["faces"] == 64
    assert experts["stand_ins"] == {}
    assert live.client.get("/health/live").json() == {"status": "live"}
    ready = live.client.get("/health/ready").json()
    assert ready == {"status": "ready", "version": experts["version"], "last_reload": None}


def test_addresses_of_weights_are_told_without_secrets() -> None:
    told = {
        "pypi://name==1.0/a.onnx": "pypi://name==1.0/a.onnx",
        "https://user:secret@host:8443/a.onnx?token=secret#secret": "https://host:8443/a.onnx",
        "/home/somebody/a.pth": None,
    }
    assert {location: _public_address(location) for location in told} == told


def test_every_response_has_the_security_headers(live: Live) -> None:
    for path in ("/", "/page/page.js", "/health/live", "/nowhere"):
        headers = live.client.get(path).headers
        assert headers["content-security-policy"].startswith(
            "default-src 'none'; script-src 'self'"
        )
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["permissions-policy"].startswith("camera=(self), microphone=()")
        assert "server" not in headers
        assert headers["cache-control"] == ("no-cache" if path[1:5] in ("", "page") else "no-store")


def test_head_is_get_without_a_body(live: Live) -> None:
    for path in ("/", "/page/style.css", "/health/ready", "/v1/experts"):
        head, got = live.client.head(path), live.client.get(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-length"] == str(len(got.content))


def test_the_page_loads_nothing_external(live: Live) -> None:
    page = live.client.get("/").text
    names = sorted(path.name for path in PAGE.iterdir() if path.suffix in (".js", ".css"))
    scripts = ["boxes", "camera", "decision", "dom", "faces", "page", "problems"]
    assert names == [*(f"{name}.js" for name in scripts), "style.css"]
    texts = [page, *(live.client.get(f"/page/{name}").text for name in names)]
    for text in texts:
        assert re.findall(r"""https?://[^\s"']+|["'(]//""", text.replace(SVG, "")) == []
    assert "<style" not in page
    assert " style=" not in page
    assert all("storage" not in text.lower() and "cookie" not in text for text in texts)
    for path in ("/page/../settings.py", "/page/%2e%2e/settings.py", "/page/..%2f__init__.py"):
        assert live.client.get(path).status_code == 404


def test_unknown_paths_and_methods_are_problems(live: Live) -> None:
    for path in ("/nowhere", "/page", "/page/", "/page/nothing", "/health/live/"):
        assert_problem(live.client.get(path), 404, "no resource at this path")
    for method in ("GET", "HEAD", "OPTIONS", "DELETE", "BREW"):
        refused = live.client.request(method, "/v1/ages")
        assert refused.status_code == 405
        assert refused.headers["allow"] == "POST"
    assert_problem(live.client.get("/v1/ages"), 405, "This path supports POST")
    assert_problem(live.client.post("/v1/reload"), 403, "runs without keys")


def test_metrics(live: Live) -> None:
    live.ages(encoded(picture(1)))
    live.ages(b"no picture")
    live.client.get("/wp-admin.php")
    text = live.client.get("/metrics").text
    for line in (
        'agemoe_requests_total{route="/v1/ages",status="200"}',
        'agemoe_requests_total{route="other",status="404"}',
        'agemoe_refused_total{problem="image"} 1.0',
        'agemoe_stage_seconds_bucket{le="0.001",stage="decode"}',
        'agemoe_batch_faces_bucket{le="1.0"}',
        'agemoe_expert_seconds_count{expert="both",part="execute"}',
        'agemoe_expert_faces_total{expert="a",outcome="answers"}',
        'agemoe_faces_total{outcome="estimates"}',
        "agemoe_queue_faces 0.0",
    ):
        assert line in text
    assert "wp-admin" not in text
