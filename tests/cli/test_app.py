"""``tinygan-app``: what it says when it cannot serve, and that it stops cleanly."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from tinygan.cli.app import main

needs_gradio = pytest.mark.skipif(find_spec("gradio") is None, reason="needs Gradio: pip install -e '.[app]'")


def test_without_gradio_one_line_names_the_extra(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main([]) == 2
    error = capsys.readouterr().err
    assert error == "tinygan-app: error: tinygan-app needs Gradio: pip install 'tinygan[app]'\n"


@needs_gradio
@pytest.mark.filterwarnings("ignore")  # those of Gradio are not ours
def test_a_port_that_is_taken_is_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["--port", str(port), "--device", "cpu", "--threads", "1"]) == 2
    error = capsys.readouterr().err
    assert f"127.0.0.1:{port}: cannot listen there; choose another --port or --host" in error and error.count("\n") == 1


@needs_gradio
def test_it_says_where_it_serves_and_leaves_nothing_behind(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = f"from tinygan.cli.app import main; raise SystemExit(main(['--port', '{port}', '--device', 'cpu']))"
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == f"http://127.0.0.1:{port}/  (stop with Ctrl+C)\n"
        assert [folder.name[:12] for folder in tmp_path.iterdir()] == ["tinygan-app-"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as page:
            assert "tinygan: faces in a photograph" in page.read().decode()
        server.send_signal(signal.SIGTERM)
    assert server.returncode == 0 and not list(tmp_path.iterdir())
