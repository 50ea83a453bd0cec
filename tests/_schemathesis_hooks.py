"""For schemathesis: small pictures. To the OpenAPI document a picture is any bytes, to the service it is not."""

from __future__ import annotations

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image

__all__: list[str] = []


@st.composite
def _pictures(draw: st.DrawFn, kind: str) -> bytes:
    side, grey = draw(st.integers(1, 40)), draw(st.integers(0, 255))
    content = io.BytesIO()
    Image.new("L", (side, side), grey).save(content, kind)
    return content.getvalue()


schemathesis.openapi.media_type("image/png", _pictures("PNG"))
schemathesis.openapi.media_type("image/jpeg", _pictures("JPEG"))
