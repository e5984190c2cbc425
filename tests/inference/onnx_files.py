"""Changes of exported files."""

import onnx


def rewrite(path, change):
    """Change an exported file."""
    proto = onnx.load(path)
    change(proto)
    onnx.save(proto, path)
