#include "redis/client/waiting_room.h"

namespace idempotency {

void RedisWaitingRoom::open(ngx_log_t *log) noexcept
{
    // not `cancelable`: a worker that quits waits for calls
    timer_.handler = on_deadline;
    timer_.data = this;
    timer_.log = log;
}

void RedisWaitingRoom::close() noexcept
{
    waiting_.end_all();

    if (timer_.timer_set) {
        ngx_del_timer(&timer_);
    }
}

bool RedisWaitingRoom::wait(Call &call, ngx_msec_t length) noexcept
{
    if (!waiting_.push(call, ngx_current_msec + length)) {
        call.reply = Reply();
        return true;
    }

    if (!timer_.timer_set) {
        ngx_add_timer(&timer_, length);
    }

    return false;
}

Call *RedisWaitingRoom::next(Millis &deadline) noexcept
{
    Call *call = waiting_.pop(deadline);

    if (waiting_.empty() && timer_.timer_set) {
        ngx_del_timer(&timer_);
    }

    return call;
}

void RedisWaitingRoom::on_deadline(ngx_event_t *event)
{
    auto self = static_cast<RedisWaitingRoom *>(event->data);

    self->waiting_.expire(ngx_current_msec);

    Millis next = self->waiting_.next_deadline();

    if (next != kNever && !event->timer_set) {
        ngx_add_timer(event, next > ngx_current_msec ? next - ngx_current_msec : 1);
    }
}

}  // namespace idempotency
