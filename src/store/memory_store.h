// The embedded store: a memory zone that all workers share.

#pragma once

#include "core/store.h"
#include "zone/memory_zone.h"
#include "zone/shared_memory.h"

namespace idempotency {

class MemoryStore final : public Store {
public:
    // `memory` outlives this.
    explicit MemoryStore(SharedMemory &memory) : memory_(memory) {}

    bool open() override { return true; }
    void close() override {}
    void watch(StoreWatcher *) override {}

    // A call always ends at once.
    bool start(Call &call) override;
    void renew(const Lease *leases, std::size_t count) override;
    StoreFigures figures() override;

private:
    using Locked = LockedZone<MemoryZone>;

    static void claim(MemoryZone &zone, Call &call, Millis now);

    SharedMemory &memory_;
};

}  // namespace idempotency
