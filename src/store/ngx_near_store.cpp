#include "store/ngx_near_store.h"

#include <new>

#include "store/near_store.h"
#include "store/ngx_zone_segment.h"

namespace idempotency {

namespace {

class SegmentMemory final : public NearMemory {
public:
    explicit SegmentMemory(ZoneSegment &segment) : segment_(segment) {}

    CacheZone lock() override
    {
        segment_.lock();
        return CacheZone(segment_.memory(), segment_.size());
    }

    void unlock() override { segment_.unlock(); }
    Millis now() const override { return ZoneSegment::now(); }

private:
    ZoneSegment &segment_;
};

struct Near {
    Near(Store &store, ZoneSegment &segment) : memory(segment), near(store, memory) {}

    SegmentMemory memory;
    NearStore near;
};

void destroy(void *near) { static_cast<Near *>(near)->~Near(); }

}  // namespace

Store *create_near_store(ngx_conf_t *cf, const ngx_str_t &name, size_t size, void *tag,
                         Store &store) noexcept
{
    ZoneSegment *segment = ZoneSegment::create(cf, "idempotency_near_cache", name, size, tag);
    ngx_pool_cleanup_t *cleanup = ngx_pool_cleanup_add(cf->pool, sizeof(Near));

    if (segment == nullptr || cleanup == nullptr) {
        return nullptr;
    }

    auto *made = new (cleanup->data) Near(store, *segment);

    cleanup->handler = destroy;
    return &made->near;
}

}  // namespace idempotency
