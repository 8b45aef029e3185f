#include "http/exchange/maintenance.h"

#include <new>

#include "http/exchange/exchange.h"

namespace idempotency {

bool create_maintenance(ngx_conf_t *cf, StoreSlot &slot)
{
    void *memory = ngx_palloc(cf->pool, sizeof(Maintenance));

    if (memory == nullptr) {
        return false;
    }

    slot.maintenance = new (memory) Maintenance(*slot.counters);
    return true;
}

void Maintenance::open(Store &store)
{
    counters_.attach_worker();
    leases.show_in(counters_.cell());
    publisher_.open(store, counters_);
}

void Maintenance::close()
{
    publisher_.close();
    counters_.detach_worker();
    leases.show_in(counters_.cell());
}

void settle_all_at_exit(StoreSlot &slot)
{
    ngx_queue_t &exchanges = slot.maintenance->exchanges;
    ngx_queue_t *following = nullptr;

    slot.maintenance->leases.stop();

    for (ngx_queue_t *q = ngx_queue_head(&exchanges); q != ngx_queue_sentinel(&exchanges);
         q = following)
    {
        following = ngx_queue_next(q);
        Exchange::from_link(q).settle_at_exit();
    }
}

}  // namespace idempotency
