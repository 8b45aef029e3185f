// The table of `idempotency_quota`.

#include "cmocka.h"

#include <memory>
#include <string>
#include <vector>

#include "zone/quota_table.h"

using namespace idempotency;

namespace {

constexpr std::uint64_t kSecond = 1000000;

struct Fixture {
    std::unique_ptr<QuotaTable::Memory> memory = std::make_unique<QuotaTable::Memory>();
    QuotaTable table{*memory};
    std::uint64_t now = 1000 * kSecond;

    Fixture() { memory->key = {1, 2}; }

    std::uint64_t hash(const std::string &value, std::uint64_t directive = 7) const
    {
        return QuotaTable::hash(memory->key, directive, value);
    }

    std::uint64_t take(const std::string &value, const QuotaLimit &limit)
    {
        return table.take(hash(value), limit, now);
    }

    unsigned take_all(const std::string &value, const QuotaLimit &limit)
    {
        unsigned taken = 0;

        while (take(value, limit) == 0) {
            taken++;
        }
        return taken;
    }
};

constexpr QuotaLimit kTenPerSecond{kSecond / 10, 0};
constexpr QuotaLimit kBurst{kSecond / 10, 20 * kSecond / 10};

UNIT_TEST(a_rate_and_a_burst_are_counted)
{
    Fixture f;

    // one, and the burst
    assert_int_equal(f.take_all("alice", kBurst), 21);
    assert_int_equal(f.take("alice", kBurst), kSecond / 10);

    f.now += kSecond / 20;
    assert_int_equal(f.take("alice", kBurst), kSecond / 20);

    f.now += kSecond / 20;
    assert_int_equal(f.take_all("alice", kBurst), 1);

    f.now += kSecond;
    assert_int_equal(f.take_all("alice", kBurst), 10);

    f.now += 100 * kSecond;
    assert_int_equal(f.take_all("alice", kBurst), 21);
}

UNIT_TEST(without_a_burst_one_is_allowed_in_each_interval)
{
    Fixture f;
    unsigned taken = 0;

    for (unsigned i = 0; i < 1000; i++, f.now += kSecond / 1000) {
        taken += f.take("alice", kTenPerSecond) == 0 ? 1 : 0;
    }

    assert_int_equal(taken, 10);
}

UNIT_TEST(values_and_directives_are_counted_apart)
{
    Fixture f;

    assert_int_equal(f.take_all("alice", kBurst), 21);
    assert_int_equal(f.take_all("bob", kBurst), 21);
    assert_true(f.hash("alice", 7) != f.hash("alice", 8));
    assert_int_equal(f.table.take(f.hash("alice", 8), kBurst, f.now), 0);
}

UNIT_TEST(what_is_given_back_is_not_counted)
{
    Fixture f;

    for (unsigned i = 0; i < 1000; i++) {
        assert_int_equal(f.take("alice", kTenPerSecond), 0);
        f.table.give_back(f.hash("alice"), kTenPerSecond);
    }

    assert_int_equal(f.take_all("alice", kTenPerSecond), 1);
    f.table.give_back(f.hash("nobody"), kTenPerSecond);
    assert_int_equal(f.take_all("alice", kTenPerSecond), 0);
}

// As many values as there are entries: few of those that are limited are forgotten.
UNIT_TEST(a_crowd_does_not_free_who_is_limited)
{
    Fixture f;

    assert_int_equal(f.take_all("mallory", kBurst), 21);

    for (unsigned i = 0; i < 10 * kQuotaSets * kQuotaWays; i++) {
        f.take("crowd " + std::to_string(i), kBurst);
    }

    assert_int_equal(f.take_all("mallory", kBurst), 0);
}

UNIT_TEST(an_entry_is_used_again_when_its_bucket_is_empty)
{
    Fixture f;

    for (unsigned i = 0; i < 2 * kQuotaSets * kQuotaWays; i++) {
        assert_int_equal(f.take("old " + std::to_string(i), kTenPerSecond), 0);
    }

    f.now += kSecond;
    assert_int_equal(f.take_all("new", kTenPerSecond), 1);
}

}  // namespace
