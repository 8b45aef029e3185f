#include "redis/client/query.h"

#include "nginx/timer.h"

namespace idempotency {

namespace {

// In milliseconds: how often a subscription is checked.
constexpr ngx_msec_t kCheckInterval = 10000;

}  // namespace

RedisQuery::RedisQuery(const RedisOptions &options, RedisServer &server, std::size_t max_reply,
                       Owner &owner) noexcept
    : options_(options), owner_(owner),
      socket_(options, server, RedisConnectionShare::Use::query, *this), codec_(max_reply, *this)
{}

void RedisQuery::open(ngx_log_t *log) noexcept
{
    socket_.open(log);
    prepare_timer(timer_, on_timeout, this, log);
}

void RedisQuery::start(RedisServer &server, const Command &command) noexcept
{
    close();
    busy_ = true;
    command_ = command;
    replied_ = false;
    awaits_reply_ = false;
    fault_ = nullptr;
    socket_.retarget(server);
    socket_.connect();
}

void RedisQuery::close() noexcept
{
    busy_ = false;

    cancel_timer(timer_);

    socket_.close();
    codec_.close();
}

void RedisQuery::established()
{
    codec_.open(view(command_.user), view(command_.password),
                static_cast<std::uint32_t>(command_.database));
    codec_.send(command_.words, command_.count);

    if (codec_.fault() != nullptr) {
        end(codec_.fault(), 0);
        return;
    }

    socket_.keep_address();
    ngx_add_timer(&timer_, options_.timeout);
    socket_.write_soon();
}

void RedisQuery::replied(const redisReply &reply)
{
    if (fault_ == nullptr && (command_.subscribes || !replied_)) {
        replied_ = true;
        fault_ = owner_.read(*this, reply);
    }
}

void RedisQuery::received(std::string_view bytes)
{
    codec_.input(bytes);

    const char *fault = codec_.fault() != nullptr ? codec_.fault() : fault_;

    if (fault != nullptr || (replied_ && !command_.subscribes)) {
        end(fault, 0);
        return;
    }

    // only a subscription gets here after its first reply
    if (replied_) {
        awaits_reply_ = false;
        ngx_add_timer(&timer_, kCheckInterval);
    }
}

std::size_t RedisQuery::output(iovec *out, std::size_t max) { return codec_.output(out, max); }

void RedisQuery::wrote(std::size_t size) { codec_.wrote(size); }

void RedisQuery::failed(const char *why, ngx_err_t error) { end(why, error); }

void RedisQuery::on_timeout(ngx_event_t *event)
{
    auto self = static_cast<RedisQuery *>(event->data);

    if (!self->replied_ || self->awaits_reply_) {
        self->end("it does not reply", 0);
        return;
    }

    // a subscription: is the sentinel still there?
    self->awaits_reply_ = true;
    self->codec_.send(self->command_.words, self->command_.count);
    ngx_add_timer(&self->timer_, self->options_.timeout);
    self->socket_.write_soon();
}

void RedisQuery::end(const char *fault, ngx_err_t error) noexcept
{
    // `fault` may point into the codec, which `close` clears
    u_char text[256];

    if (fault != nullptr) {
        *ngx_cpystrn(text, reinterpret_cast<u_char *>(const_cast<char *>(fault)), sizeof(text)) =
            '\0';
    }

    close();
    owner_.ended(*this, fault != nullptr ? reinterpret_cast<char *>(text) : nullptr, error);
}

}  // namespace idempotency
