#include "http/exchange/maintenance.h"

#include <new>

namespace idempotency {

bool create_maintenance(ngx_conf_t *cf, StoreSlot &slot)
{
    void *place = ngx_palloc(cf->pool, sizeof(Maintenance));

    if (place == nullptr) {
        return false;
    }

    slot.maintenance = new (place) Maintenance(*slot.store, *slot.counters);
    return true;
}

}  // namespace idempotency
