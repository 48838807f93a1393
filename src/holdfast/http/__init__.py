"""
The service: everything a runtime offers, over HTTP.

    app = FastAPI(lifespan=holdfast.http.lifespan("sqlite:///agent.db"))
    app.mount("/holdfast", holdfast.http.app())

It sees the runtime alone, never the store; what it answers is what the library would.
"""

from holdfast.core.errors import MissingExtraError

try:
    import starlette as starlette
except ImportError as error:
    raise MissingExtraError(feature="holdfast.http", extra="http") from error

from holdfast.http.app import app as app
from holdfast.http.app import lifespan as lifespan
from holdfast.http.site import Settings as Settings

__all__ = ["Settings", "app", "lifespan"]
