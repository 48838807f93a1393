"""The ledger's rules against a small oracle: random histories of one key, and every verdict."""

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from holdfast.core.errors import HoldfastError, InvalidValueError
from holdfast.core.ledger import (
    CLAIMABLE,
    CRASHED,
    NEXT,
    EntryRow,
    EntryState,
    Owned,
    Policy,
    Sign,
    Terms,
    begun,
    claimed,
    decode_row,
    encode_logged,
    encode_row,
    fold,
    resolved,
    settled,
    stopped,
    verdict,
)

KEY = ("turn", "1")
OWNERS = [Owned(name, number, name, f"log/{number}") for number, name in enumerate("ab")]
FRESH = 60.0
policies = st.sampled_from(Policy)
acts = st.lists(
    st.tuples(
        st.sampled_from(["begin", "claim", "settle", "crash", "stop", "resume", "give up"]),
        st.sampled_from(OWNERS),
        policies,
        st.integers(0, 100),
    ),
    max_size=30,
)


def sign(seconds: float, domain: str = "boot:1") -> Sign:
    """Return a moment."""
    return Sign(1e9 + seconds, domain, seconds)


class Oracle:
    """What a key is, in the plainest words: who works on it, how often it crashed, and so on."""

    def __init__(self) -> None:
        self.state = "nothing"
        self.by = ""
        self.generation = 0
        self.crashes = 0
        self.policy = Policy.REPORT
        self.silent = 0
        self.asked = False

    def act(self, what: str, by: str, policy: Policy, silence: int) -> bool:
        """Do something; return whether it is allowed."""
        return bool(getattr(self, "may_" + what.replace(" ", "_"))(by, policy, silence))

    def may_begin(self, by: str, policy: Policy, silence: int) -> bool:
        if self.state == "quarantined" or (self.state == "running" and self.by != by):
            return False
        self.state, self.by, self.policy = "running", by, policy
        self.generation, self.crashes, self.asked = self.generation + 1, 0, False
        return True

    def may_claim(self, by: str, policy: Policy, silence: int) -> bool:
        if self.state not in ("resumable", "interrupted"):
            return False
        self.state, self.by, self.generation = "running", by, self.generation + 1
        return True

    def may_settle(self, by: str, policy: Policy, silence: int) -> bool:
        if self.state != "running" or self.by != by:
            return False
        self.state = "settled"
        return True

    def may_crash(self, by: str, policy: Policy, silence: int) -> bool:
        if self.state != "running" or self.by != by:
            return False
        self.crashes += 1
        said = {"ask": "asking", "resume": "resumable", "report": "interrupted"}
        if self.asked:
            self.state = "stopped"
        elif self.policy is Policy.SUSPEND:
            self.state = "suspended"
        elif silence > FRESH:
            self.state = "expired"
        else:
            self.state = "quarantined" if self.crashes == 3 else said[self.policy.value]
        return True

    def may_stop(self, by: str, policy: Policy, silence: int) -> bool:
        if self.state == "running":
            self.asked = True
            return True
        if self.state in ("nothing", "settled", "stopped", "quarantined"):
            return False
        self.state = "stopped"
        return True

    def may_resume(self, by: str, policy: Policy, silence: int) -> bool:
        if self.state not in ("interrupted", "suspended", "asking", "expired", "quarantined"):
            return False
        self.state, self.crashes = "resumable", 0
        return True

    def may_give_up(self, by: str, policy: Policy, silence: int) -> bool:
        if self.state in ("nothing", "running", "settled"):
            return False
        self.state = "settled"
        return True


class Rules:
    """The same history by the rules of the product."""

    def __init__(self) -> None:
        self.row: EntryRow | None = None
        self.asked = 0
        self.clock = 0.0

    def act(self, what: str, owner: Owned, policy: Policy, silence: int) -> bool:
        """Do something; return whether it is allowed."""
        self.clock += 1.0
        before = self.row
        try:
            self._act(what, owner, policy, silence)
        except HoldfastError:
            return False
        if before is not None and self.row is not None and before is not self.row:
            assert self.row.state in NEXT[before.state]
            assert self.row.generation >= before.generation
        return True

    def _act(self, what: str, owner: Owned, policy: Policy, silence: int) -> None:
        row = self.row
        if what == "begin":
            self.row = begun(KEY, row, Terms(policy=policy, fresh_for=FRESH), owner, self.now())
            return
        if row is None:
            raise InvalidValueError(what="key", reason="was never begun")
        if what in ("settle", "crash") and not self.works(row, owner):
            raise InvalidValueError(what="owner", reason="does not work on it")
        match what:
            case "claim":
                self.row = claimed(KEY, row, owner, self.now())
            case "settle":
                self.row = settled(row, "done")
            case "crash":
                seen, self.clock = self.now(), self.clock + silence
                stop = self.asked == row.generation
                self.row = row.changed(verdict(row, seen, self.now(), stop=stop))
            case "stop" if row.state is EntryState.RUNNING:
                self.asked = row.generation
            case "stop":
                self.row = stopped(KEY, row, "ann", "enough")
            case _:
                outcome = "resume" if what == "resume" else "given up"
                self.row = resolved(KEY, row, outcome, "ann", "because")

    def works(self, row: EntryRow, owner: Owned) -> bool:
        return row.state is EntryState.RUNNING and row.owner == owner

    def now(self) -> Sign:
        return sign(self.clock)


@hypothesis.given(acts)
def test_a_history_of_one_key_goes_as_the_oracle_says(
    history: list[tuple[str, Owned, Policy, int]],
) -> None:
    """H3, H7, H8, H9. The same acts are allowed, and the same state and generation come of it."""
    oracle, rules = Oracle(), Rules()
    for what, owner, policy, silence in history:
        allowed = oracle.act(what, owner.incarnation, policy, silence)
        assert rules.act(what, owner, policy, silence) is allowed
        state = "nothing" if rules.row is None else rules.row.state.value
        assert state == oracle.state
        assert (rules.row.generation if rules.row else 0) == oracle.generation


@pytest.mark.parametrize("state", EntryState)
def test_every_state_is_listed_once_and_leads_on(state: EntryState) -> None:
    """H7. Only what may go on can be claimed; whatever crashed can be ended by a person."""
    assert (state in CRASHED) is (state not in (EntryState.RUNNING, EntryState.SETTLED))
    assert EntryState.SETTLED in NEXT[state] or state is EntryState.SETTLED
    if state in CLAIMABLE:
        assert EntryState.RUNNING in NEXT[state]


def row_of(policy: Policy = Policy.RESUME) -> EntryRow:
    """Return work that began at second 0."""
    return begun(KEY, None, Terms(policy=policy, fresh_for=FRESH), OWNERS[0], sign(0.0))


def test_work_is_as_old_as_its_last_sign_of_life() -> None:
    """H1, H9. A turn of two hours is fresh if its runtime was heard of a moment ago."""
    hours = 2 * 3600.0
    assert verdict(row_of(), sign(hours), sign(hours + 9.0), stop=False) is EntryState.RESUMABLE
    assert verdict(row_of(), sign(9.0), sign(hours), stop=False) is EntryState.EXPIRED
    marked = msgspec.structs.replace(row_of(), active=sign(hours))
    assert verdict(marked, sign(9.0), sign(hours + 9.0), stop=False) is EntryState.RESUMABLE


@pytest.mark.parametrize(
    ("seen", "now", "state"),
    [
        # Within one boot the wall clock says nothing.
        (Sign(1e9, "boot:1", 5.0), Sign(9e9, "boot:1", 20.0), EntryState.RESUMABLE),
        (Sign(1e9, "boot:1", 5.0), Sign(0.0, "boot:1", 95.0), EntryState.EXPIRED),
        # Over a boot only the wall clock is left; set back, nothing is older for it.
        (Sign(1e9, "boot:1", 5.0), Sign(1e9 + 20.0, "boot:2", 999.0), EntryState.RESUMABLE),
        (Sign(1e9, "boot:1", 5.0), Sign(1e9 + 95.0, "boot:2", 1.0), EntryState.EXPIRED),
        (Sign(1e9, "boot:1", 5.0), Sign(0.0, "boot:2", 1.0), EntryState.RESUMABLE),
    ],
)
def test_clocks_that_jump_do_not_make_work_older(seen: Sign, now: Sign, state: EntryState) -> None:
    """F16, X10, H9."""
    row = msgspec.structs.replace(row_of(), active=seen)
    assert verdict(row, seen, now, stop=False) is state


@pytest.mark.parametrize("terms", [{"attempts": 0}, {"fresh_for": 0.0}, {"ttl": -1.0}])
def test_terms_under_which_nothing_goes_on_are_refused(terms: dict[str, float]) -> None:
    """X16."""
    with pytest.raises(InvalidValueError):
        Terms(**terms)  # type: ignore[arg-type]


def test_a_log_folds_to_what_is_in_flight() -> None:
    """H11. Begun and not settled; the last word on each key counts; rows come back equal."""
    rows = {(str(n),): msgspec.structs.replace(row_of(), note={"n": n}) for n in range(4)}
    entries: dict[tuple[str, ...], EntryRow] = {}
    for key, row in rows.items():
        assert decode_row(encode_row(row)) == row
        fold(entries, encode_logged(key, row))
    assert entries == rows
    fold(entries, encode_logged(("1",), settled(rows["1",], "done")))
    fold(entries, encode_logged(("1",), settled(rows["1",], "done")))
    assert set(entries) == {("0",), ("2",), ("3",)}
