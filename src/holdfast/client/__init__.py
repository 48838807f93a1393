"""
A client of the service: what a program holds in its hands when the store is somewhere else.

    async with holdfast.client.connect("http://127.0.0.1:8321", token=token) as service:
        run = await service.runs.start("shop.report", "lighthouse")
        async for event in service.events.follow(run["id"]):
            print(event.seq, event.type)

It follows over restarts of the service without loss and without repeats, sends an idempotency
key with everything that changes something, the same when it has to ask again, and raises the
same classes of errors as the library.
"""

from holdfast.core.errors import MissingExtraError

try:
    import httpx as httpx
except ImportError as error:
    raise MissingExtraError(feature="holdfast.client", extra="client") from error

from holdfast.client.connection import Options as Options
from holdfast.client.event import Event as Event
from holdfast.client.service import Service as Service
from holdfast.client.service import connect as connect

__all__ = ["Event", "Options", "Service", "connect"]
