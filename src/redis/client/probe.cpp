#include "redis/client/probe.h"

#include "nginx/timer.h"

namespace idempotency {

namespace {

constexpr std::string_view kPing[] = {"PING"};

// In milliseconds.  Redis serves both connections in the same turn of its event loop, but their
// replies may arrive in any order.
constexpr ngx_msec_t kGrace = 50;

}  // namespace

void RedisProbe::open(ngx_log_t *log) noexcept
{
    query_.open(log);
    prepare_timer(timer_, on_timer, this, log);
}

void RedisProbe::start(RedisServer &server) noexcept
{
    if (!query_.busy() && !timer_.timer_set) {
        query_.start(server, {kPing, 1, options_.user, options_.password});
    }
}

void RedisProbe::close() noexcept
{
    query_.close();

    cancel_timer(timer_);
}

const char *RedisProbe::read(RedisQuery &, const redisReply &) { return nullptr; }

void RedisProbe::ended(RedisQuery &, const char *fault, ngx_err_t)
{
    if (fault == nullptr) {
        ngx_add_timer(&timer_, kGrace);
    }
}

void RedisProbe::on_timer(ngx_event_t *event)
{
    static_cast<RedisProbe *>(event->data)->owner_.probe_replied();
}

}  // namespace idempotency
