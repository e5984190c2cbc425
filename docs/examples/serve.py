"""An HTTP service: POST /predict takes an image file as its body and answers with its classes.

python serve.py model.onnx
"""

import io
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import uvicorn
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, HTTPException, Request, Response
from PIL import Image

import segframe

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")


def service(model, max_bytes: int = 16 << 20, max_pixels: int = 1 << 23, at_once: int = 2) -> FastAPI:
    """Return the service of what segframe.load returns; `at_once`: images that run at the same time, others wait."""
    app = FastAPI(title="Semantic segmentation")
    limiter = CapacityLimiter(at_once)

    @app.get("/health")
    async def health() -> dict[str, object]:
        return {"model": model.path.name, "classes": model.names}

    @app.post("/predict")
    async def predict(request: Request, answer: Literal["classes", "overlay", "shares"] = "classes") -> Response:
        body = await read_body(request, max_bytes)
        check_image(body, max_pixels)
        content, media_type = await run_sync(respond, model, body, answer, limiter=limiter)
        return Response(content, media_type=media_type)

    return app


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request; of a longer one little more than `max_bytes` are read."""
    body = bytearray()
    if int(request.headers.get("content-length", 0)) <= max_bytes:
        async for chunk in request.stream():  # without a length in the header there may be any number
            body += chunk
            if len(body) > max_bytes:
                break
        else:
            return bytes(body)
    raise HTTPException(413, f"the file has more than {max_bytes} bytes")


def check_image(body: bytes, max_pixels: int) -> None:
    """Refuse what is no image, or one of many pixels by its header: a small file may decode to gigabytes."""
    try:
        width, height = Image.open(io.BytesIO(body), formats=FORMATS).size
    except Exception as error:  # Pillow has no common class for them
        raise HTTPException(415, f"the body is no image file of {', '.join(FORMATS)}") from error
    if width * height > max_pixels:
        raise HTTPException(413, f"the image has {width} x {height} pixels, more than {max_pixels} in all")


def respond(model, body: bytes, answer: str) -> tuple[bytes, str]:
    """Return the answer to an image file, and its media type."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "image"
        path.write_bytes(body)
        try:
            result = model(path)  # reads the file as the program predict does, 16 bits too
        except segframe.UserError as error:  # damaged, or with other channels than the network's
            raise HTTPException(422, str(error).replace(str(path), "the image")) from error
    if answer == "shares":
        pixels = np.bincount(result.classes.ravel(), minlength=len(result.names)) / result.classes.size
        height, width = result.classes.shape
        shares = dict(zip(result.names, pixels.tolist(), strict=True))
        return json.dumps({"width": width, "height": height, "shares": shares}).encode(), "application/json"
    picture = result.overlay() if answer == "overlay" else Image.fromarray(result.classes)
    if answer == "classes":  # its values are the class indices; programs show them in the classes' colours
        picture.putpalette([value for colour in result.palette for value in colour])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue(), "image/png"


if __name__ == "__main__":
    try:
        trained = segframe.load(sys.argv[1])
    except segframe.UserError as error:
        sys.exit(f"error: {error}")
    uvicorn.run(service(trained), host="127.0.0.1", port=8000, limit_concurrency=100)
