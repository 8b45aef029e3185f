#include "redis/client/inquiry.h"

namespace idempotency {

RedisInquiry::RedisInquiry(const RedisOptions &options, RedisServer &server, std::size_t most,
                           Owner &owner) noexcept
    : options_(options), owner_(owner), socket_(options, server, *this), dialogue_(most, *this)
{}

void RedisInquiry::open(ngx_log_t *log) noexcept
{
    socket_.open(log);
    timer_.handler = on_timeout;
    timer_.data = this;
    timer_.log = log;
    // a worker that quits waits for calls, not for this
    timer_.cancelable = 1;
}

void RedisInquiry::ask(RedisServer &server, const Question &question) noexcept
{
    close();
    busy_ = true;
    question_ = question;
    answered_ = false;
    fault_ = nullptr;
    socket_.retarget(server);
    socket_.connect();
}

void RedisInquiry::close() noexcept
{
    busy_ = false;

    if (timer_.timer_set) {
        ngx_del_timer(&timer_);
    }

    socket_.close();
    dialogue_.close();
}

void RedisInquiry::established()
{
    dialogue_.open(view(question_.user), view(question_.password));
    dialogue_.ask(question_.words, question_.count);

    if (dialogue_.fault() != nullptr) {
        end(dialogue_.fault(), 0);
        return;
    }

    socket_.settle();
    ngx_add_timer(&timer_, options_.timeout);
    socket_.write_soon();
}

void RedisInquiry::answered(const redisReply &reply)
{
    if (fault_ == nullptr && (question_.subscribes || !answered_)) {
        answered_ = true;
        fault_ = owner_.read(*this, reply);
    }
}

void RedisInquiry::received(std::string_view bytes)
{
    dialogue_.input(bytes);

    const char *fault = dialogue_.fault() != nullptr ? dialogue_.fault() : fault_;

    if (fault != nullptr || (answered_ && !question_.subscribes)) {
        end(fault, 0);
        return;
    }

    if (answered_ && timer_.timer_set) {
        ngx_del_timer(&timer_);
    }
}

std::size_t RedisInquiry::output(iovec *out, std::size_t most)
{
    return dialogue_.output(out, most);
}

void RedisInquiry::wrote(std::size_t size) { dialogue_.wrote(size); }

void RedisInquiry::broken(const char *why, ngx_err_t error) { end(why, error); }

void RedisInquiry::on_timeout(ngx_event_t *event)
{
    static_cast<RedisInquiry *>(event->data)->end("it does not answer", 0);
}

void RedisInquiry::end(const char *fault, ngx_err_t error) noexcept
{
    // the dialogue's own words are gone once it is closed
    u_char text[256];

    if (fault != nullptr) {
        *ngx_cpystrn(text, reinterpret_cast<u_char *>(const_cast<char *>(fault)), sizeof(text)) =
            '\0';
    }

    close();
    owner_.ended(*this, fault != nullptr ? reinterpret_cast<char *>(text) : nullptr, error);
}

}  // namespace idempotency
