// The store of one host: a zone in memory that all workers share.

#pragma once

#include "core/store.h"
#include "zone/memory_zone.h"
#include "zone/shared_memory.h"

namespace idempotency {

class MemoryStore final : public Store {
public:
    // `memory` holds a MemoryZone and must outlive this object.
    explicit MemoryStore(SharedMemory &memory) : memory_(memory) {}

    bool open() override { return true; }
    void close() override {}

    // Does nothing: this store is always available.
    void watch(StoreWatcher *) override {}

    // Always true: each call ends at once, and is never carried out in part.  The memory is
    // locked meanwhile; Call::allocate_value is called with the lock held.
    bool start(Call &call) override;
    bool walk(WalkStep &step) override;
    StoreFigures figures() override;

private:
    using Locked = LockedZone<MemoryZone>;

    static void claim(MemoryZone &zone, Call &call, Millis now);

    SharedMemory &memory_;
};

}  // namespace idempotency
