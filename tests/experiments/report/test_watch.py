"""The served page: for this machine's browsers alone, and as new as its files."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from made_up import make_arm, make_comparison
from test_browser import browser  # noqa: F401

from frugalkd.errors import ReportError, RunFolderError
from frugalkd.experiments.report.watch import Server, Watched


@contextmanager
def served(path):
    with Server(Watched(path), 0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Of a comparison that stays as it is."""
    folder = tmp_path_factory.mktemp("watched")
    (folder / "comparison.json").write_text(json.dumps(make_comparison()))
    with served(folder) as server:
        yield server


@pytest.fixture
def growing(written):
    """Of the comparison in ``tmp_path``."""
    with served(written(make_comparison())) as server:
        yield server


def request(server, path="/", method="GET", **headers):
    """The answer's status, headers and body."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)) as connection:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()


def raw(server, request):
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(request)
        with connection.makefile("rb") as answer:
            return answer.readline()


def test_the_page_may_request_only_its_server(server):
    status, headers, body = request(server)
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert headers["Cache-Control"] == "no-store"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert b"89.90" in body
    policy = body.partition(b'Content-Security-Policy" content="')[2].partition(b'">')[0]
    assert b"default-src &#39;none&#39;" in policy
    assert b"connect-src &#39;self&#39;;" in policy
    assert request(server, method="HEAD")[::2] == (200, b"")
    assert request(server, method="POST")[0] == 501


def test_it_listens_on_this_machine_only(server):
    assert server.socket.getsockname() == ("127.0.0.1", server.port)
    assert server.url == f"http://127.0.0.1:{server.port}/"


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "0.0.0.0:{port}", ""],
)
@pytest.mark.parametrize("path", ["/", "/version", "/comparison.json"])
def test_other_hosts_are_refused(server, host, path):
    status, _, body = request(server, path, Host=host.format(port=server.port))
    assert status == 403
    assert body == f"403 Only for {server.url}\n".encode()


def test_only_its_own_hosts_are_accepted(server):
    assert request(server, Host=f"localhost:{server.port}")[0] == 200
    assert request(server, Host=f"LOCALHOST:{server.port}")[0] == 200
    ours = f"Host: 127.0.0.1:{server.port}\r\n".encode()
    assert b" 200 " in raw(server, b"GET / HTTP/1.1\r\n" + ours + b"\r\n")
    assert b" 403 " in raw(server, b"GET / HTTP/1.1\r\n\r\n")
    both = b"GET / HTTP/1.1\r\n" + ours + b"Host: evil.example\r\n\r\n"
    assert b" 403 " in raw(server, both)


def test_a_browser_leaves_out_the_usual_port(growing, monkeypatch):
    connection = http.client.HTTPConnection("127.0.0.1", growing.port, timeout=60)
    monkeypatch.setattr(growing, "port", 80)
    with closing(connection):
        connection.request("GET", "/version", headers={"Host": "127.0.0.1"})
        assert connection.getresponse().status == 200


@pytest.mark.parametrize(
    "path",
    [
        "/comparison.json", "/../comparison.json", "/../../../../etc/passwd", "/%2e%2e/etc/passwd",
        "//etc/passwd", "/./", "/.", "/version/", "/version/..", "/?", "/?x=1", "/runs/",
        "/index.html", "http://evil.example/", "/version%00", "file:///etc/passwd", "*",
    ],
)  # fmt: skip
def test_there_is_nothing_else(server, path):
    status, _, body = request(server, path, Host=f"127.0.0.1:{server.port}")
    assert (status, body) == (404, b"404 Not Found\n")


def test_it_is_as_new_as_its_file(growing, tmp_path):
    _, _, before = request(growing)
    version = request(growing, "/version")[2]
    assert len(version) == 16
    assert request(growing, "/version")[2] == version
    arms = [make_arm("vanilla", 0.903, mode="vanilla"), make_arm("newcomer", 0.95, 0.5)]
    (tmp_path / "comparison.json").write_text(json.dumps(make_comparison(arms)))
    assert request(growing, "/version")[2] != version
    _, _, after = request(growing)
    assert b"newcomer" in after
    assert b"newcomer" not in before


@pytest.mark.parametrize(
    "broken", [b"", b'{"schema": 2, "ar', b"\xff", b"[]", b'{"schema": 99}', None]
)
def test_a_broken_file_leaves_the_last_page(growing, tmp_path, broken):
    file = tmp_path / "comparison.json"
    whole, page, version = file.read_bytes(), request(growing)[2], request(growing, "/version")[2]
    file.unlink() if broken is None else file.write_bytes(broken)
    assert request(growing)[2] == page
    assert request(growing, "/version")[2] == version
    file.write_bytes(whole.replace(b'"a note"', b'"another note"'))
    assert b"another note" in request(growing)[2]


@pytest.mark.parametrize("begun", [None, ".lock", "teachers", "runs", "run.json"])
def test_before_the_first_result(tmp_path, begun):
    if begun is not None:
        (tmp_path / begun).touch()
    with served(tmp_path) as server:
        assert b"Nothing is done yet." in request(server)[2]
        (tmp_path / "comparison.json").write_text(json.dumps(make_comparison()))
        assert b"89.90" in request(server)[2]


def test_the_folder_that_one_is_in_has_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, _ = Watched(Path()).page()
    assert f"<title>{tmp_path.name}: nothing yet</title>".encode() in page


def test_what_has_no_page_is_refused_at_once(written, tmp_path):
    with pytest.raises(ReportError, match="there is no"):
        Watched(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(ReportError, match="holds neither comparison"):
        Watched(tmp_path / "other")
    with pytest.raises(RunFolderError):
        Watched(written({"schema": 99}))


def test_a_port_that_is_taken(server, cli, tmp_path):
    code, out, err = cli("report", str(tmp_path), "--watch", "--port", str(server.port))
    assert (code, out) == (2, "")
    assert err == (
        f"error: cannot serve on port {server.port} of 127.0.0.1, which is taken: choose another "
        "with --port, or --port 0 for any that is free\n"
    )


def test_it_writes_no_file(cli, written, tmp_path):
    code, _, err = cli("report", str(written(make_comparison())), "--watch", "--out", "a.html")
    assert (code, err.count("\n")) == (2, 1)
    assert "leave --out out" in err


@pytest.fixture
def interruptible():
    """A shell starts what it sends into the background with Ctrl-C ignored: these tests too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_it(cli, written, monkeypatch):
    folder, serve = written(make_comparison()), Server.serve_forever

    def serve_and_interrupt(server, poll_interval=0.01):
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        serve(server, poll_interval)

    monkeypatch.setattr(Server, "serve_forever", serve_and_interrupt)
    code, out, err = cli("report", str(folder), "--watch", "--port", "0")
    assert (code, err) == (130, "stopped\n")
    assert out.startswith("http://127.0.0.1:")
    assert out.count("\n") == 1
    port = int(out.split("/")[2].rpartition(":")[2])
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    assert not list(folder.glob("*.html"))


def arms_of(*accuracies):
    arms = [make_arm("vanilla", 0.903, mode="vanilla")]
    arms += [make_arm(f"arm{k}", value, 0.5) for k, value in enumerate(accuracies)]
    return json.dumps(make_comparison(arms))


@pytest.mark.heavy
def test_the_reader_keeps_their_place(browser, tmp_path):  # noqa: F811
    file = tmp_path / "comparison.json"
    file.write_text(arms_of(0.8, 0.85, 0.82))
    said = []
    with served(tmp_path) as server, closing(browser.new_page()) as page:
        page.set_default_timeout(120_000)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(server.url)
        page.wait_for_selector("html[data-drawn]")
        details = page.locator("#figure-participation details")
        details.locator("summary").click()
        heading = page.locator("#table-arms th", has_text="accuracy %")
        for _ in range(2):
            heading.get_by_role("button").click()
        chip = page.locator("#figure-frontier-budget .chips button", has_text="arm1")
        pressed = chip.get_attribute("aria-pressed")
        chip.click()
        page.evaluate("Plotly.relayout(document.querySelector('[data-figure=participation]'),"
                      "{'xaxis.range': [1, 2]})")  # fmt: skip
        details.locator("summary").focus()
        page.evaluate("""
            document.querySelector("#figure-participation details")
                .scrollIntoView({ behavior: "instant" });
            scrollBy({ top: -90, behavior: "instant" });
        """)
        top = "document.querySelector('#numbers-participation').getBoundingClientRect().top"
        before, scrolled = page.evaluate(top), page.evaluate("scrollY")
        assert scrolled > 500
        time.sleep(0.01)
        file.write_text(arms_of(0.8, 0.85, 0.82, 0.7, 0.71, 0.72))
        page.locator("#table-arms tbody tr").nth(6).wait_for()
        page.wait_for_timeout(1000)
        assert page.evaluate(top) == pytest.approx(before, abs=10)
        assert page.evaluate("scrollY") > scrolled + 50  # three rows more, above
        assert details.evaluate("it => it.open")
        assert page.locator("details[open]").count() == 1
        assert heading.get_attribute("aria-sort") == "ascending"
        rows = page.locator("#table-arms tbody td:nth-child(2)").all_inner_texts()
        accuracies = [float(text.split()[0]) for text in rows]
        assert accuracies == sorted(accuracies)
        assert chip.get_attribute("aria-pressed") != pressed
        focus = "document.activeElement.closest('figure')?.id + document.activeElement.tagName"
        assert page.evaluate(focus) == "figure-participationSUMMARY"
        plot = "document.querySelector('[data-figure=participation]').layout.xaxis.range"
        assert page.evaluate(plot) == [1, 2]
        assert page.locator("[data-figure=participation] .js-line").count() >= 6
        assert page.locator("#figure-participation .chips").count() == 1
        if shots := os.environ.get("FRUGALKD_SHOTS"):
            page.screenshot(path=f"{shots}/watched.png")
        assert said == []
        file.write_text(arms_of(0.8))
        page.locator("#table-arms tbody tr").nth(2).wait_for(state="detached")
        assert said == []
