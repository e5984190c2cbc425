"""The HTTP service of the documentation, over HTTP: right answers, also to eight clients at once; bad files refused."""

import importlib.util
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from threading import Barrier, Thread

import numpy as np
import pytest
from conftest import ROOT, photo
from PIL import Image

import segframe

pytest.importorskip("fastapi", reason="needs pip install segframe[dev]")
uvicorn = pytest.importorskip("uvicorn", reason="needs pip install segframe[dev]")
MAX_BYTES, MAX_PIXELS = 200_000, 10_000


@pytest.fixture
def model(trained):
    return segframe.load(trained, device="cpu")


@pytest.fixture
def port(model):
    """Where the service listens."""
    spec = importlib.util.spec_from_file_location("serve", ROOT / "docs/examples/serve.py")
    serve = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(serve)
    app = serve.service(model, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", ws="none", lifespan="off"))
    thread = Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


def ask(port, body=None, path="/predict", method="POST", **headers):
    """Return status, media type and content of an answer."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers)
    answer = connection.getresponse()
    found = (answer.status, answer.headers.get_content_type(), answer.read())
    connection.close()
    return found


def as_file(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image).save(file, kind)
    return file.getvalue()


def picture(seed, width=61, height=45):
    return np.asarray(Image.fromarray(photo(seed)).resize((width, height)))


def test_classes_overlay_and_shares(port, model):
    expected = model(picture(0))
    status, kind, content = ask(port, as_file(picture(0)))
    assert (status, kind) == (200, "image/png")
    found = Image.open(io.BytesIO(content))
    assert np.array_equal(np.asarray(found), expected.classes)
    assert expected.classes.any()
    colours = np.array(model.palette, np.uint8)[expected.classes]
    assert np.array_equal(np.asarray(found.convert("RGB")), colours)
    _, _, content = ask(port, as_file(picture(0)), "/predict?answer=overlay")
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(expected.overlay()))
    status, kind, content = ask(port, as_file(picture(0)), "/predict?answer=shares")
    answer = json.loads(content)
    assert (status, kind, answer["width"], answer["height"]) == (200, "application/json", 61, 45)
    assert answer["shares"][model.names[0]] == (expected.classes == 0).mean()
    assert sum(answer["shares"].values()) == pytest.approx(1)
    assert ask(port, as_file(picture(0)), "/predict?answer=masks")[0] == 422
    assert json.loads(ask(port, method="GET", path="/health")[2])["classes"] == list(model.names)


def test_eight_clients_at_once_get_their_own_answers(port, model):
    images = [picture(k, 40 + 3 * k, 60 - 2 * k) for k in range(8)]
    expected = [model(image).classes for image in images]
    barrier = Barrier(8)

    def client(k):
        barrier.wait()
        answers = [ask(port, as_file(images[(k + n) % 8])) for n in range(3)]
        return [np.asarray(Image.open(io.BytesIO(content))) for _, _, content in answers]

    with ThreadPoolExecutor(8) as pool:
        for k, answers in enumerate(pool.map(client, range(8))):
            for n, found in enumerate(answers):
                assert np.array_equal(found, expected[(k + n) % 8])


def test_files_that_are_no_images(port):
    assert ask(port, b"")[0] == 415
    assert ask(port, b"\x89PNG\r\n\x1a\n" + bytes(100))[0] == 415
    status, _, content = ask(port, as_file(picture(0))[:-900])
    assert status == 422
    assert json.loads(content)["detail"].startswith("cannot read the image, is the file damaged?")
    status, _, content = ask(port, as_file(np.arange(400, dtype=np.uint16).reshape(20, 20)))
    assert (status, "16 bits per channel" in json.loads(content)["detail"]) == (422, True)
    assert ask(port, as_file(picture(0)))[0] == 200


def test_large_files_are_refused_by_their_length_or_while_they_are_read(port):
    large = b"x" * (MAX_BYTES + 1)
    assert ask(port, large)[0] == 413
    assert ask(port, iter([large]))[0] == 413  # in chunks, without a length
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    assert connection.getresponse().status == 413  # before anything is sent
    connection.close()
    assert ask(port, as_file(picture(0)))[0] == 200


def test_a_small_file_of_a_huge_image_is_not_decoded(port):
    file = io.BytesIO()
    Image.new("1", (8000, 8000)).save(file, "PNG")
    assert len(file.getvalue()) < 20_000
    status, _, content = ask(port, file.getvalue())
    assert status == 413
    assert json.loads(content)["detail"] == "the image has 8000 x 8000 pixels, more than 10000 in all"
