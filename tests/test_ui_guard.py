import json

import pytest
from robustsr_ui.guard import LOOPBACK, Guard, foreign

starlette = pytest.importorskip("starlette.testclient")


async def echo(scope, receive, send):
    """Answers with the body it was sent."""
    body = (await receive()).get("body", b"") if scope["method"] == "POST" else b"hello"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


@pytest.fixture
def client():
    return starlette.TestClient(Guard(echo, LOOPBACK), base_url="http://127.0.0.1:7860")


def test_other_names_of_the_server_are_refused(client):
    assert client.get("/").text == "hello"
    assert (
        client.get("/").headers["content-security-policy"] == "img-src 'self' data: blob:; media-src 'self' data: blob:"
    )
    assert client.get("/", headers={"host": "localhost:7860"}).status_code == 200
    assert client.get("/", headers={"host": "evil.example:7860"}).status_code == 403  # DNS rebinding


def test_pages_of_other_sites_are_refused(client):
    assert client.post("/", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:8000"):
        assert client.post("/", headers={"origin": origin}).status_code == 403


def test_addresses_are_not_fetched(client):
    for path in ("/gradio_api/file=http://x/", "/gradio_api/file=https%3A//x", "/gradio_api/proxy=https://x.hf.space"):
        assert client.get(path).status_code == 403
    sent = {"data": [[{"path": "http://x/y.png", "meta": {"_type": "gradio.FileData"}}]]}
    assert client.post("/gradio_api/queue/join", json=sent).status_code == 400
    for kind in ("application/json", " Application/JSON", "application/x+json", "text/plain", ""):
        answer = client.post("/gradio_api/queue/join", content=json.dumps(sent), headers={"content-type": kind})
        assert answer.status_code == 400, kind
    own = {"data": [{"path": "/tmp/up/y.png", "url": "http://127.0.0.1:7860/gradio_api/file=/tmp/up/y.png"}]}
    assert client.post("/gradio_api/queue/join", json=own).json() == own


def test_large_requests_are_refused(client):
    assert client.post("/x", json={"a": "b" * (5 << 20)}).status_code == 413


def test_what_is_no_json_is_left_to_the_server():
    assert not foreign(b"{") and not foreign(b"[" * 100_000) and not foreign(b'[1, {"path": 3}]')


def test_pages_of_the_proxy_are_ours():
    names = (*LOOPBACK, "example.org")
    client = starlette.TestClient(Guard(echo, names, "example.org:8443"), base_url="http://127.0.0.1:7860")
    for host in ("127.0.0.1:7860", "example.org:8443", "Example.org"):
        assert client.post("/", headers={"host": host, "origin": "https://example.org:8443"}).status_code == 200
        assert client.post("/", headers={"host": host, "origin": "https://evil.example"}).status_code == 403
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
