"""Rules: what a unit of work means and when it is refused. No I/O, no clock, no asyncio."""
