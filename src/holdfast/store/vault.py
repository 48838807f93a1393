"""
The vault: seals and opens the values of one store.

    keyring (yours)          wraps      data keys (records of the store)      seal values
    k1, k2 = current         ------->   1, 2, 3 = newest                      ------->

*Envelope encryption*: values are sealed under random data keys that lie in the store, wrapped by
a key of the keyring. To change the keyring's key, a handful of records is wrapped anew; events,
which are never changed, stay as they are. New values are sealed under the newest data key, and
each sealed value says under which one it was:

    1 byte     version of this form
    4 bytes    number of the data key
    8 bytes    salt
    12 bytes   nonce
    the rest   AES-256-GCM of the value, with its place as associated data

The key of AES is not the data key itself but one derived from it and the salt, which is drawn
anew after `SALT_USES` seals and at each opening: nonces are random, and under one key there are
never so many of them that two may be expected to be equal.

Invariants: a data key is in the store before anything is sealed under it; no key is ever in an
error, a log or a `repr`; nothing is sealed unless every data key could be unwrapped.
"""

import os
import threading
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any, Final

import msgspec

from holdfast.core import codec
from holdfast.core.errors import MissingExtraError
from holdfast.core.key import Key
from holdfast.core.sealing import (
    KEY_KIND,
    BrokenSeal,
    KeyMissingError,
    KeyWrongError,
    UnknownDataKey,
)
from holdfast.core.unit import AtVersion, PutRecord, RecordRow, Unit
from holdfast.store.keyring import KEY_BYTES, Keyring

VERSION: Final = 1
SALT_USES: Final = 1 << 28
HEADER_BYTES: Final = 25
_NONCE_BYTES: Final = 12
_SALT_BYTES: Final = 8
_AES_KEPT: Final = 256


class DataKey(msgspec.Struct, frozen=True):
    """
    A data key as it is stored.

    Attributes:
        number: 1, 2, 3 ...; the last one is the newest.
        by: id of the key of the keyring that wraps it.
        made_by: id of the one that wrapped it first.
        wrapped: the data key, wrapped.
        made_at: wall time in seconds.
    """

    number: int
    by: str
    made_by: str
    wrapped: bytes
    made_at: float

    @property
    def key(self) -> Key:
        """Where its record is."""
        return (f"{self.number:06d}",)

    def put(self, version: int) -> Unit:
        """Return the unit that writes it in place of a version, 0 for none."""
        write = PutRecord(KEY_KIND, self.key, msgspec.msgpack.encode(self))
        return Unit((write,), (AtVersion(KEY_KIND, self.key, version),))


def read_data_key(row: RecordRow) -> DataKey:
    """Return a stored data key."""
    return codec.decode_as(row.value or b"\xc0", DataKey, "data key")


class Vault:
    """
    The data keys of one store, unwrapped.

    Attributes:
        keyring: by whose keys they are wrapped.
    """

    def __init__(self, keyring: Keyring) -> None:
        """
        Take the keyring.

        Raises:
            MissingExtraError: what encrypts is not installed.
        """
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise MissingExtraError(feature="encryption", extra="encryption") from error
        self._aes, self._invalid = AESGCM, InvalidTag
        self.keyring = keyring
        self._keys: dict[int, bytes] = {}
        self._gone: set[int] = set()
        self._derived: dict[bytes, Any] = {}
        self._lock = threading.Lock()
        self._sealing: tuple[bytes, Any] | None = None
        self._uses = 0

    @property
    def newest(self) -> int:
        """Number of the data key under which is sealed; 0 if there is none."""
        return max(self._keys, default=0)

    def learn(self, rows: Iterable[RecordRow], asked: int = 0) -> None:
        """
        Take the data keys of the store.

        Args:
            rows: their records.
            asked: a number that somebody met; if it is not among them, it is gone for good.

        Raises:
            KeyMissingError: one is wrapped by a key that is not in the keyring.
            KeyWrongError: the key of that id is another one.
        """
        for row in rows:
            if row.value is not None:
                found = read_data_key(row)
                if found.number not in self._keys:
                    self._keys[found.number] = self.unwrapped(found)
                    self._sealing = None
        if asked not in self._keys:
            self._gone.add(asked)

    def unwrapped(self, found: DataKey) -> bytes:
        """
        Return a data key.

        Raises:
            KeyMissingError: it is wrapped by a key that is not in the keyring.
            KeyWrongError: the key of that id is another one.
        """
        key = self.keyring.find(found.by)
        if key is None:
            reason = f"{self.keyring.source} does not have it"
            raise KeyMissingError(keys=found.by, reason=reason)
        nonce, wrapped = found.wrapped[:_NONCE_BYTES], found.wrapped[_NONCE_BYTES:]
        try:
            place = codec.frame("data key", found.number, found.by)
            return bytes(self._aes(key).decrypt(nonce, wrapped, place))
        except self._invalid as error:
            raise KeyWrongError(key=found.by, source=self.keyring.source) from error

    def wrap(self, number: int, data_key: bytes, made_by: str, made_at: float) -> DataKey:
        """Return a data key wrapped by the current key of the keyring."""
        by = self.keyring.current
        key = self.keyring.find(by)
        if key is None:
            raise KeyMissingError(keys=by, reason=f"{self.keyring.source} does not have it")
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._aes(key).encrypt(nonce, data_key, codec.frame("data key", number, by))
        return DataKey(number, by, made_by or by, nonce + sealed, made_at)

    def fresh(self, number: int, made_at: float) -> DataKey:
        """Return a new data key, to be stored before it is learned."""
        return self.wrap(number, os.urandom(KEY_BYTES), "", made_at)

    def seal(self, place: bytes, data: bytes) -> bytes:
        """Return bytes sealed for a place."""
        sealing = self._sealing
        if sealing is None or self._uses >= SALT_USES:
            sealing = self._begin_sealing()
        self._uses += 1
        nonce = os.urandom(_NONCE_BYTES)
        return b"%b%b%b" % (sealing[0], nonce, sealing[1].encrypt(nonce, data, place))

    def open(self, place: bytes, sealed: bytes) -> bytes:
        """
        Return the bytes that were sealed for a place.

        Raises:
            BrokenSeal: they were sealed for another place, or changed.
            UnknownDataKey: under a key that was not learned yet.
        """
        number = number_of(sealed)
        aes = self._derived.get(sealed[: HEADER_BYTES - _NONCE_BYTES])
        if aes is None:
            if number not in self._keys:
                raise BrokenSeal if number in self._gone else UnknownDataKey(number)
            aes = self._derive(sealed[: HEADER_BYTES - _NONCE_BYTES], number)
        nonce = sealed[HEADER_BYTES - _NONCE_BYTES : HEADER_BYTES]
        try:
            return bytes(aes.decrypt(nonce, sealed[HEADER_BYTES:], place))
        except self._invalid as error:
            raise BrokenSeal from error

    def _begin_sealing(self) -> tuple[bytes, Any]:
        with self._lock:
            number = self.newest
            head = bytes([VERSION]) + number.to_bytes(4, "big") + os.urandom(_SALT_BYTES)
            self._uses = 0
            self._sealing = sealing = head, self._derive(head, number)
            return sealing

    def _derive(self, head: bytes, number: int) -> Any:
        derived = blake2b(head, key=self._keys[number], digest_size=KEY_BYTES, person=b"holdfast")
        if len(self._derived) >= _AES_KEPT:
            self._derived = {}
        aes = self._derived[head] = self._aes(derived.digest())
        return aes


def number_of(sealed: bytes) -> int:
    """
    Return the number of the data key under which bytes were sealed.

    Raises:
        BrokenSeal: they are not sealed bytes.
    """
    if len(sealed) < HEADER_BYTES or sealed[0] != VERSION:
        raise BrokenSeal
    return int.from_bytes(sealed[1:5], "big")
