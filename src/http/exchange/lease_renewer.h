// Renews the leases of running requests, many with one call to the store.

#pragma once

#include "nginx/nginx.h"

#include "http/metrics/counters.h"
#include "core/store.h"

namespace idempotency {

// A claim whose lease is renewed.  It is a member of its exchange.
struct RenewedLease {
    ngx_queue_t link;
    Lease lease;
    ngx_msec_t renew_at;
    bool queued;
};

// One for each store, in each worker.
class LeaseRenewer {
public:
    LeaseRenewer(Store &store, Counters &counters) : store_(store), counters_(counters)
    {
        ngx_queue_init(&leases_);
    }

    // Renews the lease after each third of its length, until `remove`.  `renewed` must
    // stay where it is until then.  `remove` does nothing if it was not added.
    void add(RenewedLease &renewed);
    void remove(RenewedLease &renewed);

    // Renews all leases from the event loop: renewals that were sent while the store
    // was unavailable are lost.
    void renew_all_soon();

    // Call it before the worker exits.
    void stop();

private:
    static void on_timer(ngx_event_t *event);
    void renew_due_leases();
    void renew(const Lease *leases, std::size_t count);
    void set_timer(ngx_msec_t renew_at);

    Store &store_;
    Counters &counters_;
    ngx_queue_t leases_;
    ngx_event_t timer_{};
};

}  // namespace idempotency
