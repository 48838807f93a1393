"""
A shop: a durable list of orders and a stock that goes down with each.

The order and what it takes from the stock are one unit, so no crash can part them. The unit
expects the stock it has looked at, so two buyers cannot both get the last piece.
"""

from typing import NamedTuple

from holdfast import (
    Append,
    AtVersion,
    ConflictError,
    Event,
    PatchRecord,
    Runtime,
    Unit,
)


class Order(NamedTuple):
    """So many pieces of an item, under the customer's own number."""

    number: int
    item: str
    pieces: int


class Shop:
    """The shop, on an open runtime."""

    def __init__(self, rt: Runtime) -> None:
        """Take the runtime."""
        self.rt = rt

    async def deliver(self, item: str, pieces: int) -> None:
        """Put the first delivery of an item on the shelf; a second time it changes nothing."""
        if await self.rt.records.find("stock", item) is None:
            await self.rt.records.put("stock", item, {"pieces": pieces}, expected=0)

    async def stock(self, item: str) -> tuple[int, int]:
        """Return how many pieces are left, and the version of the record that says so."""
        record = await self.rt.records.get("stock", item)
        return record.value["pieces"], record.version

    async def orders(self) -> list[Order]:
        """Return all orders."""
        events = await self.rt.history("orders").read()
        return [Order(**event.data) for event in events]

    async def take(self, order: Order) -> bool:
        """Take an order if there is enough; when this returns True, it is durable."""
        while True:
            left, version = await self.stock(order.item)
            if left < order.pieces:
                return False
            try:
                await self.book(order, version)
            except ConflictError:
                continue  # Somebody bought in between; look again.
            return True

    async def book(self, order: Order, version: int) -> None:
        """Write down the order and take the pieces, both or neither."""
        await self.rt.commit(
            Unit(
                (
                    Append("orders", (Event.of("ordered", order._asdict()),)),
                    PatchRecord("stock", (order.item,), add={"pieces": -order.pieces}),
                ),
                (AtVersion("stock", (order.item,), version),),
            )
        )
