#include "redis/protocol/sender.h"

#include <algorithm>

namespace idempotency {

void RedisSender::open() noexcept
{
    state_ = State::greeting;
    fault_ = nullptr;
    value_refused_ = false;
    output_.clear();
    offered_ = 0;
}

RedisCommandQueue RedisSender::close() noexcept
{
    state_ = State::closed;
    fault_ = nullptr;
    value_refused_ = false;
    paused_ = false;
    is_cautious_ = is_cautious_ || limited_ > 0;
    timed_out_ = 0;
    limited_ = 0;
    output_.clear();
    offered_ = 0;
    return in_flight_.take();
}

bool RedisSender::take_back(Millis now) noexcept
{
    // how many connections may be lost while a command is the only one in flight
    constexpr unsigned char max_fetch_breaks = 1;
    constexpr unsigned char max_settle_breaks = 3;

    if (!options_.is_bulk || !is_greeted() || limited_ == 0) {
        return false;
    }

    bool is_alone = limited_ == 1;
    RedisCommandQueue in_flight = in_flight_.take();
    RedisCommandQueue waiting = take_waiting();
    RedisCommandQueue again;

    while (!in_flight.empty()) {
        RedisCommand *command = in_flight.pop();
        bool is_fetch = command->kind == RedisCommand::Kind::fetch;
        bool is_possible = command->call != nullptr && !command->timed_out
                           && (is_fetch || command->kind == RedisCommand::Kind::settle);

        if (is_possible && may_be_written(command->begin + 1)) {
            command->was_sent = true;
            command->breaks = static_cast<unsigned char>(command->breaks + is_alone);
            is_possible = command->breaks < (is_fetch ? max_fetch_breaks : max_settle_breaks);
            command->is_refused = !is_possible && !is_fetch;
        }

        if (is_possible) {
            command->deadline = std::max(command->deadline, now + 2 * options_.timeout);
            again.push(command);
        } else {
            in_flight_.push(command);
        }
    }

    // others are served before a command that may be the reason
    for (RedisCommandQueue *queue : {is_alone ? &waiting : &again, is_alone ? &again : &waiting}) {
        while (!queue->empty()) {
            enqueue(queue->pop());
        }
    }

    is_cautious_ = true;
    return true;
}

void RedisSender::set_value_refused() noexcept
{
    value_refused_ = true;
    fault_ = "it has refused a value as too large (proto-max-bulk-len)";
}

// Sending

bool RedisSender::send_greeting(RedisCommand::Kind kind, std::string_view first,
                                std::string_view second, Millis now) noexcept
{
    RedisCommand *command = pool_.make(kind, now + options_.timeout);

    if (command == nullptr) {
        return false;
    }

    encoder_.put_words({command->name(), first, second});

    if (kind == RedisCommand::Kind::auth) {
        output_.mark_secret();
    }

    command->end = output_.appended();
    in_flight_.push(command);
    return !output_.failed();
}

void RedisSender::send(RedisCommand *command) noexcept
{
    if (command->asking) {
        // ASKING is for the next command alone
        encoder_.put_words({"ASKING"});
        command->awaits_asking_reply = true;
    }

    command->begin = output_.appended();
    encoder_.put(*command);
    command->end = output_.appended();
    in_flight_.push(command);

    sent_++;
    limited_ += command->is_limited();

    if (options_.replicas > 0 && command->changes_key()) {
        replicas_.change_sent(command->deadline);
    }

    // the stream of bytes has a gap now: nothing more can be sent
    if (output_.failed()) {
        set_out_of_memory();
    }
}

bool RedisSender::may_send(const RedisCommand &command) const noexcept
{
    std::size_t limit = is_cautious_ ? 1 : options_.max_in_flight;

    return !paused_ && (limit == 0 || limited_ < limit || !command.is_limited());
}

void RedisSender::enqueue(RedisCommand *command) noexcept
{
    if (command->kind == RedisCommand::Kind::fetch) {
        if (RedisCommand *leader = fetches_.find(*command); leader != nullptr
                                                            && command->followers == nullptr
                                                            && !command->asking && !leader->asking)
        {
            command->next = leader->followers;
            leader->followers = command;
            return;
        }

        fetches_.add(*command);
    }

    waiting_.push(command);
}

RedisCommandQueue RedisSender::take_waiting() noexcept
{
    fetches_.clear();
    return waiting_.take();
}

RedisCommandQueue RedisSender::take_expired_waiting(Millis now) noexcept
{
    RedisCommandQueue expired = waiting_.take_expired(now);

    for (RedisCommand *command = expired.first(); command != nullptr; command = command->next) {
        fetches_.remove(*command);
    }

    return expired;
}

void RedisSender::send_check(Millis now) noexcept
{
    RedisCommand *command = pool_.make(RedisCommand::Kind::check, now + options_.timeout);

    if (command != nullptr) {
        send(command);
    }
}

void RedisSender::send_or_queue(RedisCommand *command) noexcept
{
    if (is_greeted() && waiting_.empty() && may_send(*command)) {
        send(command);
    } else {
        enqueue(command);
    }
}

// In the order in which they came: a command that may not be sent yet keeps back
// those behind it.
void RedisSender::send_waiting() noexcept
{
    while (!waiting_.empty() && fault_ == nullptr && may_send(*waiting_.first())) {
        RedisCommand *command = waiting_.pop();

        fetches_.remove(*command);
        send(command);
    }
}

void RedisSender::send_wait() noexcept
{
    RedisCommand *command = pool_.make(RedisCommand::Kind::wait, replicas_.wait_sent());

    if (command == nullptr) {
        set_out_of_memory();
        return;
    }

    send(command);
}

std::size_t RedisSender::output(iovec *out, std::size_t max) noexcept
{
    if (fault_ == nullptr && replicas_.is_wait_due()) {
        send_wait();
    }

    std::size_t count = fault_ == nullptr ? output_.pieces(out, max) : 0;
    std::uint64_t end = output_.written();

    for (std::size_t i = 0; i < count; i++) {
        end += out[i].iov_len;
    }

    offered_ = std::max(offered_, end);
    return count;
}

// Commands in flight

RedisCommand *RedisSender::pop_in_flight() noexcept
{
    RedisCommand *command = in_flight_.pop();

    timed_out_ -= command->timed_out;
    limited_ -= command->is_limited();
    return command;
}

void RedisSender::set_timed_out(RedisCommand &command) noexcept
{
    command.timed_out = true;
    timed_out_++;
}

std::uint64_t RedisSender::count_in_flight() const noexcept
{
    std::uint64_t count = 0;

    for (RedisCommand *command = in_flight_.first(); command != nullptr; command = command->next) {
        count++;
    }

    return count;
}

bool RedisSender::drained() const noexcept
{
    const RedisCommand *command = in_flight_.first();

    while (command != nullptr && command->timed_out) {
        command = command->next;
    }

    return command == nullptr;
}

Millis RedisSender::next_deadline() const noexcept
{
    auto counts = [](const RedisCommand &command) { return !command.timed_out; };

    return std::min(in_flight_.next_deadline(counts), waiting_.next_deadline());
}

}  // namespace idempotency
