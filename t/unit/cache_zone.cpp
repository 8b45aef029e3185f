#include "cmocka.h"

#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "zone/cache_zone.h"
#include "zone_secret.h"

using namespace idempotency;

namespace {

// A zone of its own, with time under the test's hand.
struct Fixture {
    std::vector<std::uint64_t> memory;
    CacheZone zone;
    Millis now = 1000000;

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

    void put(unsigned n, const std::string &value, Millis lifetime = 86400000)
    {
        put_as_of(n, value, lifetime, now);
    }

    void put_as_of(unsigned n, const std::string &value, Millis lifetime, Millis confirmed)
    {
        std::string_view pieces[] = {std::string_view(value).substr(0, value.size() / 3),
                                     std::string_view(value).substr(value.size() / 3)};
        zone.put(id(n), {pieces, 2}, now + lifetime, confirmed, now);
    }

    bool has(unsigned n) { return zone.look_up(id(n), now).found; }

    std::string value(unsigned n)
    {
        CacheZone::Copy copy = zone.look_up(id(n), now);

        if (!copy.found) {
            return "nothing";
        }

        std::string out(copy.size, '\0');
        zone.read(copy.entry, &out[0]);
        return out;
    }
};

std::string pattern(std::size_t size, unsigned seed)
{
    std::string out;

    for (std::size_t i = 0; i < size; i++) {
        out += static_cast<char>(i * 7 + seed);
    }
    return out;
}

UNIT_TEST(a_copy_is_found_as_it_was_put)
{
    Fixture f;

    assert_false(f.has(1));
    for (std::size_t size : {0, 1, 407, 408, 409, 911, 912, 913, 5000, 60000}) {
        f.now += 10;
        f.put(1, pattern(size, 3), 5000);
        assert_true(f.value(1) == pattern(size, 3));
        assert_false(f.has(2));
        assert_true(f.zone.is_consistent());
        assert_int_equal(f.zone.entry_count(), 1);
    }

    CacheZone::Copy copy = f.zone.look_up(Fixture::id(1), f.now);
    assert_int_equal(copy.size, 60000);
    assert_int_equal(copy.confirmed, f.now);
    assert_int_equal(copy.expires, f.now + 5000);

    f.zone.remove(Fixture::id(2), f.now);
    assert_true(f.has(1));
    f.zone.remove(Fixture::id(1), f.now);
    assert_false(f.has(1));
    assert_int_equal(f.zone.free_block_count(), f.zone.block_count());
}

UNIT_TEST(a_copy_ends_to_the_millisecond)
{
    Fixture f;

    for (Millis life :
         {Millis(1), Millis(127), Millis(128), Millis(5000), Millis(86400000), Millis(31536000000)})
    {
        f.put(1, "brief", life);
        f.now += life - 1;
        assert_true(f.has(1));
        f.now += 1;
        assert_false(f.has(1));
    }

    f.put(1, "over already", 0);
    assert_false(f.has(1));
    f.put(1, "there", 1000);
    f.put(1, "over already", 0);
    assert_false(f.has(1));
    assert_true(f.zone.is_consistent());
}

UNIT_TEST(what_was_confirmed_later_stays)
{
    Fixture f;

    f.put_as_of(1, "later", 5000, f.now);
    f.put_as_of(1, "earlier", 9000, f.now - 1);
    assert_string_equal(f.value(1).c_str(), "later");
    f.put_as_of(1, "as late", 9000, f.now);
    assert_string_equal(f.value(1).c_str(), "as late");
}

UNIT_TEST(those_that_were_not_used_make_way)
{
    Fixture f(1024 * 1024);
    unsigned n = 0;
    unsigned old = 0, young = 0;

    // full of copies that expire late; the first of them are used now and then
    for (; f.zone.free_block_count() > 0; n++) {
        f.put(n, std::to_string(n), 86400000);
    }

    for (unsigned i = 0; i < 1000; i++) {
        f.now += 10;
        f.put(10000 + i, std::to_string(i), 3600000);
        f.has(i % 100);
    }

    for (unsigned i = 0; i < 100; i++) {
        old += f.has(i);
    }

    for (unsigned i = 0; i < 1000; i++) {
        young += f.has(10000 + i);
    }

    assert_true(n > 1500);
    assert_true(young > 950);
    assert_true(old > 90);
    assert_true(f.zone.is_consistent());

    // what comes is there, whatever its end, and again and again
    for (unsigned i = 0; i < 1000; i++) {
        f.put(2000 + i, pattern(i * 5, i), 1000 + i % 7 * 1000000);
        assert_true(f.value(2000 + i) == pattern(i * 5, i));
        assert_true(f.zone.is_consistent());
    }
}

UNIT_TEST(what_is_too_large_is_left_out)
{
    Fixture f;
    std::size_t most = f.zone.block_count() / 4 * 504 - 104;

    f.put(1, pattern(most, 1));
    assert_true(f.value(1) == pattern(most, 1));
    f.put(2, "bystander");
    f.put(1, pattern(most + 504, 2));
    assert_false(f.has(1));  // nor is what it replaces there any more
    assert_string_equal(f.value(2).c_str(), "bystander");
    assert_true(f.zone.is_consistent());
}

// How many stretches of a block's size a call has changed.
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

// Full or not, expired or not: what a call does is bounded by what it writes.
UNIT_TEST(a_call_is_bounded_work_however_many_copies_there_are)
{
    constexpr unsigned kKeys = 50000;
    Fixture f(kKeys * (kZoneBlockSize + 10));

    for (unsigned n = 0; n < 2 * kKeys; n++) {
        f.put(n, "kept", 100000);
    }
    assert_true(f.zone.entry_count() > kKeys - 100);
    assert_true(changed(f, [&] { f.put(3 * kKeys, "one more", 100000); }) < 60);
    assert_true(changed(f, [&] { f.put(3 * kKeys + 1, pattern(5040, 0), 100000); }) < 300);
    assert_true(changed(f, [&] { f.has(kKeys); }) < 60);

    f.now += 200000;
    assert_true(changed(f, [&] { f.put(3 * kKeys + 2, "one more", 100000); }) < 600);
    assert_true(f.zone.entry_count() > kKeys - 200);
}

// Random calls against a map.
UNIT_TEST(the_cache_does_as_a_map)
{
    struct Kept {
        std::string value;
        Millis expires;
    };

    for (bool small : {false, true}) {
        for (unsigned seed = 0; seed < 10; seed++) {
            Fixture f(small ? kZoneMinimum : 4 * 1024 * 1024);
            std::mt19937 random(seed);
            std::map<unsigned, Kept> kept;
            unsigned hits = 0;

            for (int i = 0; i < 5000; i++) {
                unsigned n = random() % 50;

                f.now += random() % 20;
                switch (random() % 4) {
                case 0: {
                    Kept now = {pattern(random() % (random() % 4 == 0 ? 12000 : 700), random()),
                                f.now + 1 + random() % 20000};
                    f.put(n, now.value, now.expires - f.now);
                    kept[n] = now;
                    break;
                }

                case 1:
                    if (random() % 4 == 0) {
                        f.zone.remove(Fixture::id(n), f.now);
                        kept.erase(n);
                    }
                    break;

                default: {
                    auto at = kept.find(n);
                    bool lives = at != kept.end() && at->second.expires > f.now;
                    bool has = f.has(n);

                    // a small one may have lost it
                    assert_true(has == lives || (small && lives));
                    if (has) {
                        assert_true(f.value(n) == at->second.value);
                        assert_int_equal(f.zone.look_up(Fixture::id(n), f.now).expires,
                                         at->second.expires);
                        hits++;
                    }
                }
                }

                if (random() % 100 == 0) {
                    assert_true(f.zone.is_consistent());
                }
            }
            assert_true(hits > 500);
        }
    }
}

}  // namespace
