"""
Unlocking a store that was just opened: its data keys are read and unwrapped before anything else.

A store that was never encrypted has none; the first opening for writing that brings a keyring
makes the first one, durable before anything is sealed under it. Of several that do so at once
one makes it.

Invariant: after `unlock` every value of the store can be read, or nothing is served.
"""

from holdfast.core.errors import (
    HoldfastError,
    OutcomeUnknownError,
    VersionConflictError,
)
from holdfast.core.key import prefix_end
from holdfast.core.sealing import KEY_KIND, KeyMissingError
from holdfast.core.unit import Unit
from holdfast.core.world import World
from holdfast.store.port import CommitFailed, Driver
from holdfast.store.reader import PAGE_ROWS
from holdfast.store.vault import Vault, read_data_key


def unlock(driver: Driver, vault: Vault | None, world: World, *, read_only: bool) -> None:
    """
    Let a driver seal and open values.

    Args:
        driver: just opened.
        vault: has the keyring; None if there is none.
        world: clock and ids.
        read_only: nothing is made that is not there.

    Raises:
        KeyMissingError, KeyWrongError: the store is encrypted, and the keyring does not fit.
    """
    while True:
        with driver.reading() as reader:
            rows = reader.records(KEY_KIND, b"", prefix_end(b""), PAGE_ROWS, None)
        if vault is None:
            if rows:
                names = ", ".join(sorted({read_data_key(row).by for row in rows}))
                raise KeyMissingError(keys=names, reason="no keyring was given")
            return
        vault.learn(rows)
        if vault.newest or read_only:
            driver.vault = vault
            return
        _make_first(driver, vault, world)


def _make_first(driver: Driver, vault: Vault, world: World) -> None:
    """Store the first data key, unless somebody else just did."""
    wish = vault.fresh(1, world.clock.wall()).put(0)
    unit = Unit(wish.writes, wish.expects, world.ids.unit(driver.last_number()))
    try:
        (answer,) = driver.commit([unit]).units
    except CommitFailed as error:
        raise OutcomeUnknownError(unit_id=unit.id.hex(), reason=str(error)) from error
    if isinstance(answer, HoldfastError) and not isinstance(answer, VersionConflictError):
        raise answer
