// The work that a worker does for a store besides the calls of its requests: it renews
// leases, and retries to record outcomes.

#pragma once

#include "http/config/config.h"
#include "http/exchange/lease_renewer.h"
#include "http/exchange/retry_queue.h"
#include "http/metrics/publisher.h"

namespace idempotency {

// One for each store, in each worker.
class Maintenance final : public StoreWatcher {
public:
    explicit Maintenance(Counters &counters) : counters_(counters) { ngx_queue_init(&exchanges); }

    // In each worker, after the store was opened, and before it is closed.
    void open(Store &store);
    void close();

    // Brings the metrics of this worker up to date.
    void publish() { publisher_.publish(); }

    LeaseRenewer leases;
    RetryQueue retries;
    ngx_queue_t exchanges;  // of Exchange: all that live

    // Calls of Observation that the store has not replied to.
    ngx_uint_t unreplied_observations = 0;

private:
    // The store is available again: leases may be about to expire, so both start at
    // once.
    void store_is_back() override
    {
        counters_.available_again();
        leases.renew_all_soon();
        retries.retry_all_soon();
    }

    Counters &counters_;
    Publisher publisher_;
};

// Creates `slot.maintenance`, in the pool of the configuration.  False if there is no
// memory.
bool create_maintenance(ngx_conf_t *cf, StoreSlot &slot);

// The worker exits (exit_process): settles what a fast shutdown has interrupted.  What was
// not sent to the application is released, the rest is unknown.
void settle_all_at_exit(StoreSlot &slot);

}  // namespace idempotency
