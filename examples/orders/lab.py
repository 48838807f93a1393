"""The shop in the crash lab: what it does, and what has to hold whatever happens to it."""

from examples.orders.shop import Order, Shop
from holdfast import Runtime
from holdfast.testing.crashlab import Lab

DELIVERED = 40
ORDERS = [Order(number, "lamp", 1 + number % 3) for number in range(24)]


async def work(lab: Lab, shop_of: type[Shop] = Shop) -> None:
    """Take the orders that were not taken yet, as long as there is stock."""
    async with lab.open() as rt:
        shop = shop_of(rt)
        await shop.deliver("lamp", DELIVERED)
        taken = {order.number for order in await shop.orders()}
        for order in ORDERS:
            if order.number not in taken and await shop.take(order):
                lab.acknowledged(order.number)  # The customer is told.


async def invariant(rt: Runtime, acknowledged: list[int]) -> None:
    """Every order a customer was told of is there, once, and the stock knows of each."""
    shop = Shop(rt)
    orders = await shop.orders()
    numbers = [order.number for order in orders]
    assert set(acknowledged) <= set(numbers), "an order the customer was told of is gone"
    assert len(set(numbers)) == len(numbers), "an order was taken twice"
    if orders:
        left, _ = await shop.stock("lamp")
        sold = sum(order.pieces for order in orders)
        assert left + sold == DELIVERED, f"{sold} sold and {left} left of {DELIVERED}"
