import json
import socket
import time
import urllib.error
import urllib.request
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image
from robustsr_ui.server import served
from ui_server import folders, running

from robustsr.types import RobustSRError

gradio_client = pytest.importorskip("gradio_client")
httpx = pytest.importorskip("httpx")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("home")) as (address, process):
        yield address, process


@pytest.fixture(scope="module")
def client(server):
    return gradio_client.Client(server[0], verbose=False)


@pytest.fixture
def png(tmp_path, photo):
    Image.fromarray(photo(20, 24)).save(tmp_path / "in.png")
    return tmp_path / "in.png"


def get(address):
    try:
        with urllib.request.urlopen(address) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_the_api_upscales_like_the_command_line(client, png):
    """Options that are not given are the form's: `robustsr upscale in.png --smooth median -m psnr`."""
    handle = gradio_client.handle_file(str(png))
    made = client.predict(picture=handle, model="psnr", samples="4", format="png", api_name="/upscale")
    slider, about, download, command = made[0], made[1], made[2], made[3]
    assert len(slider) == 2 and "**96 x 80 pixels**" in about and "median of 4 draws" in about
    assert command == "robustsr upscale in.png --model psnr --smooth median --samples 4 --format png --device cpu"
    path = download["value"] if isinstance(download, dict) else download
    assert Image.open(path).size == (96, 80)


def test_the_api_says_what_is_wrong_without_a_trace(client, png, tmp_path):
    handle = gradio_client.handle_file(str(png))
    with pytest.raises(Exception, match="Sigma must be a number") as caught:
        client.predict(picture=handle, sigma="strong", api_name="/upscale")
    assert "Traceback" not in str(caught.value)
    (tmp_path / "bad.png").write_bytes(b"nothing")
    with pytest.raises(Exception, match="[Cc]annot read bad.png") as caught:
        client.predict(picture=gradio_client.handle_file(str(tmp_path / "bad.png")), api_name="/upscale")
    assert "robustsr-ui" not in str(caught.value)


def test_a_result_cannot_be_written_outside(client, png, tmp_path):
    victim = tmp_path / "victim.png"
    victim.write_bytes(b"mine")
    handle = gradio_client.handle_file(str(png))
    with pytest.raises(Exception, match="cannot be a part of a name"):
        client.predict(picture=handle, suffix=f"/../../../../..{victim.with_suffix('')}", api_name="/upscale")
    assert victim.read_bytes() == b"mine"


def test_a_certificate_with_a_truth_has_a_certified_psnr(client, tmp_path, photo):
    Image.fromarray(photo(64, 64)).save(tmp_path / "hr.png")
    Image.fromarray(photo(64, 64)).resize((16, 16), Image.Resampling.BICUBIC).save(tmp_path / "lr.png")
    files = [gradio_client.handle_file(str(tmp_path / name)) for name in ("lr.png", "hr.png")]
    options = {"model": "psnr", "eps": "0.002", "n": 400, "ship": 51, "api_name": "/certify"}
    claim, _, command = client.predict(picture=files[0], truth=files[1], **options)[1:]
    assert "Certified PSNR: at least" in claim and "With probability at least 0.95" in claim
    assert "Only the centre" not in claim and command.startswith("robustsr certify lr.png -m psnr")
    with pytest.raises(Exception, match="[Gg]ive the picture that belongs to"):
        client.predict(picture=None, truth=files[1], **options)
    with pytest.raises(Exception, match="have to be given"):
        client.predict(picture=files[0], truth=None, **{**options, "n": None})
    Image.fromarray(photo(66, 65)).save(tmp_path / "larger.png")
    larger = gradio_client.handle_file(str(tmp_path / "larger.png"))
    few = {**options, "n": 60, "ship": 3, "eps": "0.0001", "scope": "each value"}
    said, _, command = client.predict(picture=larger, truth=None, **few)[1:]
    assert "Only the centre, 64x64 of 65x66 pixels" in said and command.endswith("--scope value --crop 0,1,64,64")


def test_only_the_jobs_are_in_the_api(client):
    names = set(client.view_api(print_info=False, return_format="dict")["named_endpoints"])
    assert names == {"/upscale", "/compare", "/attack", "/certify"}


def test_nothing_outside_its_folder_can_be_read(server, png, tmp_path):
    address, process = server
    (root,) = folders(process)
    secret = tmp_path / "secret.txt"
    secret.write_text("what nobody may read")
    routes = [
        str(secret),
        "/etc/passwd",
        f"{root}/../../etc/passwd",
        f"{root}/..%2f..%2fetc/passwd",
        "../../../../etc/passwd",
        f"{root}/../{tmp_path.name}/secret.txt",
        "file:///etc/passwd",
        str(root),
    ]
    for path in routes:
        for text in (path, quote(path, safe="")):
            status, body = get(f"{address}/gradio_api/file={text}")
            assert status in (403, 404, 405) and b"nobody may read" not in body and b"root:" not in body, text
    for kind in ("path", "url"):
        payload = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
        if kind == "url":
            payload["path"] = "http://127.0.0.1:1/x.png"
        request = urllib.request.Request(
            f"{address}/gradio_api/call/compare",
            json.dumps({"data": [payload, None, ["bicubic"], "", ""]}).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                event = json.load(answer)["event_id"]
            assert kind == "path"
            with urllib.request.urlopen(f"{address}/gradio_api/call/compare/{event}") as answer:
                said = answer.read().decode()
            assert "event: error" in said and "nobody may read" not in said
        except urllib.error.HTTPError as error:
            assert error.code == 400 and kind == "url"


def test_other_sites_and_names_are_refused(server):
    address, _ = server
    for name, value in (("Host", "evil.example"), ("Origin", "http://evil.example")):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(urllib.request.Request(address, headers={name: value}))
        assert caught.value.code == 403


@pytest.mark.parametrize(("host", "share"), [("0.0.0.0", False), ("192.168.1.5", False), ("127.0.0.1", True)])
def test_others_only_come_in_with_a_password(host, share):
    with pytest.raises(RobustSRError, match="add --auth USER:PASSWORD"), served(host, share=share):
        pass


@pytest.mark.parametrize("host", ["10.9.9.9", "nosuch.host.invalid"])
def test_a_host_that_is_none_of_this_machine_is_said_at_once(host):
    said = f"cannot listen on {host}: .*: give an address of this machine"
    with pytest.raises(RobustSRError, match=said), served(host, auth=("me", "secret")):
        pass


def test_it_listens_on_the_sixth_version_of_the_protocol(tmp_path):
    with socket.socket(socket.AF_INET6) as six:
        try:
            six.bind(("::1", 0))
        except OSError:
            pytest.skip("this machine has no IPv6")
    with running(tmp_path, "--host", "::1") as (address, _):
        assert address.startswith("http://[::1]:") and get(address)[0] == 200


def test_behind_a_proxy_it_goes_by_that_address(tmp_path):
    for url, auth in (("https://example.org", None), ("example.org", ("me", "secret")), ("ftp://x", ("me", "secret"))):
        said = "add --auth" if auth is None else "--url is the address"
        with pytest.raises(RobustSRError, match=said), served(url=url, auth=auth):
            pass
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = "https://example.org/sr"
    with running(tmp_path, "--url", f"{url}/", "--auth", "me:secret", "--port", str(port)) as (address, _):
        assert address == url
        seen = {"Host": "example.org", "Origin": "https://example.org"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=seen) as client:
            assert client.post("/login", data={"username": "me", "password": "secret"}).status_code == 200
            config = client.get("/config").json()
            assert config["root"] == url and "no further" in json.dumps(config["components"])
            assert client.get("/config", headers={"Host": "evil.example"}).status_code == 403
            assert client.get("/config", headers={"Origin": "https://evil.example"}).status_code == 403


@pytest.mark.parametrize("signals", [(2, 2), (2, 15), (15, 2), (15, 15)])
def test_a_password_is_asked_for_and_everything_goes_at_the_end(tmp_path, signals):
    with running(tmp_path, "--auth", "me:secret") as (address, process):
        (root,) = folders(process)
        assert oct(root.stat().st_mode)[-3:] == "700"
        assert get(f"{address}/config")[0] == 401
        assert get(f"{address}/gradio_api/file={root}")[0] in (401, 403)
        for i in range(5000):  # so that deleting takes a while, in which others come again and again
            (root / str(i)).touch()
        process.send_signal(signals[0])
        time.sleep(0.6)  # it looks twice a second
        for _ in range(40):
            process.send_signal(signals[1])
            time.sleep(0.02)
    assert process.returncode == 0 and not root.exists()


def test_what_a_killed_one_left_goes_with_the_next_start(tmp_path, server):
    with running(tmp_path) as (_, process):
        (left,) = folders(process)
        process.kill()
    (left / "private.png").touch()
    with running(tmp_path):
        assert not left.exists() and not Path(f"{left}.lock").exists()
        assert folders(server[1])  # that of one that runs stays


def test_a_taken_port_is_said(server):
    port = int(server[0].rpartition(":")[2])
    with pytest.raises(RobustSRError, match=f"cannot listen on 127.0.0.1, port {port}: it is taken"), served(port=port):
        pass


def test_what_is_too_large_is_refused(tmp_path, png):
    (tmp_path / "long.png").write_bytes(b"x" * (2 << 20))
    with running(tmp_path / "home", "--max-upload", "1", "--max-pixels", "400") as (address, _):
        client = gradio_client.Client(address, verbose=False)
        with pytest.raises(Exception, match="413|size|large"):
            client.predict(picture=gradio_client.handle_file(str(tmp_path / "long.png")), api_name="/upscale")
        with pytest.raises(Exception, match="the limit is 400"):
            client.predict(picture=gradio_client.handle_file(str(png)), api_name="/upscale")


def test_the_api_says_what_it_takes_and_gives(client, png):
    described = client.view_api(print_info=False, return_format="dict")["named_endpoints"]
    assert set(described) == {"/upscale", "/compare", "/attack", "/certify"}
    for name, endpoint in described.items():
        assert endpoint["description"], name
        assert all(parameter["parameter_has_default"] for parameter in endpoint["parameters"]), name
    handle = gradio_client.handle_file(str(png))
    _, table, _ = client.predict(handle, models=["bicubic"], api_name="/compare")
    assert [row[0] for row in table["value"]["data"]] == ["bicubic"]
    with pytest.raises(Exception, match="Choose a picture first"):
        client.predict(api_name="/upscale")
