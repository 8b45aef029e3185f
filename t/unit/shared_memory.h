// Shared memory for tests: memory of this process, a mutex that checks its use, and a clock that
// the test sets.

#pragma once

#include "cmocka.h"

#include <vector>

#include "zone/shared_memory.h"
#include "zone_secret.h"

namespace idempotency {

struct Clock {
    Millis now = 1000000;
};

// With an empty zone of type Z in it.
template <typename Z>
class TestMemory final : public SharedMemory {
public:
    // `clock` must outlive this object.
    TestMemory(const Clock &clock, std::size_t size) : clock_(clock), memory_(size / 8)
    {
        assert_true(zone().format(kZoneSecret));
    }

    void *memory() const override { return const_cast<std::uint64_t *>(memory_.data()); }
    std::size_t size() const override { return memory_.size() * 8; }

    void lock() override
    {
        assert_false(locked_);
        locked_ = true;
    }

    void unlock() override
    {
        assert_true(locked_);
        locked_ = false;
    }

    Millis now() const override { return clock_.now; }

    bool locked() const { return locked_; }
    Z zone() const { return Z(memory(), size()); }

private:
    const Clock &clock_;
    std::vector<std::uint64_t> memory_;
    bool locked_ = false;
};

}  // namespace idempotency
