#include "model.h"

#include <cstring>
#include <functional>
#include <string>
#include <vector>

#include "zone/memory_zone.h"

using namespace idempotency;

namespace {

constexpr std::uint64_t kClock = 1700000000000000;

// A zone of its own, with time under the test's hand.
struct Fixture {
    std::vector<std::uint64_t> memory;
    MemoryZone zone;
    Millis now = 1000000;

    explicit Fixture(std::size_t size = 256 * 1024) : memory(size / 8), zone(memory.data(), size)
    {
        assert_true(zone.format());
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

    static std::string claim_record(unsigned n)
    {
        unsigned char out[kRecordHeadSize];
        RecordWriter writer(out, RecordHead{});

        writer.finish(id(n));
        return std::string(reinterpret_cast<char *>(out), writer.size());
    }

    MemoryZone::ClaimReply claim(unsigned n, Millis lease = 30000)
    {
        return zone.claim(id(n), claim_record(n), lease, now, kClock);
    }

    Verdict settle(unsigned n, Token token, const std::string &value, Millis lifetime = 86400000)
    {
        std::string_view pieces[] = {std::string_view(value).substr(0, value.size() / 3),
                                     std::string_view(value).substr(value.size() / 3)};
        return zone.settle(id(n), token, Pieces{pieces, 2}, lifetime, now);
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

    auto second = f.claim(1);
    Record record;
    expect(second.reply.verdict, Verdict::found);
    assert_int_equal(int(read_record(f.value(second), Fixture::id(1), record)),
                     int(RecordFault::none));
    assert_true(record.head.token == first.reply.token);

    for (std::size_t size : {0, 1, 415, 416, 417, 919, 920, 921, 5000, 100000}) {
        std::string body;
        for (std::size_t i = 0; i < size; i++) {
            body += static_cast<char>(i * 7);
        }
        expect(f.settle(1, first.reply.token, body), Verdict::done);
        assert_true(f.value(f.claim(1)) == body);
        assert_true(f.zone.is_consistent());
    }
}

UNIT_TEST(tokens_fence)
{
    Fixture f;
    Token old = f.claim(1, 100).reply.token;

    f.now += 100;
    Token young = f.claim(1).reply.token;

    assert_true(young > old);
    expect(f.settle(1, old, "late"), Verdict::lost);
    expect(f.zone.renew(Fixture::id(1), old, 1000, f.now), Verdict::lost);
    expect(f.zone.release(Fixture::id(1), old, f.now), Verdict::lost);
    expect(f.settle(1, young, "result"), Verdict::done);
    expect(f.zone.release(Fixture::id(1), young, f.now), Verdict::lost);
    assert_string_equal(f.value(f.claim(1)).c_str(), "result");
}

UNIT_TEST(a_lapsed_claim_without_successor_keeps_its_result)
{
    Fixture f;
    Token token = f.claim(1, 100).reply.token;

    f.now += 5000;
    expect(f.settle(1, token, "late but only"), Verdict::done);
    assert_string_equal(f.value(f.claim(1)).c_str(), "late but only");
}

UNIT_TEST(leases_end_on_time_and_are_renewed)
{
    Fixture f;
    Token token = f.claim(1, 1000).reply.token;

    f.now += 999;
    assert_int_equal(f.claim(1).reply.remaining, 1);
    expect(f.zone.renew(Fixture::id(1), token, 1000, f.now), Verdict::done);

    for (int i = 0; i < 100; i++) {
        f.now += 900;
        expect(f.claim(1).reply.verdict, Verdict::found);
        expect(f.zone.renew(Fixture::id(1), token, 1000, f.now), Verdict::done);
        assert_true(f.zone.is_consistent());
    }

    f.now += 1000;
    expect(f.claim(1).reply.verdict, Verdict::claimed);
}

UNIT_TEST(a_full_zone_refuses_forgets_nothing_and_recovers)
{
    Fixture f(kZoneMinimum);
    std::vector<Token> tokens;
    unsigned n = 0;

    for (;; n++) {
        auto found = f.claim(n);
        if (found.reply.verdict == Verdict::full) {
            break;
        }
        tokens.push_back(found.reply.token);
    }
    assert_true(n > 10);

    // no room for answers, yet each claim can be told as not kept
    for (unsigned i = 0; i < n; i++) {
        expect(f.settle(i, tokens[i], std::string(60000, 'x'), 1000), Verdict::full);
        expect(f.settle(i, tokens[i], "not kept", 1000), Verdict::done);
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
            Token token = f.claim(7).reply.token;
            expect(f.settle(7, token, std::string(3000, 'x'), life), Verdict::done);

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

// Random calls against a model that knows no blocks, no order and no sharing; now and then a process is killed and the
// next call rebuilds.
class ZoneEngine : public Engine {
public:
    ZoneEngine() : fixture_(2 * 1024 * 1024)
    {
        keys = 50;
        longest = 20000;
    }

    Outcome claim(unsigned n, const std::string &record, Millis lease) override
    {
        auto found = fixture_.zone.claim(Fixture::id(n), record, lease, fixture_.now, kClock);
        bool is_found = found.reply.verdict == Verdict::found;

        return {found.reply.verdict, found.reply.token, found.reply.remaining,
                is_found ? fixture_.value(found) : ""};
    }

    Verdict settle(unsigned n, Token by, const std::string &record, Millis lifetime) override
    {
        return fixture_.settle(n, by, record, lifetime);
    }

    Verdict release(unsigned n, Token by) override
    {
        return fixture_.zone.release(Fixture::id(n), by, fixture_.now);
    }

    void renew(unsigned n, Token by, Millis lease) override
    {
        fixture_.zone.renew(Fixture::id(n), by, lease, fixture_.now);
    }

    // A lifetime ends on the millisecond; room is made by ticks.
    void pass(Millis time) override { fixture_.now += time; }

    void disturb(std::mt19937 &random) override
    {
        if (random() % 50 == 0) {
            fixture_.zone.mark_dirty();
        } else if (random() % 100 == 0) {
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
        expect(f.settle(n, found.reply.token, "kept", kLife), Verdict::done);
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
                expect(f.settle(n, found.reply.token, "kept", brief ? life : life + 1000),
                       Verdict::done);
            }
            assert_true(n > kKeys - kBrief);

            f.now += life + 256;
            for (unsigned i = 0; i < kBrief; i++) {
                auto found = f.claim(n + i);
                expect(found.reply.verdict, Verdict::claimed);
                expect(f.settle(n + i, found.reply.token, "kept", 1000000000), Verdict::done);
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
    std::vector<Token> tokens;

    for (unsigned n = 0; n < kKeys; n++) {
        tokens.push_back(f.claim(n, 1000).reply.token);
    }
    for (int round = 0; round < 5; round++) {
        f.now += 900;
        for (unsigned n = 0; n < kKeys; n++) {
            if (n % 10 != 3) {
                expect(f.zone.renew(Fixture::id(n), tokens[n], 1000, f.now), Verdict::done);
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
        expect(f.settle(n, found.reply.token, "result " + std::to_string(n), kLife), Verdict::done);
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
