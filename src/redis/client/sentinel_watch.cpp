#include "redis/client/sentinel_watch.h"

#include <cstdlib>
#include <new>

#include <hiredis/hiredis.h>

#include "nginx/timer.h"

namespace idempotency {

namespace {

constexpr std::size_t kMaxReply = 64 * 1024;

constexpr std::string_view kChannel = "+switch-master";
constexpr std::string_view kSubscribe[] = {"SUBSCRIBE", kChannel};

bool is_string(const redisReply &array, std::size_t index, std::string_view &text)
{
    if (array.type != REDIS_REPLY_ARRAY || index >= array.elements
        || array.element[index]->type != REDIS_REPLY_STRING)
    {
        return false;
    }

    text = {array.element[index]->str, static_cast<std::size_t>(array.element[index]->len)};
    return true;
}

}  // namespace

class RedisSentinelWatch::Subscription final : private RedisQuery::Owner {
public:
    Subscription(const RedisOptions &options, RedisServer &sentinel,
                 RedisSentinelWatch::Owner &owner) noexcept
        : options_(options), sentinel_(sentinel), owner_(owner),
          query_(options, sentinel, kMaxReply, *this)
    {}

    void open(ngx_log_t *log) noexcept
    {
        prepare_timer(timer_, on_timer, this, log);
        query_.open(log);
        subscribe();
    }

    void close() noexcept
    {
        query_.close();

        cancel_timer(timer_);
    }

private:
    // A message about a new master is "NAME OLD-HOST OLD-PORT NEW-HOST NEW-PORT".
    const char *read(RedisQuery &, const redisReply &reply) override
    {
        std::string_view kind, channel, text;

        // it may have published messages before the subscription; the other replies only show
        // that the connection works
        if (is_string(reply, 0, kind) && kind == "subscribe") {
            if (!is_subscribed_) {
                is_subscribed_ = true;
                owner_.master_may_have_changed();
            }
            return nullptr;
        }

        if (kind != "message" || !is_string(reply, 1, channel) || channel != kChannel
            || !is_string(reply, 2, text))
        {
            return "its message cannot be read";
        }

        if (text.substr(0, text.find(' ')) == view(options_.master)) {
            owner_.master_may_have_changed();
        }

        return nullptr;
    }

    void ended(RedisQuery &, const char *fault, ngx_err_t error) override
    {
        ngx_log_error(
            NGX_LOG_INFO, timer_.log, error,
            "idempotency: the subscription to redis sentinel \"%V\" of store \"%V\" is lost: %s",
            &sentinel_.name, &options_.store, fault != nullptr ? fault : "it has ended");
        ngx_add_timer(&timer_, backoff_.retry_delay(ngx_current_msec,
                                                    static_cast<std::uint32_t>(ngx_random())));
    }

    void subscribe() noexcept
    {
        is_subscribed_ = false;
        backoff_.attempted(ngx_current_msec);
        query_.start(sentinel_,
                     {kSubscribe, 2, options_.sentinel_user, options_.sentinel_password, 0, true});
    }

    static void on_timer(ngx_event_t *event)
    {
        static_cast<Subscription *>(event->data)->subscribe();
    }

    const RedisOptions &options_;
    RedisServer &sentinel_;
    RedisSentinelWatch::Owner &owner_;
    RedisQuery query_;
    bool is_subscribed_ = false;
    RedisBackoff backoff_;
    ngx_event_t timer_{};
};

RedisSentinelWatch::RedisSentinelWatch(const RedisOptions &options,
                                       const RedisSentinelList &sentinels, Owner &owner) noexcept
    : count_(sentinels.count()),
      first_(static_cast<Subscription *>(std::malloc((count_ + 1) * sizeof(Subscription))))
{
    for (std::size_t i = 0; first_ != nullptr && i < count_; i++) {
        new (&first_[i]) Subscription(options, sentinels[i], owner);
    }
}

RedisSentinelWatch::~RedisSentinelWatch()
{
    for (std::size_t i = 0; first_ != nullptr && i < count_; i++) {
        first_[i].~Subscription();
    }

    std::free(first_);
}

void RedisSentinelWatch::open(ngx_log_t *log) noexcept
{
    for (std::size_t i = 0; i < count_; i++) {
        first_[i].open(log);
    }
}

void RedisSentinelWatch::close() noexcept
{
    for (std::size_t i = 0; i < count_; i++) {
        first_[i].close();
    }
}

}  // namespace idempotency
