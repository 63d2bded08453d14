"""The limiter against a plain account of every event."""

import pytest
from hypothesis import HealthCheck, assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from limiterworld import MINUTE_US, SECOND_US, Account, Entry, gauge

from llmgw._core.limiter import CALENDAR, NEVER, REQUESTS, SLOTS, TOKENS, UNKNOWN, USD, Hold, Limiter, Refusal

PERIOD_US = 10 * MINUTE_US
HOLDS = 24


def gauges(**more):
    """Narrow ones, so that every refusal comes soon; windows that 128 divides, and that it does not."""
    return [
        gauge("requests", 3, SECOND_US, **more),
        gauge("requests", 8, MINUTE_US, **more),
        gauge("requests", 5, 1_000, **more),
        gauge("tokens", 100, SECOND_US, **more),
        gauge("tokens", 400, MINUTE_US, **more),
        gauge("usd", 300, MINUTE_US, **more),
        gauge("usd", 500, CALENDAR, **more),
        gauge("requests", 9, CALENDAR, **more),
        gauge("slots", 2, **more),
        gauge("slots", 4, **more),
        gauge("tokens", 0, SECOND_US, **more),
        gauge("requests", 2, SECOND_US, is_shadow=True, **more),
        gauge("tokens", 60, MINUTE_US, is_shadow=True, **more),
        gauge("slots", 1, is_shadow=True, **more),
    ]


class Opened:
    def __init__(self, hold, amounts, caller, target):
        self.hold, self.amounts, self.caller, self.target = hold, amounts, caller, target


class Machine(RuleBasedStateMachine):
    """Every answer is what the account says, to the microsecond, and nothing else changes."""

    ROWS = 64
    GOES_BACK = True
    HOME = None

    holds = Bundle("holds")
    settled = Bundle("settled")
    sets = st.lists(st.integers(0, 13), max_size=5, unique=True)
    amounts = st.tuples(st.integers(0, 120), st.integers(0, 320))

    @initialize()
    def begin(self):
        self.limiter = Limiter(rows=self.ROWS, holds=HOLDS)
        self.now_us = 1_000 * PERIOD_US
        self.accounts = [Account(one) for one in gauges(home=self.HOME)]
        self.open = 0
        self.turn_pages()

    def turn_pages(self):
        """The owner keeps calendar gauges in their period; it never goes back."""
        for account in self.accounts:
            one = account.gauge
            if one.window_us == CALENDAR and self.now_us >= one.period_end_us:
                one.period_start_us = self.now_us // PERIOD_US * PERIOD_US
                one.period_end_us = one.period_start_us + PERIOD_US

    def pick(self, numbers):
        return [self.accounts[number] for number in numbers]

    # Time

    @rule(
        by_us=st.sampled_from(
            [
                0,
                1,
                7,
                8,
                500,
                7_813,
                15_626,
                100_000,
                SECOND_US,
                20 * SECOND_US,
                MINUTE_US,
                PERIOD_US,
                50 * PERIOD_US,
            ]
        )
    )
    def time_passes(self, by_us):
        self.now_us += by_us
        self.turn_pages()

    @precondition(lambda self: self.GOES_BACK)
    @rule(by_us=st.sampled_from([1, 1_000, 50_000, 2 * SECOND_US, 3 * MINUTE_US]))
    def the_clock_goes_back(self, by_us):
        self.now_us -= by_us

    # Admission

    @precondition(lambda self: self.open < HOLDS)
    @rule(target=holds, caller=sets, other=sets, amounts=amounts, patience=st.booleans())
    def admit(self, caller, other, amounts, patience):
        caller = self.pick(caller)
        other = [account for account in self.pick(other) if account not in caller]
        hold = self.asked(caller, other, *amounts)
        if isinstance(hold, Refusal) and patience and self.is_certain(caller + other, amounts):
            hold = self.come_again(hold, caller, other, amounts)
        if isinstance(hold, Refusal):
            return None
        opened = Opened(hold, self.by_unit(*amounts), *hold_parts(caller, other, self.by_unit(*amounts)))
        self.open += 1
        return opened

    def by_unit(self, tokens, usd_micro):
        return {REQUESTS: 1, TOKENS: tokens, USD: usd_micro, SLOTS: 1}

    def waits(self, accounts, amounts, now_us):
        """What each says; a shadow never refuses."""
        found = []
        for account in accounts:
            account.look(now_us)
            wait_us = account.wait_us(amounts[account.gauge.unit], now_us)
            if wait_us and account.gauge.is_shadow:
                account.shadow_refusals += 1
                wait_us = 0
            found.append(wait_us)
        return found

    def asked(self, caller, other, tokens, usd_micro):
        """Asks, and holds the answer against the accounts. They are not charged yet."""
        amounts = self.by_unit(tokens, usd_micro)
        accounts = caller + other
        answer = self.limiter.admit(
            tuple(account.gauge for account in caller),
            tuple(account.gauge for account in other),
            tokens,
            usd_micro,
            self.now_us,
        )
        waits = self.waits(accounts, amounts, self.now_us)
        if not any(waits):
            assert isinstance(answer, Hold)
            assert (answer.tokens, answer.usd_micro, answer.is_open) == (tokens, usd_micro, True)
            for account in accounts:
                if not account.gauge.is_shadow and account.is_sliding:
                    assert account.in_window() + amounts[account.gauge.unit] <= account.gauge.limit
            self.judge_figures(answer, accounts, amounts)
            return answer
        assert isinstance(answer, Refusal) and answer.lacking is None
        worst = worst_of(waits)
        account = accounts[worst]
        assert answer.gauge is account.gauge
        assert (answer.wait_us, answer.used, answer.requested) == (
            waits[worst],
            account.taken(),
            amounts[account.gauge.unit],
        )
        assert answer.reset_us == account.reset_us(self.now_us)
        for account in accounts:
            assert self.limiter.read(account.gauge, self.now_us) == (account.taken(), account.reserved)
        return answer

    def judge_figures(self, hold, accounts, amounts):
        for unit, figures in (
            (REQUESTS, (hold.limit_requests, hold.remaining_requests, hold.reset_requests_us)),
            (TOKENS, (hold.limit_tokens, hold.remaining_tokens, hold.reset_tokens_us)),
        ):
            told = [
                (max(account.gauge.limit - account.taken() - amounts[unit], 0), account)
                for account in accounts
                if account.gauge.unit == unit and account.is_sliding and not account.gauge.is_shadow
            ]
            if not told:
                assert figures == (-1, 0, 0)
                continue
            left, tightest = min(told, key=lambda pair: pair[0])
            reset_us = (tightest.seen_us // tightest.width_us + 130) * tightest.width_us - self.now_us
            assert figures == (tightest.gauge.limit, left, reset_us)

    def is_certain(self, accounts, amounts):
        """Whether only time stands in the way."""
        amounts = self.by_unit(*amounts)
        waits = [
            account.wait_us(amounts[account.gauge.unit], self.now_us)
            for account in accounts
            if not account.gauge.is_shadow
        ]
        return not {NEVER, UNKNOWN} & set(waits)

    def come_again(self, refusal, caller, other, amounts):
        """A microsecond before the wait is over there is no room; then there is."""
        assert refusal.wait_us > 0
        self.now_us += refusal.wait_us - 1
        self.turn_pages()
        if refusal.wait_us > 1:
            early = self.asked(caller, other, *amounts)
            assert isinstance(early, Refusal)
            # Of money, what then is still in the way may all be reserved by others, who may give it back.
            assert early.wait_us == 1 or (early.gauge.unit == USD and early.wait_us == UNKNOWN)
        self.now_us += 1
        self.turn_pages()
        late = self.asked(caller, other, *amounts)
        assert isinstance(late, Hold)
        return late

    # What becomes of it

    @precondition(lambda self: self.open)
    @rule(
        target=settled,
        opened=consumes(holds),
        tokens=st.integers(0, 200),
        usd_micro=st.integers(0, 400),
        requests=st.integers(0, 1),
    )
    def settle(self, opened, tokens, usd_micro, requests):
        assume(opened is not None)
        self.limiter.settle(opened.hold, tokens, usd_micro, self.now_us, requests)
        self.close(
            opened.caller + opened.target, {REQUESTS: requests, TOKENS: tokens, USD: usd_micro, SLOTS: 0}
        )
        assert not opened.hold.is_open
        self.open -= 1
        return opened.hold

    def close(self, parts, actual):
        for part in parts:
            part.settle(actual[part.account.gauge.unit], self.now_us)

    @rule(hold=settled)
    def settle_again(self, hold):
        """Changes nothing: the next look would tell."""
        self.limiter.settle(hold, 99, 99, self.now_us)

    @rule(opened=holds, other=sets, billed=st.integers(0, 150))
    def switch(self, opened, other, billed):
        assume(opened is not None)
        mine = [part.account for part in opened.caller]
        other = [account for account in self.pick(other) if account not in mine]
        refusal = self.limiter.switch(
            opened.hold, tuple(account.gauge for account in other), self.now_us, billed
        )
        self.close(opened.target, {REQUESTS: 1, TOKENS: billed, USD: 0, SLOTS: 0})
        opened.target = []
        waits = self.waits(other, opened.amounts, self.now_us)
        if any(waits):
            assert isinstance(refusal, Refusal) and refusal.wait_us == waits[worst_of(waits)]
            return
        assert refusal is None and opened.hold.is_open
        _, opened.target = hold_parts([], other, opened.amounts)

    @rule(
        number=st.integers(0, 13),
        ago_us=st.sampled_from([0, 1, 5_000, SECOND_US, 70 * SECOND_US]),
        amount=st.integers(1, 50),
    )
    def charge(self, number, ago_us, amount):
        account, at_us = self.accounts[number], self.now_us - ago_us
        self.limiter.charge(account.gauge, at_us, amount, self.now_us)
        account.look(self.now_us)
        one = account.gauge
        if account.is_sliding:
            account.entries.append(Entry(at_us, amount))
        elif one.window_us == CALENDAR and one.period_start_us <= at_us < one.period_end_us:
            account.used += amount

    @rule()
    def read(self):
        for account in self.accounts:
            account.look(self.now_us)
            assert self.limiter.read(account.gauge, self.now_us) == (account.taken(), account.reserved)
            assert self.limiter.shadow_refusals(account.gauge) == account.shadow_refusals


def hold_parts(caller, other, amounts):
    return tuple([account.take(amounts[account.gauge.unit]) for account in part] for part in (caller, other))


def worst_of(waits):
    if NEVER in waits:
        return waits.index(NEVER)
    if max(waits) > 0:
        return waits.index(max(waits))
    return waits.index(UNKNOWN)


class Crowded(Machine):
    """In a table that all gauges fill, at one and the same place: who looks for room finds its own row alone."""

    ROWS = 14
    GOES_BACK = False
    HOME = 5


def run(machine, steps):
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=steps // 50,
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@pytest.mark.parametrize("machine", [Machine, Crowded])
def test_every_answer_is_what_a_plain_account_of_events_says(machine):
    run(machine, 2_000)


@pytest.mark.soak
@pytest.mark.parametrize("machine", [Machine, Crowded])
def test_every_answer_is_what_a_plain_account_of_events_says_for_long(machine):
    run(machine, 60_000)
