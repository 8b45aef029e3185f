#include "redis/client/waiting_calls.h"

#include "nginx/timer.h"

namespace idempotency {

void RedisWaitingCalls::open(ngx_log_t *log) noexcept
{
    // not `cancelable`: a worker that quits waits until the calls have ended
    timer_.handler = on_deadline;
    timer_.data = this;
    timer_.log = log;
}

void RedisWaitingCalls::close() noexcept
{
    calls_.end_all();

    cancel_timer(timer_);
}

bool RedisWaitingCalls::add(Call &call, ngx_msec_t timeout) noexcept
{
    if (!calls_.push(call, ngx_current_msec + timeout)) {
        call.reply = Reply();
        return true;
    }

    if (!timer_.timer_set) {
        ngx_add_timer(&timer_, timeout);
    }

    return false;
}

Call *RedisWaitingCalls::take_next(Millis &deadline) noexcept
{
    Call *call = calls_.pop(deadline);

    if (calls_.empty() && timer_.timer_set) {
        ngx_del_timer(&timer_);
    }

    return call;
}

void RedisWaitingCalls::on_deadline(ngx_event_t *event)
{
    auto self = static_cast<RedisWaitingCalls *>(event->data);

    self->calls_.expire(ngx_current_msec);

    Millis next = self->calls_.next_deadline();

    if (next != kNever && !event->timer_set) {
        ngx_add_timer(event, next > ngx_current_msec ? next - ngx_current_msec : 1);
    }
}

}  // namespace idempotency
