// Renews the leases of claims: of requests that run, and of outcomes that are not recorded
// yet.

#pragma once

#include "nginx/nginx.h"

#include "http/metrics/cells.h"

namespace idempotency {

// A claim whose lease is renewed.  It is a member of its exchange.
struct RenewedLease {
    ngx_queue_t link;
    ngx_msec_t length;  // of the lease
    ngx_msec_t renew_at;
    ngx_msec_t since;  // when the claim was granted
    bool queued;

    void *owner;  // the exchange

    // Starts one renewal.  It may remove this lease, but no other.
    void (*renew)(RenewedLease &lease);
};

// One for each store, in each worker.
class LeaseRenewer {
public:
    LeaseRenewer() { ngx_queue_init(&leases_); }

    // The gauges that show how many leases there are.
    void show_in(WorkerCell &cell) { cell_ = &cell; }

    // Calls `renew` after each third of the lease, until `remove`.  `lease` must stay
    // where it is until then.  `remove` does nothing if it was not added.
    void add(RenewedLease &lease);
    void remove(RenewedLease &lease);

    // Renews all leases from the event loop: renewals that were sent while the store was
    // unavailable are lost.
    void renew_all_soon();

    // Call it before the worker exits.
    void stop();

private:
    static void on_timer(ngx_event_t *event);
    void renew_due_leases();
    void show(int change);
    void set_timer(ngx_msec_t renew_at);

    ngx_queue_t leases_;  // in the order in which they were granted
    WorkerCell *cell_ = nullptr;
    ngx_event_t timer_{};
};

}  // namespace idempotency
