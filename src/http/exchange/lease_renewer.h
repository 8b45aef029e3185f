// Keeps the claims of running requests alive, many with one call.

#pragma once

#include "nginx/nginx.h"

#include "http/metrics/counters.h"
#include "core/store.h"

namespace idempotency {

// A claim that is being kept; it lies in its exchange.
struct RenewedLease {
    ngx_queue_t link;
    Lease lease;
    ngx_msec_t due;  // when it is to be renewed
    bool linked;
};

// One for each store, in each worker.
class LeaseRenewer {
public:
    LeaseRenewer(Store &store, Counters &counters) : store_(store), counters_(counters)
    {
        ngx_queue_init(&running_);
    }

    // Renews `kept` each third of its length until it is dropped.
    void keep(RenewedLease &kept);
    void drop(RenewedLease &kept);

    // Renews all of them, from the event loop: the store was away, and what it
    // was told then is lost.
    void renew_all_soon();

    // Before the worker ends.
    void stop();

private:
    static void on_timer(ngx_event_t *event);
    void renew_due();
    void renew(const Lease *leases, std::size_t count);
    void set_timer(ngx_msec_t due);

    Store &store_;
    Counters &counters_;
    ngx_queue_t running_;
    ngx_event_t timer_{};
};

}  // namespace idempotency
