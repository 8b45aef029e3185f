// What a worker does for a store besides the calls of its requests.

#pragma once

#include "http/lease_keeper.h"
#include "http/untold.h"

namespace idempotency {

// One for each store, in each worker.
class Upkeep final : public StoreWatcher {
public:
    Upkeep(Store &store, Counters &counters) : leases(store, counters) {}

    LeaseKeeper leases;
    Untold untold;

private:
    // A lease may be about to end, and an outcome with it.
    void store_is_back() override
    {
        leases.renew_all_soon();
        untold.retry_all_soon();
    }
};

}  // namespace idempotency
