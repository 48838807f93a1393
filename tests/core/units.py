"""Random units over a few names, so that they meet: in streams, records, leases, snapshots."""

import msgspec
from hypothesis import strategies as st

from holdfast.core import codec
from holdfast.core.event import Event
from holdfast.core.unit import (
    Append,
    AtSequence,
    AtVersion,
    CloseStream,
    DeleteBlob,
    DeleteRecord,
    Fence,
    GrantLease,
    MendRecord,
    PatchRecord,
    PutBlob,
    PutRecord,
    PutSnapshot,
    ReleaseLease,
    RenewLease,
    TrimStream,
    Unit,
)

# Stands for the incarnation that runs the unit; `as_of` puts the real one in.
ME = b"me" * 8
OTHER = b"no" * 8
SHORT, LONG = 600.0, 60_000.0

streams = st.sampled_from(["a", "b", "é\0"])
keys = st.sampled_from([("a",), ("a", "b")])
leases = st.sampled_from(["x", "y"])
small = st.integers(0, 5)
generations = st.integers(1, 3)
values = st.sampled_from([codec.encode(v) for v in ({}, {"n": 1, "s": "t"}, {"n": -0.5}, [1])])
ttls = st.sampled_from([SHORT, LONG])
blobs = st.sampled_from([PutBlob.of(b"one"), PutBlob.of(b"two" * 900)])
events = st.builds(
    Event,
    st.sampled_from(["t", "u"]),
    st.sampled_from([codec.encode(v) for v in (None, 1, {"a": [b"\0"]})]),
    st.sampled_from([None, codec.encode({"m": 1})]),
)
appends = st.builds(Append, streams, st.lists(events, max_size=3).map(tuple))
patches = st.builds(
    PatchRecord,
    st.just("k"),
    keys,
    st.dictionaries(st.sampled_from("np"), st.sampled_from([codec.encode(2), codec.encode("x")])),
    st.dictionaries(st.sampled_from("nsq"), st.sampled_from([1, -3, 0.5])),
    st.sampled_from([(), ("n",), ("s", "p")]),
    st.sampled_from([None, "tag"]),
)
# How many are kept is a property of the name here: within one batch the last word counts.
snapshots = st.builds(
    lambda name, stream, sequence, data: PutSnapshot.of(
        name, stream, sequence, data, {"n": 1, "m": 3}[name]
    ),
    st.sampled_from("nm"),
    streams,
    small,
    st.sampled_from([b"", b"s" * 3_000]),
)
writes = st.one_of(
    appends,
    appends,
    st.builds(CloseStream, st.just("é\0")),
    st.builds(TrimStream, streams, small),
    st.builds(PutRecord, st.just("k"), keys, values, st.sampled_from([None, "tag"])),
    patches,
    st.builds(MendRecord, st.just("k"), keys, values, st.sampled_from([None, "tag"])),
    st.builds(DeleteRecord, st.just("k"), keys),
    st.builds(GrantLease, leases, ttls, st.just("me"), st.sampled_from([0, 0, 0, 1, 2, 3])),
    st.builds(RenewLease, leases, generations, ttls),
    st.builds(ReleaseLease, leases, generations),
    blobs,
    blobs.map(lambda blob: DeleteBlob(blob.digest)),
    snapshots,
)
expectations = st.one_of(
    st.builds(AtSequence, streams, small),
    st.builds(AtVersion, st.just("k"), keys, small),
    st.builds(Fence, leases, generations, st.sampled_from([ME, ME, OTHER])),
)
units = st.builds(
    Unit,
    st.lists(writes, min_size=1, max_size=4).map(tuple),
    st.one_of(st.just(()), st.lists(expectations, max_size=2).map(tuple)),
)


def as_of(unit: Unit, incarnation: bytes) -> Unit:
    """Return the unit as an incarnation would write it."""
    expects = tuple(
        msgspec.structs.replace(part, incarnation=incarnation)
        if isinstance(part, Fence) and part.incarnation == ME
        else part
        for part in unit.expects
    )
    return msgspec.structs.replace(unit, expects=expects)
