// The memory of one zone, which several processes share, and its mutex.

#pragma once

#include <cstddef>

#include "core/record.h"

namespace idempotency {

class SharedMemory {
public:
    // The address in this process: aligned to 8 bytes, and constant while the process runs.  The
    // memory is accessed between `lock` and `unlock`.
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

// A zone of type Z (MemoryZone or CacheZone), locked during the life of this object.  A change that
// the last holder of the mutex did not end, because it was killed, is undone first.
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

        Z zone(memory.memory(), memory.size());

        zone.recover();
        return zone;
    }

    SharedMemory &memory_;
    Z zone_;
};

}  // namespace idempotency
