// Shared memory that holds one zone, as a process sees it, and the mutex under which
// the processes use it.

#pragma once

#include <cstddef>

#include "core/record.h"

namespace idempotency {

class SharedMemory {
public:
    // Valid between `lock` and `unlock`, and as long as the process runs.
    virtual void *memory() const = 0;
    virtual std::size_t size() const = 0;

    // The mutex is not recursive.
    virtual void lock() = 0;
    virtual void unlock() = 0;

    // Milliseconds of a clock that all processes share and that never goes back
    // (CLOCK_MONOTONIC).
    virtual Millis now() const = 0;

protected:
    ~SharedMemory() = default;
};

// A zone of type Z (MemoryZone, CacheZone), locked as long as this object lives.
template <typename Z>
class LockedZone {
public:
    explicit LockedZone(SharedMemory &memory) : memory_(memory), zone_(lock(memory)) {}
    ~LockedZone() { memory_.unlock(); }
    LockedZone(const LockedZone &) = delete;
    LockedZone &operator=(const LockedZone &) = delete;

    Z &operator*() { return zone_; }
    Z *operator->() { return &zone_; }

private:
    static Z lock(SharedMemory &memory)
    {
        memory.lock();
        return Z(memory.memory(), memory.size());
    }

    SharedMemory &memory_;
    Z zone_;
};

}  // namespace idempotency
