#include "http/untold.h"

namespace idempotency {

void Untold::add(UntoldOutcome &outcome, ngx_msec_t delay)
{
    ngx_queue_insert_tail(&outcomes_, &outcome.link);
    ngx_add_timer(&outcome.event, delay);
}

void Untold::remove(UntoldOutcome &outcome) { ngx_queue_remove(&outcome.link); }

void Untold::retry_all_soon()
{
    for (ngx_queue_t *q = ngx_queue_head(&outcomes_); q != ngx_queue_sentinel(&outcomes_);
         q = ngx_queue_next(q))
    {
        UntoldOutcome *outcome = ngx_queue_data(q, UntoldOutcome, link);

        if (outcome->event.timer_set) {
            ngx_del_timer(&outcome->event);
        }

        ngx_post_event(&outcome->event, &ngx_posted_events);
    }
}

}  // namespace idempotency
