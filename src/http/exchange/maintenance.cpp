#include "http/exchange/maintenance.h"

#include <new>

namespace idempotency {

bool create_maintenance(ngx_conf_t *cf, StoreSlot &slot)
{
    void *memory = ngx_palloc(cf->pool, sizeof(Maintenance));

    if (memory == nullptr) {
        return false;
    }

    slot.maintenance = new (memory) Maintenance(*slot.store, *slot.counters);
    return true;
}

}  // namespace idempotency
