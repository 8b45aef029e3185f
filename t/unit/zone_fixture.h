// A zone of a test: its memory, and a clock that the test sets.

#pragma once

#include "cmocka.h"

#include <cstring>
#include <functional>
#include <vector>

#include "store/zone.h"

namespace idempotency {

template <class Zone>
struct ZoneFixture {
    std::vector<std::uint64_t> memory;
    Zone zone;
    Millis now = 1000000;

    explicit ZoneFixture(std::size_t size) : memory(size / 8), zone(memory.data(), size)
    {
        assert_true(zone.format());
        assert_true(zone.valid() && zone.sound());
    }

    static KeyId id(unsigned n)
    {
        KeyId id{};

        for (std::size_t i = 0; i < id.bytes.size(); i++) {
            id.bytes[i] = static_cast<unsigned char>((n * 2654435761u) >> (8 * (i % 4)));
        }
        return id;
    }

    // How many pieces of memory of the size of a block a call has changed: the work that it did, on a machine of any speed.
    std::size_t changed_by(const std::function<void()> &call)
    {
        auto before = memory;
        std::size_t count = 0;
        constexpr std::size_t words = kZoneBlockSize / 8;

        call();
        for (std::size_t at = 0; at + words <= before.size(); at += words) {
            count += std::memcmp(&before[at], &memory[at], kZoneBlockSize) != 0;
        }
        return count;
    }
};

}  // namespace idempotency
