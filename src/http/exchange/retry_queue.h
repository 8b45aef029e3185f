// The outcomes that a store could not be told: each is tried again after a
// while, and all of them at once when the store is back.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// It lies in its exchange, which sets the event's handler, data and log.  The
// handler removes it first.
struct PendingOutcome {
    ngx_queue_t link;
    ngx_event_t event;
};

// One for each store, in each worker.
class RetryQueue {
public:
    RetryQueue() { ngx_queue_init(&outcomes_); }

    // Calls the handler after `delay`, or as soon as `retry_all_soon` says.
    void add(PendingOutcome &outcome, ngx_msec_t delay);
    void remove(PendingOutcome &outcome);

    // From the event loop.
    void retry_all_soon();

private:
    ngx_queue_t outcomes_;
};

}  // namespace idempotency
