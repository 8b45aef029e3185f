#include "cmocka.h"

#include "core/coverage.h"
#include "core/decision.h"

using namespace idempotency;

namespace {

Fingerprint fingerprint_of(unsigned char byte)
{
    Fingerprint fingerprint;

    fingerprint.bytes.fill(byte);
    return fingerprint;
}

UNIT_TEST(a_record_decides_by_its_fingerprint_first)
{
    struct {
        State state;
        Action action;
    } cases[] = {
        {State::running, Action::in_progress},
        {State::unknown, Action::outcome_unknown},
        {State::not_kept, Action::not_kept},
        {State::kept, Action::replay},
    };

    for (const auto &c : cases) {
        Record record;

        record.head.state = c.state;
        record.head.fingerprint = fingerprint_of(1);
        assert_int_equal(int(decide_by_record(record, 1000, fingerprint_of(1))), int(c.action));
        assert_int_equal(int(decide_by_record(record, 1000, fingerprint_of(2))),
                         int(Action::reused));
    }
}

// The lease of a claim has expired when the store has at most its hold left.
UNIT_TEST(a_claim_without_a_lease_is_an_unknown_outcome)
{
    Record record;

    record.head.state = State::running;
    record.head.fingerprint = fingerprint_of(1);

    for (Millis hold : {Millis(1), Millis(1000), Millis(24) * 3600 * 1000}) {
        record.head.hold = hold;
        assert_int_equal(int(decide_by_record(record, hold + 1, fingerprint_of(1))),
                         int(Action::in_progress));
        assert_int_equal(int(decide_by_record(record, hold, fingerprint_of(1))),
                         int(Action::outcome_unknown));
        assert_int_equal(int(decide_by_record(record, 0, fingerprint_of(1))),
                         int(Action::outcome_unknown));
        assert_int_equal(int(decide_by_record(record, 0, fingerprint_of(2))), int(Action::reused));
    }

    // `release`: the store removes it when the lease ends
    record.head.hold = 0;
    assert_int_equal(int(decide_by_record(record, 1, fingerprint_of(1))), int(Action::in_progress));
}

UNIT_TEST(a_lifetime_depends_on_the_status)
{
    constexpr TtlRule rules[] = {{400, 499, 4}, {404, 404, 44}, {500, 500, 50}, {500, 599, 5}};

    assert_int_equal(ttl_of_status(rules, 4, 200, 2), 2);
    assert_int_equal(ttl_of_status(rules, 4, 400, 2), 4);
    assert_int_equal(ttl_of_status(rules, 4, 404, 2), 44);
    assert_int_equal(ttl_of_status(rules, 4, 499, 2), 4);
    assert_int_equal(ttl_of_status(rules, 4, 500, 2), 50);
    assert_int_equal(ttl_of_status(rules, 4, 599, 2), 5);
    assert_int_equal(ttl_of_status(rules, 4, 600, 2), 2);
    assert_int_equal(ttl_of_status(nullptr, 0, 404, 2), 2);
}

UNIT_TEST(an_unknown_outcome_is_held_as_long_as_a_response_by_default)
{
    assert_int_equal(hold_time(UnknownPolicy::hold, 0, 500), 500);
    assert_int_equal(hold_time(UnknownPolicy::hold, 70, 500), 70);
    assert_int_equal(hold_time(UnknownPolicy::store, 0, 500), 500);
    assert_int_equal(hold_time(UnknownPolicy::release, 0, 500), 0);
}

Outcome settle(ResponseFacts facts) { return decide_outcome(facts); }

void expect(Outcome seen, Outcome expected) { assert_int_equal(int(seen), int(expected)); }

void expect_settlement(Outcome outcome, Settlement settlement, const char *name, const char *reason)
{
    assert_int_equal(int(settlement_of(outcome)), int(settlement));
    assert_string_equal(outcome_name(outcome), name);
    assert_string_equal(outcome_reason(outcome), reason);
}

UNIT_TEST(a_response_is_kept_unless_it_says_otherwise)
{
    ResponseFacts facts;

    expect(settle(facts), Outcome::kept);

    facts.obstacle = Outcome::not_kept_size;
    expect(settle(facts), Outcome::not_kept_size);

    facts.retriable = true;
    expect(settle(facts), Outcome::released_status);

    facts.word.no_store = true;
    expect(settle(facts), Outcome::not_kept_word);

    facts.word.release = true;
    expect(settle(facts), Outcome::released_word);
}

UNIT_TEST(a_request_that_never_reached_the_application_frees_the_key)
{
    for (UnknownPolicy policy : {UnknownPolicy::hold, UnknownPolicy::release, UnknownPolicy::store})
    {
        ResponseFacts facts;

        facts.origin = Origin::not_reached;
        facts.unknown = policy;
        expect(settle(facts), Outcome::released_unsent);
        expect(decide_without_response(Origin::not_reached, policy), Outcome::released_unsent);
    }
}

UNIT_TEST(a_broken_exchange_follows_the_policy)
{
    ResponseFacts facts;

    facts.origin = Origin::broken;
    facts.retriable = true;  // nginx's own 503 says nothing of the application

    facts.unknown = UnknownPolicy::hold;
    expect(settle(facts), Outcome::unknown);

    facts.unknown = UnknownPolicy::release;
    expect(settle(facts), Outcome::released_policy);

    facts.unknown = UnknownPolicy::store;
    expect(settle(facts), Outcome::kept);

    // there is nothing to store
    expect(decide_without_response(Origin::broken, UnknownPolicy::store), Outcome::unknown);
    expect(decide_without_response(Origin::broken, UnknownPolicy::hold), Outcome::unknown);
    expect(decide_without_response(Origin::broken, UnknownPolicy::release),
           Outcome::released_policy);
}

UNIT_TEST(a_call_that_was_given_up_follows_the_policy)
{
    ResponseFacts facts;

    facts.call_given_up = true;
    expect(settle(facts), Outcome::unknown);

    facts.unknown = UnknownPolicy::release;
    expect(settle(facts), Outcome::released_policy);

    facts.unknown = UnknownPolicy::store;
    expect(settle(facts), Outcome::kept);

    facts.obstacle = Outcome::not_kept_stream;  // there is nothing to store
    expect(settle(facts), Outcome::unknown);

    facts.word.no_store = true;  // the application knows better
    expect(settle(facts), Outcome::not_kept_word);

    facts.word = Word();
    facts.retriable = true;
    expect(settle(facts), Outcome::released_status);
}

UNIT_TEST(an_outcome_has_a_settlement_a_name_and_a_reason)
{
    expect_settlement(Outcome::kept, Settlement::keep, "kept", "");
    expect_settlement(Outcome::not_kept_size, Settlement::not_kept, "not_kept_size", "size");
    expect_settlement(Outcome::not_kept_store, Settlement::not_kept, "not_kept_store", "store");
    expect_settlement(Outcome::not_kept_stream, Settlement::not_kept, "not_kept_stream", "stream");
    expect_settlement(Outcome::not_kept_word, Settlement::not_kept, "not_kept_word", "word");
    expect_settlement(Outcome::released_word, Settlement::release, "released", "word");
    expect_settlement(Outcome::released_status, Settlement::release, "released", "status");
    expect_settlement(Outcome::released_unsent, Settlement::release, "released", "unsent");
    expect_settlement(Outcome::released_policy, Settlement::release, "released", "policy");
    expect_settlement(Outcome::released_refused, Settlement::release, "released", "refused");
    expect_settlement(Outcome::released_upgrade, Settlement::release, "released", "upgrade");
    expect_settlement(Outcome::unknown, Settlement::unknown, "unknown", "");
    expect_settlement(Outcome::none, Settlement::release, "", "");
    assert_string_equal(outcome_name(Outcome::lost), "lost");
    assert_string_equal(outcome_name(Outcome::untold), "untold");
}

UNIT_TEST(the_response_header_of_the_application_is_parsed)
{
    Word word;

    parse_word(" Release ,\tno-store,ttl=60", word);
    assert_true(word.release && word.no_store && word.well_formed);
    assert_int_equal(word.ttl, 60000);

    for (const char *bad :
         {"ttl=", "ttl=0", "ttl=-1", "ttl=1h", "ttl=99999999999999999999", "keep"}) {
        Word other;

        parse_word(bad, other);
        assert_false(other.well_formed);
        assert_int_equal(other.ttl, 0);
    }

    Word nothing;
    parse_word(" , ,", nothing);
    assert_true(nothing.well_formed && !nothing.release && !nothing.no_store);
}

CoverageQuestion covered_question()
{
    CoverageQuestion q;

    q.method_covered = true;
    q.key_fields = 1;
    q.scope_needed = true;
    return q;
}

void expect(const CoverageQuestion &q, Coverage expected)
{
    assert_int_equal(int(decide_coverage(q)), int(expected));
}

UNIT_TEST(coverages_with_a_problem_response_are_refused)
{
    for (Coverage coverage :
         {Coverage::key_missing, Coverage::key_invalid, Coverage::scope_missing}) {
        assert_true(is_refused(coverage));
    }

    for (Coverage coverage :
         {Coverage::uncovered, Coverage::bypassed, Coverage::unscoped, Coverage::covered})
    {
        assert_false(is_refused(coverage));
    }
}

UNIT_TEST(age_is_what_has_passed_of_the_lifetime)
{
    RecordHead head;

    head.lifetime = 86400000;
    assert_int_equal(age_of(head, 86400000), 0);
    assert_int_equal(age_of(head, 86399999), 1);
    assert_int_equal(age_of(head, 0), 86400000);
    assert_int_equal(age_of(head, 86400001), 0);
}

UNIT_TEST(coverage_is_decided_in_the_contracts_order)
{
    CoverageQuestion q = covered_question();

    expect(q, Coverage::covered);

    q.key_fault = KeyFault::empty;
    expect(q, Coverage::key_invalid);

    q.scope_empty = true;
    expect(q, Coverage::unscoped);

    q.required = true;
    expect(q, Coverage::scope_missing);

    q.scope_needed = false;
    expect(q, Coverage::key_invalid);

    q.bypass = true;
    expect(q, Coverage::bypassed);

    q.bypass = false;
    q.key_fields = 0;
    expect(q, Coverage::key_missing);

    q.required = false;
    expect(q, Coverage::uncovered);

    q = covered_question();
    q.key_fields = 2;
    expect(q, Coverage::key_invalid);

    q.method_covered = false;
    q.required = true;
    expect(q, Coverage::uncovered);
}

}  // namespace
