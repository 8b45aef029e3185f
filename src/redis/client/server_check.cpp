#include "redis/client/server_check.h"

#include <hiredis/hiredis.h>

#include "nginx/timer.h"
#include "redis/protocol/advice.h"

namespace idempotency {

namespace {

constexpr std::size_t kMaxReply = 64 * 1024;
constexpr std::string_view kInfo[] = {"INFO"};

// In milliseconds.
constexpr ngx_msec_t kDelay = 100;
constexpr ngx_msec_t kInterval = 15000;

}  // namespace

RedisServerCheck::RedisServerCheck(const RedisOptions &options, RedisServer &server) noexcept
    : options_(options), server_(&server), query_(options, server, kMaxReply, *this)
{}

void RedisServerCheck::open(ngx_log_t *log) noexcept
{
    query_.open(log);
    prepare_timer(timer_, on_timer, this, log);
}

void RedisServerCheck::close() noexcept
{
    query_.close();

    cancel_timer(timer_);
}

void RedisServerCheck::check_soon(RedisServer &server) noexcept
{
    if (ngx_worker != 0 || ngx_exiting || timer_.log == nullptr) {
        return;
    }

    server_ = &server;
    is_first_ = true;
    fire_within(timer_, kDelay);
}

void RedisServerCheck::on_timer(ngx_event_t *event)
{
    auto self = static_cast<RedisServerCheck *>(event->data);

    self->query_.start(*self->server_, {kInfo, 1, self->options_.user, self->options_.password});
}

const char *RedisServerCheck::read(RedisQuery &, const redisReply &reply)
{
    if (reply.type != REDIS_REPLY_STRING) {
        info_ = NodeInfo();
        return nullptr;
    }

    std::string_view info{reply.str, static_cast<std::size_t>(reply.len)};

    read_node_info(info, info_);

    if (!is_first_) {
        return nullptr;
    }

    is_first_ = false;

    for (const char *advice : {advice_for_version(info), advice_for_eviction(info)}) {
        if (advice != nullptr) {
            ngx_log_error(NGX_LOG_WARN, timer_.log, 0,
                          "idempotency: redis \"%V\" of store \"%V\": %s", &server_->name,
                          &options_.store, advice);
        }
    }

    return nullptr;
}

// The connections that calls use report what is wrong with the server.
void RedisServerCheck::ended(RedisQuery &, const char *fault, ngx_err_t)
{
    if (fault != nullptr) {
        info_ = NodeInfo();
    }

    if (info_.is_known && !ngx_exiting) {
        fire_within(timer_, kInterval);
    }
}

}  // namespace idempotency
