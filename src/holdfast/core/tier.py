"""
How durable a field is, and in which words that is said.

- `DURABLE`: committed and synced before the edit that changed it returns.
- `BUFFERED`: written within one flush interval, all buffered fields of a session together; a
  crash loses at most the changes of one interval.
- `EPHEMERAL`: never written.
"""

from enum import StrEnum


class Tier(StrEnum):
    """How durable a field is."""

    DURABLE = "durable"
    """Committed before return."""

    BUFFERED = "buffered"
    """Written within one flush interval."""

    EPHEMERAL = "ephemeral"
    """Never written."""


DURABLE = Tier.DURABLE
BUFFERED = Tier.BUFFERED
EPHEMERAL = Tier.EPHEMERAL
