// The outcomes that could not be recorded because the store was unavailable, and the releases
// that are repeated once.  Each is retried after a delay, and all are retried once the store is
// available again.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// A member of its exchange, which sets handler, data and log of the event.  The
// handler must first call `RetryQueue::remove`.
struct PendingOutcome {
    ngx_queue_t link;
    ngx_event_t event;
};

// One for each store, in each worker.
class RetryQueue {
public:
    RetryQueue() { ngx_queue_init(&outcomes_); }

    // Calls the handler after `delay` milliseconds, or after `retry_all_soon`.
    void add(PendingOutcome &outcome, ngx_msec_t delay);
    void remove(PendingOutcome &outcome);

    // Posts the event of each outcome: the event loop calls the handlers.
    void retry_all_soon();

private:
    ngx_queue_t outcomes_;
};

}  // namespace idempotency
