#include "model.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include <sys/mman.h>

#include "zone/memory_zone.h"
#include "zone_secret.h"

using namespace idempotency;

namespace {

constexpr std::uint64_t kClock = 1700000000000000;
constexpr std::size_t kZoneOfOddBlocks = kZoneMinimum + 520;

// A zone of its own, with time under the test's hand.
struct Fixture {
    std::vector<std::uint64_t> memory;
    MemoryZone zone;
    Millis now = 1000000;
    ClaimNumber last = 0;

    explicit Fixture(std::size_t size = 256 * 1024) : memory(size / 8), zone(memory.data(), size)
    {
        assert_true(zone.format(kZoneSecret));
        assert_true(zone.is_formatted() && zone.is_consistent());
    }

    static KeyId id(unsigned n)
    {
        KeyId id{};

        for (std::size_t i = 0; i < id.bytes.size(); i++) {
            id.bytes[i] = static_cast<unsigned char>((n * 2654435761u) >> (8 * (i % 4)));
        }
        return id;
    }

    MemoryZone::ClaimReply claim_as(ClaimNumber by, unsigned n, Millis lease, Millis hold,
                                    Token wanted = 0)
    {
        return zone.claim(id(n), record_bytes(State::running, by, 0, lease + hold, hold, ""),
                          lease + hold, wanted, now, kClock);
    }

    // A claim with an id of its own, the number `last`.
    MemoryZone::ClaimReply claim(unsigned n, Millis lease = 30000, Millis hold = 0)
    {
        return claim_as(++last, n, lease, hold);
    }

    // Claims a free key; returns the claim's number.
    ClaimNumber take(unsigned n, Millis lease = 30000, Millis hold = 0)
    {
        assert_int_equal(int(claim(n, lease, hold).reply.verdict), int(Verdict::claimed));
        return last;
    }

    Verdict settle(unsigned n, ClaimNumber by, const std::string &value, Millis lifetime = 86400000)
    {
        std::string_view pieces[] = {std::string_view(value).substr(0, value.size() / 3),
                                     std::string_view(value).substr(value.size() / 3)};
        return zone.settle(id(n), claim_id(by), Pieces{pieces, 2}, lifetime, now);
    }

    Verdict release(unsigned n, ClaimNumber by) { return zone.release(id(n), claim_id(by), now); }

    Verdict renew(unsigned n, ClaimNumber by, Millis lifetime)
    {
        return zone.renew(id(n), claim_id(by), lifetime, now);
    }

    std::string value(const MemoryZone::ClaimReply &found)
    {
        std::string out(found.value_size, '\0');

        zone.read(found.entry, &out[0]);
        return out;
    }
};

void expect(Verdict seen, Verdict expected) { assert_int_equal(int(seen), int(expected)); }

UNIT_TEST(a_claim_excludes_and_a_result_is_found)
{
    Fixture f;
    auto first = f.claim(1);

    expect(first.reply.verdict, Verdict::claimed);

    ClaimNumber by = f.last;
    auto second = f.claim(1);
    Record record;
    std::string value = f.value(second);

    expect(second.reply.verdict, Verdict::found);
    assert_int_equal(int(read_record(value, KeyId{}, record)), int(RecordFault::none));
    assert_true(record.head.token == first.reply.token);
    assert_true(second.reply.token == first.reply.token);
    assert_true(record.head.claim == claim_id(by));

    for (std::size_t size : {0, 1, 407, 408, 409, 911, 912, 913, 5000, 100000}) {
        std::string body;
        for (std::size_t i = 0; i < size; i++) {
            body += static_cast<char>(i * 7);
        }
        expect(f.settle(1, by, body), Verdict::done);
        assert_true(f.value(f.claim(1)) == body);
        assert_true(f.zone.is_consistent());
    }
}

UNIT_TEST(a_key_is_looked_up_without_a_claim)
{
    Fixture f;

    expect(f.zone.look_up(f.id(1), f.now).reply.verdict, Verdict::gone);
    assert_int_equal(f.zone.entry_count(), 0);

    ClaimNumber by = f.take(1, 100);

    expect(f.zone.look_up(f.id(1), f.now).reply.verdict, Verdict::found);
    expect(f.settle(1, by, "result", 1000), Verdict::done);

    auto found = f.zone.look_up(f.id(1), f.now + 400);

    assert_string_equal(f.value(found).c_str(), "result");
    assert_int_equal(found.reply.remaining, 600);
    expect(f.zone.look_up(f.id(1), f.now + 1000).reply.verdict, Verdict::gone);
}

// The precision is that of an expiry: a tick of 128 ms.
UNIT_TEST(a_full_zone_says_when_something_expires)
{
    Fixture f(kZoneOfOddBlocks);

    expect(f.settle(1000, f.take(1000), std::string(1000, 'x'), 5000), Verdict::done);

    for (unsigned n = 0;; n++) {
        Reply reply = f.claim(n, 60000, 1000).reply;

        if (reply.verdict == Verdict::full) {
            assert_true(reply.remaining >= 5000 && reply.remaining <= 5000 + 128);
            f.now += reply.remaining;
            expect(f.claim(n, 60000).reply.verdict, Verdict::claimed);
            break;
        }
    }

    // leases only
    Reply reply = f.claim(2000).reply;

    expect(reply.verdict, Verdict::full);
    assert_true(reply.remaining >= 54000 && reply.remaining <= 60000);
}

// A client can find keys whose ids have many bits in common.
UNIT_TEST(a_client_can_not_choose_the_bucket_of_its_keys)
{
    for (std::size_t offset : {0, 8, 16, 24}) {
        Fixture f(32 * 1024 * 1024);

        for (std::uint32_t n = 0; n < 20000; n++) {
            KeyId id{};

            std::memcpy(&id.bytes[offset], &n, 3);
            id.bytes[offset + 7] = 0x55;
            expect(f.zone
                       .claim(id, record_bytes(State::running, n + 1, 0, 30000, 0, ""), 30000, 0,
                              f.now, kClock)
                       .reply.verdict,
                   Verdict::claimed);
        }

        assert_true(f.zone.longest_bucket() < 16);
    }
}

std::size_t resident_pages(void *memory, std::size_t size)
{
    std::vector<unsigned char> pages(size / 4096);

    assert_int_equal(mincore(memory, size, pages.data()), 0);
    return static_cast<std::size_t>(
        std::count_if(pages.begin(), pages.end(), [](unsigned char page) { return page & 1; }));
}

UNIT_TEST(memory_is_touched_only_as_far_as_it_is_used)
{
    constexpr std::size_t size = 256 * 1024 * 1024;
    void *memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    assert_true(memory != MAP_FAILED);
    assert_int_equal(madvise(memory, size, MADV_NOHUGEPAGE), 0);

    MemoryZone zone(memory, size);

    // what is touched: the buckets
    assert_true(zone.format(kZoneSecret));
    assert_true(resident_pages(memory, size) < size / 4096 / 150);
    assert_int_equal(zone.free_block_count(), zone.block_count());

    std::size_t before = resident_pages(memory, size);

    for (unsigned n = 0; n < 1000; n++) {
        ClaimId by = claim_id(n + 1);
        std::string result(2000, 'x');
        std::string_view piece = result;

        zone.claim(Fixture::id(n), record_bytes(State::running, n + 1, 0, 1000, 0, ""), 1000, 0,
                   1000, kClock);
        zone.settle(Fixture::id(n), by, {&piece, 1}, 1000, 1000);
    }

    // five blocks for each, and nodes
    assert_true(resident_pages(memory, size) - before < 1000 * 5 * 512 / 4096 + 100);

    assert_true(zone.is_consistent());
    munmap(memory, size);
}

UNIT_TEST(another_claim_changes_nothing)
{
    Fixture f;
    auto first = f.claim(1, 100);
    ClaimNumber old = f.last;

    f.now += 100;

    auto second = f.claim(1);
    ClaimNumber young = f.last;

    assert_true(second.reply.token > first.reply.token);
    expect(f.settle(1, old, "late"), Verdict::lost);
    expect(f.renew(1, old, 1000), Verdict::lost);
    expect(f.release(1, old), Verdict::lost);
    expect(f.settle(1, young, "result"), Verdict::done);
    expect(f.release(1, young), Verdict::lost);
    expect(f.renew(1, young, 1000), Verdict::lost);
    assert_string_equal(f.value(f.claim(1)).c_str(), "result");
}

UNIT_TEST(a_claim_that_is_gone_is_claimed_again_with_its_token)
{
    Fixture f;
    auto first = f.claim(1, 100);
    ClaimNumber by = f.last;

    f.now += 100;
    expect(f.renew(1, by, 1000), Verdict::gone);
    expect(f.release(1, by), Verdict::lost);

    auto again = f.claim_as(by, 1, 1000, 0, first.reply.token);

    expect(again.reply.verdict, Verdict::claimed);
    assert_true(again.reply.token == first.reply.token);
    assert_true(f.claim(1).reply.token == first.reply.token);
    expect(f.renew(1, by, 1000), Verdict::done);
    assert_true(f.claim(2).reply.token > first.reply.token);

    // tokens grow, also after one that was given by another zone
    expect(f.claim_as(by, 3, 1000, 0, 2 * kClock).reply.verdict, Verdict::claimed);
    assert_true(f.claim(4).reply.token > 2 * kClock);
}

UNIT_TEST(an_expired_claim_without_successor_keeps_its_result)
{
    Fixture f;
    ClaimNumber by = f.take(1, 100);

    f.now += 5000;
    expect(f.settle(1, by, "late but only"), Verdict::done);
    assert_string_equal(f.value(f.claim(1)).c_str(), "late but only");
}

UNIT_TEST(leases_end_on_time_and_are_renewed)
{
    Fixture f;
    ClaimNumber by = f.take(1, 1000);

    f.now += 999;
    assert_int_equal(f.claim(1).reply.remaining, 1);
    expect(f.renew(1, by, 1000), Verdict::done);

    for (int i = 0; i < 100; i++) {
        f.now += 900;
        expect(f.claim(1).reply.verdict, Verdict::found);
        expect(f.renew(1, by, 1000), Verdict::done);
        assert_true(f.zone.is_consistent());
    }

    f.now += 1000;
    expect(f.claim(1).reply.verdict, Verdict::claimed);
}

// Unknown outcomes

constexpr Millis kHold = 86400000;

UNIT_TEST(an_expired_lease_holds_the_key_until_the_hold_ends)
{
    Fixture f;

    f.take(1, 1000, kHold);
    f.now += 1000;

    // another one asks: it finds a claim with as much time left as the hold is long
    auto found = f.claim(1);
    std::string value = f.value(found);
    Record record;

    expect(found.reply.verdict, Verdict::found);
    assert_int_equal(found.reply.remaining, kHold);
    assert_int_equal(int(read_record(value, KeyId{}, record)), int(RecordFault::none));
    assert_int_equal(int(record.head.state), int(State::running));
    assert_int_equal(record.head.hold, kHold);

    f.now += kHold - 1;
    f.take(2);  // moves what has expired
    assert_int_equal(f.claim(1).reply.remaining, 1);
    f.now += 1;
    expect(f.claim(1).reply.verdict, Verdict::claimed);
}

UNIT_TEST(an_unknown_outcome_is_recorded_and_settled_by_its_holder)
{
    Fixture f;
    auto first = f.claim(1, 1000, kHold);
    ClaimNumber by = f.last;
    std::string unknown = record_bytes(State::unknown, by, first.reply.token, kHold, kHold, "");

    expect(f.settle(1, by, unknown, kHold), Verdict::done);
    f.now += 5000;

    auto found = f.claim(1);

    expect(found.reply.verdict, Verdict::found);
    assert_true(f.value(found) == unknown);
    assert_true(found.reply.token == first.reply.token);
    assert_int_equal(found.reply.remaining, kHold - 5000);

    // it is not running any more, and of no other claim
    expect(f.release(1, by), Verdict::lost);
    expect(f.renew(1, by, 1000), Verdict::lost);
    expect(f.settle(1, by + 1, "of another"), Verdict::lost);

    expect(f.settle(1, by, "the result"), Verdict::done);
    assert_string_equal(f.value(f.claim(1)).c_str(), "the result");
}

UNIT_TEST(a_holder_whose_lease_has_expired_returns)
{
    for (Millis late : {0, 127, 128, 5000}) {
        Fixture f;
        ClaimNumber settled = f.take(1, 1000, kHold);
        ClaimNumber released = f.take(2, 1000, kHold);
        ClaimNumber renewed = f.take(3, 1000, kHold);

        f.now += 1000 + late;
        f.take(4);
        assert_true(f.zone.is_consistent());

        expect(f.settle(1, settled, "late"), Verdict::done);
        assert_string_equal(f.value(f.claim(1)).c_str(), "late");
        expect(f.release(2, released), Verdict::done);
        expect(f.claim(2).reply.verdict, Verdict::claimed);
        expect(f.renew(3, renewed, 1000 + kHold), Verdict::done);
        assert_int_equal(f.claim(3).reply.remaining, 1000 + kHold);
        assert_true(f.zone.is_consistent());

        // its lease expires again
        f.now += 1000 + 256;
        expect(f.renew(3, renewed, 1000 + kHold), Verdict::done);
        expect(f.settle(3, renewed, "very late"), Verdict::done);
        assert_true(f.zone.is_consistent());
    }
}

// Claims of which the leases have expired, in all blocks but the one that is kept for replacing.
struct ExpiredLeases : Fixture {
    ExpiredLeases() : Fixture(kZoneMinimum)
    {
        for (;;) {
            if (claim(static_cast<unsigned>(holders.size()), 1000, kHold).reply.verdict
                == Verdict::claimed) {
                holders.push_back(last);
                continue;
            }

            std::size_t before = holders.size();

            now += 1000 + 256;
            if (claim(static_cast<unsigned>(before), 1000, kHold).reply.verdict == Verdict::full) {
                break;
            }
            holders.push_back(last);
            assert_true(zone.is_consistent());
        }

        now += 1000 + 256;
    }

    std::vector<ClaimNumber> holders;
};

UNIT_TEST(a_key_whose_lease_has_expired_takes_one_block)
{
    ExpiredLeases f;

    assert_int_equal(f.holders.size(), f.zone.block_count() - 1);
    assert_int_equal(f.zone.entry_count(), f.zone.block_count() - 1);
    assert_int_equal(f.zone.free_block_count(), 1);
    expect(f.claim(1000, 1000, kHold).reply.verdict, Verdict::full);
    assert_true(f.zone.is_consistent());

    // none of them is forgotten
    for (unsigned n = 0; n < f.holders.size(); n++) {
        expect(f.claim(n).reply.verdict, Verdict::found);
    }
    assert_int_equal(f.zone.free_block_count(), 1);
    assert_true(f.zone.is_consistent());
}

UNIT_TEST(holders_return_to_a_full_zone)
{
    ExpiredLeases f;

    // a result that needs more than the claim is refused, a short one is not
    for (unsigned n = 0; n < f.holders.size(); n++) {
        expect(f.settle(n, f.holders[n], std::string(1000, 'x')), Verdict::full);
        expect(f.settle(n, f.holders[n], "not kept"), Verdict::done);
        assert_true(f.zone.is_consistent());
    }
    for (unsigned n = 0; n < f.holders.size(); n++) {
        assert_string_equal(f.value(f.claim(n)).c_str(), "not kept");
    }

    // a late result of a key that is free does not take the block for replacing
    expect(f.settle(1000, 1000, "late"), Verdict::full);
    expect(f.settle(0, f.holders[0], "not kept"), Verdict::done);
    assert_true(f.zone.is_consistent());
}

// A result of two blocks takes the block of its claim, and the one in reserve.
UNIT_TEST(a_claim_in_a_full_zone_has_two_blocks)
{
    Fixture f(kZoneOfOddBlocks);
    std::vector<ClaimNumber> holders;

    while (f.claim(static_cast<unsigned>(holders.size())).reply.verdict == Verdict::claimed) {
        holders.push_back(f.last);
    }
    assert_int_equal(f.zone.block_count() % 2, 1);
    expect(f.settle(0, holders[0], std::string(1000, 'x')), Verdict::done);

    for (unsigned n = 1; n + 1 < holders.size(); n++) {
        expect(f.settle(n, holders[n], std::string(1000, 'x')), Verdict::full);
        expect(f.settle(n, holders[n], std::string(800, 'x')), Verdict::done);
        assert_true(f.zone.is_consistent());
    }
}

// The result of a settled key may take a block that a renewed claim would reserve.
UNIT_TEST(a_renewed_claim_has_a_reserve_again_if_there_is_space)
{
    ExpiredLeases f;
    unsigned n = 0;
    auto renew_next = [&] {
        expect(f.renew(n, f.holders[n], 1000 + kHold), Verdict::done);
        n++;
        assert_true(f.zone.is_consistent());
    };
    // as many new claims as there is space for: each takes two blocks
    auto new_claims = [&] {
        unsigned count = 0;

        while (f.claim(1000 + count).reply.verdict == Verdict::claimed) {
            count++;
        }
        for (unsigned i = 0; i < count; i++) {
            expect(f.release(1000 + i, f.last - count + i), Verdict::done);
        }
        return count;
    };

    // the free block is a reserve now
    renew_next();
    expect(f.settle(1, f.holders[1], std::string(1000, 'x')), Verdict::full);
    assert_int_equal(new_claims(), 0);

    // there is none for the next one
    renew_next();
    assert_int_equal(f.claim(1).reply.remaining, 1000 + kHold);

    // space for three claims with their reserves, and one block more
    for (unsigned i = 0; i < 7; i++) {
        std::size_t last = f.holders.size() - 1;

        expect(f.release(static_cast<unsigned>(last), f.holders[last]), Verdict::done);
        f.holders.pop_back();
    }
    assert_int_equal(new_claims(), 3);
    renew_next();  // takes one
    assert_int_equal(new_claims(), 3);
    renew_next();
    assert_int_equal(new_claims(), 2);

    // the one that was renewed without a reserve gets it with the next renewal
    n = 1;
    renew_next();
    assert_int_equal(new_claims(), 2);
    n = 4;
    renew_next();
    assert_int_equal(new_claims(), 1);

    // when the leases have expired, the reserves are free again
    f.now += 1000 + 256;
    assert_int_equal(new_claims(), 4);
    assert_true(f.zone.is_consistent());
}

UNIT_TEST(a_full_zone_refuses_forgets_nothing_and_recovers)
{
    Fixture f(kZoneMinimum);
    std::vector<ClaimNumber> holders;
    unsigned n = 0;

    for (;; n++) {
        auto found = f.claim(n);
        if (found.reply.verdict == Verdict::full) {
            break;
        }
        holders.push_back(f.last);
    }
    assert_true(n > 10);

    // no room for answers, yet each claim can be told as not kept
    for (unsigned i = 0; i < n; i++) {
        expect(f.settle(i, holders[i], std::string(60000, 'x'), 1000), Verdict::full);
        expect(f.settle(i, holders[i], "not kept", 1000), Verdict::done);
        assert_true(f.zone.is_consistent());
    }
    for (unsigned i = 0; i < n; i++) {
        assert_string_equal(f.value(f.claim(i)).c_str(), "not kept");
    }

    f.now += 1000 + 256;  // the room is there within two ticks
    for (unsigned i = 0; i < n; i++) {
        expect(f.claim(n + i).reply.verdict, Verdict::claimed);
    }
    assert_true(f.zone.is_consistent());
}

// Expiry of every length, over idle times of every length.
UNIT_TEST(room_of_the_expired_is_used_again)
{
    Fixture f;
    const Millis lives[] = {1,       127,      128,     32767,   32768,     32896,
                            3600000, 86400000, 8388608, 8388736, 2147483648};

    for (Millis life : lives) {
        for (Millis shift : {0, 1, 127, 128, 32768}) {
            f.now += shift;
            ClaimNumber by = f.take(7);
            expect(f.settle(7, by, std::string(3000, 'x'), life), Verdict::done);

            f.now += life - 1;
            expect(f.claim(7).reply.verdict, Verdict::found);

            // another key's calls do the work, a bounded part of it each
            f.now += 300;
            std::size_t free_before = f.zone.free_block_count();
            for (int calls = 0; f.zone.free_block_count() <= free_before; calls++) {
                assert_true(calls < 5000);
                expect(f.claim(8, 1).reply.verdict, Verdict::claimed);
                f.now += 300;
            }
            assert_true(f.zone.is_consistent());
        }
    }
}

// Random calls against a model that knows no blocks, no order and no sharing.
class ZoneEngine : public Engine {
public:
    ZoneEngine() : fixture_(2 * 1024 * 1024)
    {
        keys = 50;
        longest = 20000;
    }

    Outcome claim(unsigned n, ClaimNumber, Token wanted, const std::string &record,
                  Millis lifetime) override
    {
        auto found =
            fixture_.zone.claim(Fixture::id(n), record, lifetime, wanted, fixture_.now, kClock);
        bool is_found = found.reply.verdict == Verdict::found;

        return {found.reply.verdict, found.reply.token, found.reply.remaining,
                is_found ? fixture_.value(found) : ""};
    }

    Verdict settle(unsigned n, ClaimNumber by, const std::string &record, Millis lifetime) override
    {
        return fixture_.settle(n, by, record, lifetime);
    }

    Verdict release(unsigned n, ClaimNumber by) override { return fixture_.release(n, by); }

    Verdict renew(unsigned n, ClaimNumber by, Millis lifetime) override
    {
        return fixture_.renew(n, by, lifetime);
    }

    Verdict replace(unsigned n, Call &call) override
    {
        return fixture_.zone.replace(Fixture::id(n), call, fixture_.now);
    }

    // A lifetime ends on the millisecond; room is made by ticks.
    void pass(Millis time) override { fixture_.now += time; }

    void disturb(std::mt19937 &random) override
    {
        if (random() % 100 == 0) {
            assert_true(fixture_.zone.is_consistent());
        }
    }

private:
    Fixture fixture_;
};

UNIT_TEST(the_zone_does_as_the_model)
{
    for (unsigned seed = 0; seed < 20; seed++) {
        ZoneEngine engine;

        follow_model(engine, seed, 10000);
    }
}

// How many stretches of a block's size a call has changed: what it did, whatever
// the machine's speed.
std::size_t changed(Fixture &f, const std::function<void()> &call)
{
    auto before = f.memory;
    std::size_t count = 0;
    constexpr std::size_t words = kZoneBlockSize / 8;

    call();
    for (std::size_t at = 0; at + words <= before.size(); at += words) {
        count += std::memcmp(&before[at], &f.memory[at], kZoneBlockSize) != 0;
    }
    return count;
}

// All of a full zone's keys expire at a time.
UNIT_TEST(a_call_is_bounded_work_however_many_keys_there_are)
{
    constexpr unsigned kKeys = 200000;
    constexpr Millis kLife = 100000;
    constexpr std::size_t kBound = 500;  // some stretches for each step of kMaxExpiredPerCall
    Fixture f(kKeys * (kZoneBlockSize + 10));
    unsigned n = 0;

    for (;; n++) {
        auto found = f.claim(n);
        if (found.reply.verdict == Verdict::full) {
            break;
        }
        expect(f.settle(n, f.last, "kept", kLife), Verdict::done);
    }
    assert_true(n > kKeys - 1000);
    assert_int_equal(f.zone.entry_count(), n);

    // it is full, and nothing has expired
    assert_true(changed(f, [&] { expect(f.claim(n).reply.verdict, Verdict::full); }) < kBound);
    assert_true(changed(f, [&] { expect(f.claim(n / 2).reply.verdict, Verdict::found); }) < kBound);

    // one tick after another up to the end of them and over it
    f.now += kLife - 40000;
    for (int i = 0; i < 8; i++) {
        f.now += 4900;
        assert_true(changed(f, [&] { expect(f.claim(n / 2).reply.verdict, Verdict::found); })
                    < kBound);
        assert_true(changed(f, [&] { expect(f.claim(n).reply.verdict, Verdict::full); }) < kBound);
    }
    f.now += 5000;

    // all have expired: a call takes as many away as it needs, and some more
    for (int i = 0; i < 8; i++) {
        std::size_t before = f.zone.entry_count();
        assert_true(
            changed(f, [&] { expect(f.claim(n + i, 1000).reply.verdict, Verdict::claimed); })
            < kBound);
        assert_true(before - f.zone.entry_count() < 100);
    }
    assert_true(f.zone.is_consistent());

    // and in the end all are gone
    for (unsigned i = 0; f.zone.free_block_count() + 1 < f.zone.block_count(); i++) {
        assert_true(i < kKeys);
        f.now += 300;
        expect(f.claim(3 * kKeys, 1).reply.verdict, Verdict::claimed);
    }
    assert_true(f.zone.is_consistent());
}

// However many are still needed and end soon after, whatever their order: what has expired makes room at once.
UNIT_TEST(a_zone_is_full_only_of_what_is_needed)
{
    constexpr unsigned kKeys = 30000;
    constexpr unsigned kBrief = 20;

    for (Millis life :
         {Millis(1000), Millis(33000), Millis(60000), Millis(8400000), Millis(86400000)}) {
        for (unsigned first : {0u, kKeys / 2, kKeys - 2 * kBrief}) {
            Fixture f(kKeys * (kZoneBlockSize + 10));
            unsigned n = 0;

            for (;; n++) {
                auto found = f.claim(n);
                if (found.reply.verdict == Verdict::full) {
                    break;
                }
                bool brief = n >= first && n < first + kBrief;
                expect(f.settle(n, f.last, "kept", brief ? life : life + 1000), Verdict::done);
            }
            assert_true(n > kKeys - kBrief);

            f.now += life + 256;
            for (unsigned i = 0; i < kBrief; i++) {
                auto found = f.claim(n + i);
                expect(found.reply.verdict, Verdict::claimed);
                expect(f.settle(n + i, f.last, "kept", 1000000000), Verdict::done);
            }
            expect(f.claim(n + kBrief).reply.verdict, Verdict::full);
            assert_int_equal(f.zone.entry_count(), n);
            assert_true(f.zone.is_consistent());
        }
    }
}

// A claim whose lease is renewed is no obstacle to the expiry of others, nor is it counted as expired.
UNIT_TEST(renewed_leases_hinder_nobody)
{
    constexpr unsigned kKeys = 5000;
    Fixture f(kKeys * 3 * kZoneBlockSize);
    std::vector<ClaimNumber> holders;

    for (unsigned n = 0; n < kKeys; n++) {
        holders.push_back(f.take(n, 1000));
    }
    for (int round = 0; round < 5; round++) {
        f.now += 900;
        for (unsigned n = 0; n < kKeys; n++) {
            if (n % 10 != 3) {
                expect(f.renew(n, holders[n], 1000), Verdict::done);
            }
        }
        assert_true(f.zone.is_consistent());
    }
    for (unsigned n = 0; n < 100; n++) {
        f.claim(2 * kKeys + n);
    }
    assert_int_equal(f.zone.entry_count(), kKeys - kKeys / 10 + 100);
}

// All of them are kept and found, each with its own result, and their room is
// used again.  What a call may do is counted above, with fewer of them: here each
// count would copy and compare half a gigabyte.
UNIT_TEST(a_million_keys_are_kept)
{
    constexpr unsigned kKeys = 1000000;
    constexpr unsigned kMore = 100000;
    constexpr Millis kLife = 3600000;
    Fixture f(kKeys * (kZoneBlockSize + 12));

    auto keep = [&](unsigned n) {
        auto found = f.claim(n);
        expect(found.reply.verdict, Verdict::claimed);
        expect(f.settle(n, f.last, "result " + std::to_string(n), kLife), Verdict::done);
    };
    auto expect_kept = [&](unsigned n) {
        auto found = f.claim(n);
        expect(found.reply.verdict, Verdict::found);
        assert_true(f.value(found) == "result " + std::to_string(n));
    };

    for (unsigned n = 0; n < kKeys; n++) {
        keep(n);
    }
    assert_int_equal(f.zone.entry_count(), kKeys);
    for (unsigned n = 0; n < kKeys; n++) {
        expect_kept(n);
    }
    assert_true(f.zone.is_consistent());

    f.now += kLife + 256;
    for (unsigned n = 0; n < kMore; n++) {
        keep(kKeys + n);
    }
    for (unsigned n = 0; n < kMore; n++) {
        expect_kept(kKeys + n);
    }
    assert_true(f.zone.is_consistent());
}

}  // namespace
