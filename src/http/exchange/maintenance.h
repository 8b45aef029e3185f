// The work that a worker does for a store besides the calls of its requests: it renews
// leases, and retries to record outcomes.

#pragma once

#include "http/config/config.h"
#include "http/exchange/lease_renewer.h"
#include "http/exchange/retry_queue.h"

namespace idempotency {

// One for each store, in each worker.
class Maintenance final : public StoreWatcher {
public:
    Maintenance(Store &store, Counters &counters) : leases(store, counters) {}

    LeaseRenewer leases;
    RetryQueue retries;

private:
    // The store is available again: leases may be about to expire, so both start at
    // once.
    void store_is_back() override
    {
        leases.renew_all_soon();
        retries.retry_all_soon();
    }
};

// Creates `slot.maintenance`, in the pool of the configuration.  False if there is no
// memory.
bool create_maintenance(ngx_conf_t *cf, StoreSlot &slot);

}  // namespace idempotency
