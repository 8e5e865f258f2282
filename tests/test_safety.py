"""The studio lets in whom it should, hands out what it should, speaks to nobody else: real servers, real requests."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("gradio_client")
import httpx  # noqa: E402

from difflora.cli import main  # noqa: E402
from difflora.config_ui import UiConfig  # noqa: E402
from difflora.errors import RequestError  # noqa: E402
from webui.safety import FREE_TRIES, IDLE, LONGEST_WAIT, Door, SignInError, hash_password, inside  # noqa: E402
from webui.server import bound, settled  # noqa: E402

SECRET = "nobody should read this"
# Where it lies: in the folder the server is started in, in the temporary folder, and in neither.
SECRETS = "home/secret.txt", "home/loras/ink.safetensors", "home/runs/ink/state.pt", "temp/secret.txt", "out/secret.txt"
PASSWORD = "correct horse battery"
# Pages that give back any file they are asked for: what a careless page would be.
APP = """
import sys
from pathlib import Path

from difflora.config_ui import UiConfig
from webui import server


def pages():
    import gradio as gr

    with gr.Blocks(analytics_enabled=False) as blocks:
        text, file = gr.Textbox(label="Path"), gr.File(label="File")
        gr.Button("Fetch").click(lambda text: text, text, file, api_name="fetch")
        drop, size = gr.File(label="Drop"), gr.Number(label="Size")
        drop.upload(lambda name: Path(name).stat().st_size, drop, size, api_name="size")
        user = gr.Textbox(label="Who")

        def who(request: gr.Request):
            return request.username

        blocks.load(who, None, user, api_name="who")
    return blocks


def opened(config):
    return server.build(config, pages(), lambda app, user: app.get("/studio/me")(lambda: "me")), lambda: print("closed")


def bare():
    import gradio as gr
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()
    for path, launched in (("/mounted", False), ("/launched", True)):
        blocks = pages()
        gr.mount_gradio_app(app, blocks, path=path)
        blocks.has_launched = launched
    listener = server.bound(UiConfig(port=0))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listener])


if __name__ == "__main__":
    if sys.argv[1:] == ["bare"]:
        bare()
    else:
        server.serve(UiConfig(port=0, upload_mb=1, uploads=5, auth=tuple(sys.argv[1:])), opened)
"""
# Python says of every address that it looks up or connects to; nothing can ask it not to.
HOOK = """
import os, sys

log = os.open(os.environ["SOCKETS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def watch(event, args):
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        os.write(log, (event + " " + repr(args[1]) + "\\n").encode())
    elif event in {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}:
        os.write(log, (event + " " + repr(args[0]) + "\\n").encode())


sys.addaudithook(watch)
"""


class Server:
    """A server in a process of its own, started in a folder that holds secrets."""

    def __init__(self, place: Path, *command: str) -> None:
        self.place = place
        hook, home = place / "hook", place / "home"
        for path in (*(place / name for name in SECRETS), hook / "sitecustomize.py"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(SECRET)
        (hook / "sitecustomize.py").write_text(HOOK)
        (home / "app.py").write_text(APP)
        self.sockets = place / "sockets.txt"
        self.sockets.touch()
        root = Path(__file__).parents[1]
        env = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(hook), str(root)]), "TMPDIR": str(place / "temp"),
            "SOCKETS": str(self.sockets), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1",
        }  # fmt: skip
        self.log = (place / "log.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, *command], cwd=home, env=env, stdout=self.log, stderr=subprocess.STDOUT, text=True
        )

    def address(self) -> str:
        """Where it answers, once it does."""
        for _ in range(600):
            found = re.search(r"http://127\.0\.0\.1:\d+", (self.place / "log.txt").read_text())
            if found:
                try:
                    httpx.get(f"{found[0]}/robots.txt")
                    return found[0]
                except httpx.TransportError:
                    pass
            assert self.process.poll() is None, (self.place / "log.txt").read_text()
            time.sleep(0.1)
        raise AssertionError((self.place / "log.txt").read_text())

    def close(self) -> str:
        """End it as Ctrl+C does; returns all it said."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(10)
        self.log.close()
        return (self.place / "log.txt").read_text()


@pytest.fixture(scope="module")
def servers(tmp_path_factory) -> Iterator[dict[str, Server]]:
    """open: the studio itself; guarded: careless pages behind a sign-in; bare: the same pages as Gradio mounts them."""
    place = tmp_path_factory.mktemp("servers")
    started = {
        "open": Server(place / "open", "-m", "difflora.cli", "ui", "--port", "0", "--upload-mb", "1", "--uploads", "5"),
        "guarded": Server(
            place / "guarded", "app.py", f"ann:{PASSWORD}", f"ben:{hash_password(PASSWORD)}", f"cat:{PASSWORD}"
        ),
        "bare": Server(place / "bare", "app.py", "bare"),
    }
    yield started
    for server in started.values():
        if server.process.poll() is None:
            server.close()


@pytest.fixture
def open_studio(servers) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=servers["open"].address()) as client:
        yield client


@pytest.fixture
def guarded(servers) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=servers["guarded"].address()) as client:
        yield client


@pytest.fixture
def ann(guarded) -> httpx.Client:
    assert sign_in(guarded, "ann", PASSWORD).status_code == 200
    return guarded


def sign_in(client: httpx.Client, user: str, password: str) -> httpx.Response:
    return client.post("/login", data={"username": user, "password": password})


def ask(client: httpx.Client, name: str, *data: object, at: str = "") -> list | None:
    """The answer of a named endpoint, None where it refuses."""
    begun = client.post(f"{at}/gradio_api/call/{name}", json={"data": list(data)})
    assert begun.status_code == 200, begun.text
    text = client.get(f"{at}/gradio_api/call/{name}/{begun.json()['event_id']}", timeout=30).text
    done = re.search(r"event: complete\ndata: (.*)", text)
    return json.loads(done[1]) if done else None


def fetched(client: httpx.Client, path: Path | str, at: str = "") -> str:
    """What a page that gives back any path it is given hands out for this one."""
    answer = ask(client, "fetch", str(path), at=at)
    return client.get(f"{at}/gradio_api/file={answer[0]['path']}").text if answer else ""


def upload(client: httpx.Client, *files: bytes) -> httpx.Response:
    return client.post("/gradio_api/upload", files=[("files", (f"{i}.bin", data)) for i, data in enumerate(files)])


# Settings


@pytest.mark.parametrize("flag", ["listen", "share"])
def test_a_studio_that_others_can_reach_refuses_to_open_without_a_sign_in(flag, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["ui", f"--{flag}"])
    assert ended.value.code == 2
    assert f"--{flag} without --auth: expected --auth USER:PASSWORD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("account", "found"),
    [
        ("ann:short", "a password of 5 characters"),
        ("ann", "without a colon"),
        ("../ann:long enough", "name '../ann'"),
        (".ann:long enough", "name '.ann'"),
    ],
)
def test_an_account_that_is_none_is_one_line_without_its_password(account, found):
    with pytest.raises(RequestError, match=re.escape(found)) as raised:
        UiConfig(auth=(account,))
    assert account.partition(":")[2] not in str(raised.value) or account == "ann"
    with pytest.raises(RequestError, match="each user once"):
        UiConfig(auth=("ann:long enough", "ann:other words"))


def test_a_broken_or_weak_hash_is_no_account():
    sound = hash_password(PASSWORD)
    for bad in (sound[:-2], sound.replace("$16384$", "$1024$"), sound.replace("$16384$", "$x$"), "scrypt$$$$$$$"):
        with pytest.raises(RequestError, match="not a hash of ours"):
            Door([f"ann:{bad}"])


def test_a_taken_port_and_a_missing_folder_are_one_line(tmp_path):
    with bound(UiConfig(port=0)) as taken, pytest.raises(RequestError, match="is in use: expected a free one"):
        bound(UiConfig(port=taken.getsockname()[1]))
    with pytest.raises(RequestError, match="no such folder"):
        settled(UiConfig(images=(tmp_path / "none",)))


def test_only_a_studio_for_this_machine_alone_may_read_the_folder_it_was_started_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settled(UiConfig()).images == (tmp_path,)
    assert settled(UiConfig(listen=True, auth=("ann:long enough",))).images == ()
    config = settled(UiConfig(images=(Path("."),), loras=Path("x/../styles")))
    assert config.images == (tmp_path,) and config.loras == tmp_path / "styles" and config.runs == tmp_path / "runs"


def test_a_hash_is_printed_that_signs_in(monkeypatch, capsys):
    monkeypatch.setattr("webui.server.getpass", lambda prompt: PASSWORD)
    main(["ui", "--hash", "ann"])
    account = re.fullmatch(r"--auth '(ann:scrypt\$16384\$8\$5\$.*)'\n", capsys.readouterr().out)[1]
    assert PASSWORD not in account
    assert Door([account]).sign_in("ann", PASSWORD, "here")


# Sign-in


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr("webui.safety.LANES", 1)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def failures(door: Door, count: int, user: str, address: str) -> SignInError:
    for _ in range(count):
        with pytest.raises(SignInError) as raised:
            door.sign_in(user, "not the password", address)
    return raised.value


def test_after_five_failures_the_wait_grows_for_the_user_and_for_the_address(quick):
    clock = Clock()
    door = Door([f"ann:{PASSWORD}"], clock)
    failures(door, FREE_TRIES, "ann", "one")
    with pytest.raises(SignInError, match="wait 2 seconds"):
        door.sign_in("ann", PASSWORD, "two")
    assert failures(door, 1, "ben", "one").wait == 2
    waits = []
    for _ in range(8):
        clock.now += door.wait("user ann")
        failures(door, 1, "ann", "three")
        waits.append(door.wait("user ann"))
    assert waits == [4, 8, 16, 32, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT, LONGEST_WAIT]
    clock.now += LONGEST_WAIT
    assert door.sign_in("ann", PASSWORD, "four") and door.wait("user ann") == 0


def test_a_session_ends_twelve_hours_after_its_last_request_and_when_signed_out(quick):
    clock = Clock()
    door = Door([f"ann:{PASSWORD}"], clock)
    token = door.sign_in("ann", PASSWORD, "here")
    clock.now += IDLE - 1
    assert door.who(token) == "ann"
    clock.now += IDLE - 1
    assert door.who(token) == "ann" and door.who("another") is None
    clock.now += IDLE + 1
    assert door.who(token) is None
    token = door.sign_in("ann", PASSWORD, "here")
    door.sign_out(token)
    assert door.who(token) is None


def test_nothing_but_the_sign_in_page_is_shown_to_a_stranger(guarded):
    for path in ("config", "gradio_api/info", "gradio_api/file=/etc/passwd", "gradio_api/token", "studio/me"):
        assert guarded.get(f"/{path}").status_code == 401, path
        forged = guarded.get(f"/{path}", headers={"Cookie": "; ".join(f"{c}=x" for c in ("session", "studio-0"))})
        assert forged.status_code == 401, path
    for path in ("/gradio_api/call/fetch", "/gradio_api/upload", "/gradio_api/cancel", "/gradio_api/queue/join"):
        assert guarded.post(path, json={"data": []}).status_code == 401, path
    page = guarded.get("/", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["location"]) == (303, "/login")
    shown = guarded.get("/login")
    assert shown.status_code == 200 and "http" not in shown.text.replace("http-equiv", "")


def test_the_right_password_opens_pages_routes_and_endpoints_under_that_name(guarded):
    assert sign_in(guarded, "ann", "wrong password").status_code == 401
    for user in ("ann", "ben"):  # plain and hashed
        answer = sign_in(guarded, user, PASSWORD)
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie
        assert guarded.get("/config").status_code == guarded.get("/studio/me").status_code == 200
        assert ask(guarded, "who") == [user]
    assert guarded.get("/logout").status_code == 303
    assert guarded.get("/config").status_code == 401


def test_a_person_gets_a_page_that_says_what_was_wrong_and_escapes_what_was_typed(guarded):
    answer = guarded.post(
        "/login", data={"username": '"><script>x', "password": "y"}, headers={"Accept": "text/html,*/*"}
    )
    assert answer.status_code == 401 and 'role="alert">This name and password' in answer.text
    assert "<script>x" not in answer.text and "&lt;script&gt;x" in answer.text
    right = guarded.post("/login", data={"username": "ann", "password": PASSWORD}, headers={"Accept": "text/html"})
    assert (right.status_code, right.headers["location"]) == (303, "/")


def test_many_wrong_passwords_make_that_address_wait(servers):
    transport = httpx.HTTPTransport(local_address="127.0.0.2")
    with httpx.Client(base_url=servers["guarded"].address(), transport=transport) as stranger:
        found = [sign_in(stranger, f"cat{i}", "wrong password") for i in range(FREE_TRIES + 1)]
        assert [answer.status_code for answer in found] == [401] * FREE_TRIES + [429]
        assert int(found[-1].headers["retry-after"]) >= 1
        assert sign_in(stranger, "cat", PASSWORD).status_code == 429


def test_gradio_client_signs_in_with_a_name_and_a_password(servers):
    code = (
        "import sys; from gradio_client import Client\n"
        "client = Client(sys.argv[1], auth=('ann', sys.argv[2]), verbose=False)\n"
        "print(client.predict(api_name='/who'))\n"
    )
    command = [sys.executable, "-c", code, servers["guarded"].address(), PASSWORD]
    offline = os.environ | {"HF_HUB_OFFLINE": "1"}
    assert subprocess.run(command, capture_output=True, text=True, check=True, env=offline).stdout == "ann\n"


# Where a request comes from


@pytest.mark.parametrize("header", ["Origin", "Referer"])
def test_a_request_sent_by_another_page_is_refused(open_studio, header):
    own = str(open_studio.base_url).rstrip("/")
    body = {"data": [], "session_hash": "x", "fn_index": 0}
    local = own.replace("127.0.0.1", "localhost")
    for source in ("http://evil.example", "null", local, own[:-1], f"{own}@evil.example", f"{own}.evil.example"):
        answer = open_studio.post("/gradio_api/cancel", json=body, headers={header: source})
        assert answer.status_code == 403, source
    assert open_studio.post("/gradio_api/queue/join", json=body, headers={header: own}).status_code != 403
    assert open_studio.get("/config", headers={"Origin": "http://localhost:8888"}).status_code == 403
    assert open_studio.options("/config", headers={"Origin": "http://evil.example"}).status_code == 403


def test_a_studio_for_this_machine_alone_answers_to_no_other_name(open_studio):
    port = open_studio.base_url.port
    for host in (f"evil.example:{port}", "evil.example", "127.0.0.1.evil.example", "", "[::2]", "a:b"):
        assert open_studio.get("/config", headers={"Host": host}).status_code in {400, 403}, host
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert open_studio.get("/config", headers={"Host": host}).status_code == 200, host


def test_every_answer_forbids_other_hosts_frames_and_guessing(open_studio):
    for path in ("/", "/config", "/nothing", "/login"):
        headers = open_studio.get(path).headers
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == policy["form-action"] == policy["base-uri"] == "'self'"
        assert "http" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "SAMEORIGIN"
        assert headers["referrer-policy"] == "same-origin" and "access-control-allow-origin" not in headers


# What can be read


def test_gradio_hands_out_files_that_a_page_names_and_here_it_does_not(servers, ann):
    """The bare pages show that the attack is real; the same pages behind the studio's server are safe."""
    bare, safe = servers["bare"], servers["guarded"]
    with httpx.Client(base_url=bare.address()) as client:
        for name in SECRETS:
            leaks = "" if name.startswith("out/") else SECRET
            assert fetched(client, bare.place / name, "/launched") == leaks, name
            assert fetched(client, bare.place / name, "/mounted") == SECRET, name
    for name in SECRETS:
        assert fetched(ann, safe.place / name) == "", name
    for name in ("secret.txt", "/etc/passwd", "../secret.txt", "~/.bashrc", "/proc/self/environ"):
        assert fetched(ann, name) == "", name


def test_no_file_outside_the_uploads_is_served(servers, open_studio):
    own = [servers["open"].place / name for name in SECRETS]
    for path in (*own, "/etc/passwd", "../secret.txt", "../../etc/passwd", "secret.txt", "%2e%2e/secret.txt"):
        for route in ("/gradio_api/file=", "/gradio_api/file/", "/file="):
            answer = open_studio.get(f"{route}{path}")
            assert answer.status_code in {403, 404} and SECRET not in answer.text, f"{route}{path}"
    for route in ("/static/", "/assets/", "/svelte/", "/studio/assets/", "/studio/pictures/", "/studio/previews/ink/"):
        for path in ("..%2f..%2fserver.py", "%2e%2e/%2e%2e/server.py", "%2fetc%2fpasswd", "..%2f..%2fstate.pt"):
            answer = open_studio.get(route + path)
            assert answer.status_code in {400, 403, 404}, route + path


def test_a_file_that_a_request_names_instead_of_uploading_is_not_read(servers, ann):
    for path in (
        servers["guarded"].place / "home/secret.txt",
        "/etc/passwd",
        "http://127.0.0.1:9/x",
        "https://hf.co/x",
    ):
        named = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        assert ask(ann, "size", named) is None, path
    sent = upload(ann, b"12345").json()[0]
    assert ask(ann, "size", {"path": sent, "meta": {"_type": "gradio.FileData"}}) == [5]


def test_a_typed_path_reaches_the_given_folders_only_and_tells_nothing_of_the_others(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    for folder in (root / "sub", other):
        folder.mkdir(parents=True)
    (root / "out").symlink_to(other)
    (root / "round").symlink_to(root / "round")
    for text in ("sub", str(root / "sub"), "sub/../sub/.", "."):
        assert inside(text, [other, root] if text == "sub" else [root]).is_relative_to(root)
    assert inside("none yet", [root]) == root / "none yet"
    refused = ["../other", str(other), "out", "out/x", "sub/../../other", "/", "\0", "../none", "x" * 10_000, "~root"]
    lines = set()
    for text in refused[:-1]:
        with pytest.raises(RequestError) as raised:
            inside(text, [root])
        lines.add(str(raised.value).partition("' is ")[2])
    assert lines == {"not in the folders of this studio: expected a path inside one of them"}
    assert inside(refused[-1], [root]) == root / "~root"
    with pytest.raises(RequestError):
        inside("anything", [])


# How much


def test_an_upload_over_the_limit_is_refused_and_leaves_nothing_behind(servers, guarded):
    sign_in(guarded, "ben", PASSWORD)
    (place,) = (servers["guarded"].place / "temp").glob("difflora-*")

    def left() -> set[Path]:
        return {path for path in (place / "cache").iterdir() if path.is_file()}

    before = left()
    assert upload(guarded, b"x" * 2**20).status_code == 200 and left() == before
    assert upload(guarded, b"y" * (2**20 + 1)).status_code == 413 and left() == before
    answer = upload(guarded, *[b"%d" % i for i in range(10)])
    assert answer.status_code == 429 and "wait a little" in answer.text
    assert upload(guarded, b"one more").status_code == 429 and left() == before


def test_a_body_over_the_limit_is_refused_whether_it_says_its_length_or_not(open_studio):
    large = b'{"data": ["' + b"x" * (21 * 2**20) + b'"]}'
    kind = {"Content-Type": "application/json"}

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(large), 2**20):
            yield large[start : start + 2**20]

    for content in (large, pieces()):
        with suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):  # hung up on while still sending
            assert open_studio.post("/gradio_api/queue/join", content=content, headers=kind).status_code == 413
    assert open_studio.get("/config").status_code == 200


# Nobody else


def test_nothing_but_loopback_is_looked_up_or_connected_to(browser, servers, open_studio):
    """From the start of `difflora ui` until its page was opened in a browser and an endpoint was asked."""
    address = str(open_studio.base_url)
    assert open_studio.get("/", headers={"Accept": "text/html"}).status_code == 200
    assert open_studio.get("/gradio_api/info").json()["named_endpoints"]
    assert open_studio.get("/gradio_api/file=http://example.com/x.png").status_code == 403
    assert open_studio.get("/gradio_api/proxy=https://x.hf.space/x").status_code in {400, 403}
    assert ask(open_studio, "status")
    assert outside_requests(browser, address) == []
    said = servers["open"].sockets.read_text() + servers["guarded"].sockets.read_text()
    local = r"socket\.\w+ (\('(127\.0\.0\.1|::1)', .*|'/.*'|'(127\.0\.0\.1|localhost|::1)'|b'.*')"
    assert [line for line in said.splitlines() if not re.fullmatch(local, line)] == []


def outside_requests(browser, address: str) -> list[str]:
    """Open the page as a browser does: what it asked of other hosts, and what the page's policy forbade."""
    found = []
    page = browser.new_page()
    page.on("request", lambda r: found.append(r.url) if not r.url.startswith((address, "data:", "blob:")) else None)
    page.on("console", lambda m: found.append(m.text) if "Content Security Policy" in m.text else None)
    page.goto(address)
    page.wait_for_selector("[role=tab]", timeout=30_000)
    page.wait_for_load_state("load")
    page.close()
    return found


def test_its_working_folder_is_private_and_gone_after_ctrl_c_which_takes_seconds(servers, ann):
    server = servers["guarded"]
    (place,) = (server.place / "temp").glob("difflora-*")
    assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert Path(f"/proc/{server.process.pid}/cwd").resolve() == place / "empty"
    start = time.monotonic()
    said = server.close()
    assert time.monotonic() - start < 6 and server.process.returncode == 0
    assert said.rstrip().endswith("closed") and "a plain password after --auth is seen by everyone" in said
    assert PASSWORD not in said and not place.exists()
