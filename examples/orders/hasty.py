"""The same shop with a bug, for the crash lab to find: an order is booked in two commits."""

from examples.orders import lab as right
from examples.orders.lab import invariant
from examples.orders.shop import Order, Shop
from holdfast.testing.crashlab import Lab

__all__ = ["HastyShop", "invariant", "work"]


class HastyShop(Shop):
    """A shop that writes the order first and the stock afterwards."""

    async def book(self, order: Order, version: int) -> None:
        """Write down the order, then take the pieces; a crash comes in between."""
        await self.rt.history("orders").append("ordered", order._asdict())
        left, _ = await self.stock(order.item)
        stock = {"pieces": left - order.pieces}
        await self.rt.records.put("stock", order.item, stock, expected=version)


async def work(lab: Lab) -> None:
    """Take the same orders."""
    await right.work(lab, HastyShop)
