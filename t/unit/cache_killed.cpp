// Processes that share a cache are killed. A copy may be gone at any time; one that is there is whole, and is what was put
// last: neither what it replaced nor what was dropped comes back.

#include "killed.h"

#include <new>

#include "zone/cache_zone.h"

using namespace idempotency;

namespace {

constexpr std::size_t kZoneSize = 256 * 1024;
constexpr unsigned kKeys = 48;
constexpr unsigned kLargest = 40 * 1024;

// Size 0: no copy.
struct State {
    unsigned size;
    char fill;
    Millis expires;
};

struct Expected {
    State states[2];
    unsigned current;
    unsigned pending;
};

struct Shared {
    Lock lock;
    Fault fault;
    std::atomic<unsigned> calls;
    std::atomic<unsigned> hits;
    Expected keys[kKeys];
};

void put(CacheZone &zone, unsigned n, std::string_view value, Millis expires, Millis now)
{
    std::string_view pieces[] = {value.substr(0, value.size() / 3), value.substr(value.size() / 3)};

    zone.put(id_of(n), {pieces, 2}, expires, now, now);
}

std::string value_of(const CacheZone &zone, const CacheZone::Copy &copy)
{
    std::string out(copy.size, '\0');

    zone.read(copy.entry, &out[0]);
    return out;
}

bool is_of(const CacheZone &zone, const State &state, const CacheZone::Copy &copy, Millis now)
{
    return copy.expires > now && copy.expires == state.expires && copy.size == state.size
           && value_of(zone, copy) == std::string(state.size, state.fill);
}

void check(Shared &shared, CacheZone &zone, unsigned n, Millis now)
{
    Expected &key = shared.keys[n];
    CacheZone::Copy copy = zone.look_up(id_of(n), now);
    State &is = key.states[key.current];

    if (!copy.found) {
        if (key.pending != 0) {
            is.size = 0;
        }

    } else if (is_of(zone, is, copy, now)) {
        shared.hits++;

    } else if (key.pending != 0 && is_of(zone, key.states[1 - key.current], copy, now)) {
        is = key.states[1 - key.current];

    } else {
        shared.fault.complain(n, is.size == 0 ? "is back" : "holds what was not put last");
    }

    key.pending = 0;
}

[[noreturn]] void work(Shared &shared, CacheZone zone, unsigned seed)
{
    std::mt19937 random(seed);

    for (;;) {
        unsigned n = random() % kKeys;

        shared.lock.take();
        Millis now = now_ms();
        Expected &key = shared.keys[n];
        State &next = key.states[1 - key.current];

        // what a dead one has left undecided is for the parent to find out
        if (key.pending != 0) {
            shared.lock.give();
            continue;
        }

        if (random() % 2 == 0) {
            check(shared, zone, n, now);
            shared.lock.give();
            shared.calls++;
            continue;
        }

        bool drops = random() % 4 == 0;

        next.size = drops ? 0 : 1 + random() % (random() % 4 == 0 ? kLargest : 2000);
        next.fill = static_cast<char>('a' + random() % 26);
        next.expires = now + 1 + random() % 100;
        std::string value(next.size, next.fill);

        compiler_keeps_order();
        key.pending = 1;
        compiler_keeps_order();

        if (drops) {
            zone.remove(id_of(n), now);
        } else {
            put(zone, n, value, next.expires, now);
        }

        compiler_keeps_order();
        key.current = 1 - key.current;
        compiler_keeps_order();
        key.pending = 0;
        shared.lock.give();
        shared.calls++;
    }
}

UNIT_TEST(the_cache_survives_those_who_use_it)
{
    CacheZone zone = new_zone<CacheZone>(kZoneSize);
    Shared &shared = *new (map_shared(sizeof(Shared))) Shared();
    Victims victims(shared.lock, [&](unsigned seed) { work(shared, zone, seed); });
    unsigned within_call = 0;
    unsigned kills = 0;

    for (; goes_on(kills, within_call); kills++) {
        victims.kill_one(kills, [&] {
            Millis now = now_ms();

            zone.recover();
            if (!zone.is_consistent()) {
                shared.fault.complain(0, "the zone is not consistent");
            }
            for (unsigned n = 0; n < kKeys; n++) {
                within_call += shared.keys[n].pending;
                check(shared, zone, n, now);
            }
            if (!zone.is_consistent()) {
                shared.fault.complain(0, "the zone is not consistent after it was looked at");
            }
        });
        assert_string_equal(shared.fault.text, "");
    }

    std::printf("%u calls, %u hits, %u kills, %u of them within the lock, %u within a call\n",
                shared.calls.load(), shared.hits.load(), kills, victims.within_lock(), within_call);
    assert_true(shared.hits > 1000);
    assert_true(within_call >= kWithinCall);
}

// A cache that is full: one copy ends long after all others, one ends first, one has expired.
struct Steps {
    static constexpr unsigned kKept = 1, kFirst = 2, kFree = 3, kExpired = 4, kCrowd = 10;

    void *memory = map_shared(kZoneMinimum);
    std::vector<std::uint64_t> copy = std::vector<std::uint64_t>(kZoneMinimum / 8);
    CacheZone zone{memory, kZoneMinimum};
    std::string kept = std::string(1000, 'k');
    std::string old = std::string(1200, 'o');
    std::string answer = std::string(1500, 'a');
    Millis now = 1000000;
    bool full = true;

    ~Steps() { munmap(memory, kZoneMinimum); }

    void set()
    {
        assert_true(zone.format(kZoneSecret));
        put(zone, kKept, kept, now + 100000, now);
        put(zone, kFirst, old, now + 6000, now);
        put(zone, kExpired, old, now + 500, now);
        for (unsigned n = kCrowd; full && zone.free_block_count() > 0; n++) {
            put(zone, n, "crowd", now + 7000, now);
        }
        now += 1000;
    }

    CacheZone::Copy look_up(unsigned n) { return zone.look_up(id_of(n), now); }
    std::string value(unsigned n)
    {
        return look_up(n).found ? value_of(zone, look_up(n)) : "nothing";
    }

    void check_result()
    {
        assert_true(value(kKept) == kept);
        assert_true(look_up(kKept).expires - now == 99000);
        assert_false(look_up(kExpired).found);
    }
};

UNIT_TEST(a_copy_is_there_whole_or_not)
{
    for (bool full : {false, true}) {
        Steps steps;

        steps.full = full;
        kill_at_each_instruction(
            steps,
            [&] { put(steps.zone, Steps::kFree, steps.answer, steps.now + 20000, steps.now); },
            [&](bool died) {
                if (!died || steps.look_up(Steps::kFree).found) {
                    assert_true(steps.value(Steps::kFree) == steps.answer);
                    assert_int_equal(steps.look_up(Steps::kFree).expires - steps.now, 20000);
                }
                // and can be put again
                put(steps.zone, Steps::kFree, steps.old, steps.now + 30000, steps.now);
                assert_true(steps.value(Steps::kFree) == steps.old);
            });
    }
}

UNIT_TEST(a_copy_that_is_replaced_does_not_come_back)
{
    for (bool full : {false, true}) {
        Steps steps;
        auto *told = static_cast<std::atomic<bool> *>(map_shared(sizeof(std::atomic<bool>)));

        steps.full = full;
        kill_at_each_instruction(
            steps,
            [&] {
                put(steps.zone, Steps::kFirst, steps.answer, steps.now + 20000, steps.now);
                *told = true;
                steps.zone.remove(id_of(Steps::kCrowd), steps.now);
            },
            [&](bool) {
                std::string value = steps.value(Steps::kFirst);

                assert_true(value == steps.answer
                            || (!*told && (value == steps.old || value == "nothing")));
            });
    }
}

UNIT_TEST(a_copy_that_is_dropped_stays_away)
{
    Steps steps;
    auto *told = static_cast<std::atomic<bool> *>(map_shared(sizeof(std::atomic<bool>)));

    kill_at_each_instruction(
        steps,
        [&] {
            steps.zone.remove(id_of(Steps::kFirst), steps.now);
            *told = true;
            put(steps.zone, Steps::kFree, steps.answer, steps.now + 20000, steps.now);
        },
        [&](bool) {
            std::string value = steps.value(Steps::kFirst);

            assert_true(value == "nothing" || (!*told && value == steps.old));
        });
}

}  // namespace
