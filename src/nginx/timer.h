// Additions to nginx's timers.

#pragma once

#include "nginx/nginx.h"

namespace idempotency {

// Sets the timer to `delay` milliseconds from now, unless it fires earlier already.
inline void fire_within(ngx_event_t &timer, ngx_msec_t delay)
{
    if (timer.timer_set) {
        if (static_cast<ngx_msec_int_t>(timer.timer.key - (ngx_current_msec + delay)) <= 0) {
            return;
        }

        ngx_del_timer(&timer);
    }

    ngx_add_timer(&timer, delay);
}

// A timer that does not keep a worker from exiting.  `log` outlives it.
inline void prepare_timer(ngx_event_t &timer, ngx_event_handler_pt handler, void *data,
                          ngx_log_t *log)
{
    timer.handler = handler;
    timer.data = data;
    timer.log = log;
    timer.cancelable = 1;
}

inline void cancel_timer(ngx_event_t &timer)
{
    if (timer.timer_set) {
        ngx_del_timer(&timer);
    }
}

}  // namespace idempotency
