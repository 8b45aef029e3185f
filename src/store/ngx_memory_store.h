// The embedded store: a memory zone in nginx's shared memory.

#pragma once

#include "store/memory_zone.h"
#include "store/ngx_zone_segment.h"
#include "store/store.h"

namespace idempotency {

class MemoryStore final : public Store {
public:
    // Null where that fails; nginx or this has logged why.
    static MemoryStore *create(ngx_conf_t *cf, ngx_str_t *name, size_t size, void *tag);

    bool open() override { return true; }
    void close() override {}
    void watch(StoreWatcher *) override {}
    bool start(Call &call) override;
    void renew(const Lease *leases, std::size_t count) override;
    StoreFigures figures() override;

private:
    class Lock;

    explicit MemoryStore(ZoneSegment &segment) : segment_(segment) {}

    static void claim(MemoryZone &memory, Call &call, Millis now);
    MemoryZone zone() const { return MemoryZone(segment_.memory(), segment_.size()); }

    ZoneSegment &segment_;
};

}  // namespace idempotency
