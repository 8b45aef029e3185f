#include "http/exchange/retry_queue.h"

#include "nginx/timer.h"

namespace idempotency {

void RetryQueue::add(PendingOutcome &outcome, ngx_msec_t delay)
{
    ngx_queue_insert_tail(&outcomes_, &outcome.link);
    ngx_add_timer(&outcome.event, delay);
}

void RetryQueue::remove(PendingOutcome &outcome) { ngx_queue_remove(&outcome.link); }

void RetryQueue::retry_all_soon()
{
    for (ngx_queue_t *q = ngx_queue_head(&outcomes_); q != ngx_queue_sentinel(&outcomes_);
         q = ngx_queue_next(q))
    {
        PendingOutcome *outcome = ngx_queue_data(q, PendingOutcome, link);

        cancel_timer(outcome->event);

        ngx_post_event(&outcome->event, &ngx_posted_events);
    }
}

}  // namespace idempotency
