#include "redis/protocol/reply_handler.h"

#include <cstring>

#include "redis/protocol/advice.h"
#include "redis/protocol/redirect.h"

namespace idempotency {

namespace {

constexpr const char *kNotRedis = "its replies are not those of Redis to these commands";

}  // namespace

void RedisReplyHandler::close() noexcept
{
    value_ = {};
    reader_.drop_value();
}

void RedisReplyHandler::input(std::string_view bytes, Millis now) noexcept
{
    ServerReply reply;

    while (!bytes.empty() && sender_.fault() == nullptr) {
        RedisReader::Result result = RedisReader::Result::garbage;

        // a reply without a command is as bad as one that cannot be read
        if (!sender_.none_in_flight()) {
            result = reader_.next(bytes, reply);
        }

        if (result == RedisReader::Result::reply) {
            handle(reply, now);

            if (sender_.is_greeted()) {
                sender_.send_waiting();
            }
        } else if (result == RedisReader::Result::garbage) {
            sender_.set_fault(kNotRedis);
        }
    }
}

// Called by the reader when a value begins: where to write it.
char *RedisReplyHandler::allocate_value(std::size_t size)
{
    RedisCommand *command = sender_.first_in_flight();
    Call *call =
        command->kind == Kind::claim || command->kind == Kind::fetch ? command->call : nullptr;
    bool is_wanted = call != nullptr && call->allocate_value != nullptr
                     && (command->kind == Kind::claim || size == call->large);
    char *buffer = is_wanted ? call->allocate_value(*call, size) : nullptr;

    value_ = {{buffer, buffer != nullptr ? size : 0}, size, buffer != nullptr};
    return buffer;
}

// What has no reply that fits makes the connection unusable.  With a fault
// nothing is written any more: the call may end although bytes that it owns have
// not been written.
void RedisReplyHandler::end_with_fault(RedisCommand *command) noexcept
{
    sender_.set_fault(kNotRedis);
    pool_.end(command, command->unknown_result());
}

void RedisReplyHandler::handle(const ServerReply &reply, Millis now) noexcept
{
    if (handle_asking(*sender_.first_in_flight(), reply)) {
        return;
    }

    RedisCommand *command = sender_.pop_in_flight();

    bool is_complete = sender_.is_written(command->end);

    if (!is_complete
        && !(is_bulk_length_error(*command, reply) && sender_.may_be_written(command->begin + 1)))
    {
        end_with_fault(command);
        return;
    }

    if (command->is_greeting()) {
        handle_greeting(*command, reply);
        pool_.recycle(command);
        return;
    }

    if (command->kind == Kind::check) {
        pool_.recycle(command);

        if (reply.kind != ServerReply::Kind::status && reply.kind != ServerReply::Kind::error) {
            sender_.set_fault(kNotRedis);
        }
        return;
    }

    if (command->is_limited()) {
        sender_.has_replied();
    }

    if (command->kind == Kind::wait) {
        handle_wait(command, reply, now);
        return;
    }

    if (reply.kind == ServerReply::Kind::error
        && (handle_no_script(command, reply) || handle_redirect(command, reply)))
    {
        return;
    }

    if (std::size_t size = too_large_size(*command, reply, options_.inline_limit); size > 0) {
        handle_too_large(command, size, now);
        return;
    }

    if (command->kind == Kind::fetch && reply.kind != ServerReply::Kind::error) {
        handle_fetch(command, reply, now);
        return;
    }

    handle_result(command, reply);
}

// The reply to the ASKING that was sent before the command.
bool RedisReplyHandler::handle_asking(RedisCommand &command, const ServerReply &reply) noexcept
{
    bool is_error = reply.kind == ServerReply::Kind::error;

    if (!command.awaits_asking_reply) {
        return false;
    }

    command.awaits_asking_reply = false;

    if (!sender_.is_written(command.begin)
        || (!is_error && reply.kind != ServerReply::Kind::status)) {
        sender_.set_fault(kNotRedis);
    } else if (is_error) {
        events_.error_reply("ASKING", reply.code, nullptr, advice_for_error(reply.text));
    }

    return true;
}

void RedisReplyHandler::handle_greeting(const RedisCommand &command,
                                        const ServerReply &reply) noexcept
{
    const char *fault = greeting_fault(command, reply);

    if (fault != nullptr) {
        sender_.set_fault(fault);
    }

    if (reply.kind == ServerReply::Kind::error) {
        events_.error_reply(command.name(), reply.code, nullptr, advice_for_error(reply.text));
    }

    if (fault == nullptr && command.kind == Kind::ping) {
        sender_.greeted();
        sender_.send_waiting();
        events_.greeted();
    }
}

// How many replicas have all changes that were sent before the WAIT.
void RedisReplyHandler::handle_wait(RedisCommand *command, const ServerReply &reply,
                                    Millis now) noexcept
{
    bool is_error = reply.kind == ServerReply::Kind::error;

    pool_.recycle(command);

    if (!is_error && reply.kind != ServerReply::Kind::integer) {
        sender_.set_fault(kNotRedis);
        return;
    }

    bool are_enough = !is_error && reply.integer >= static_cast<long long>(options_.replicas);
    RedisCommandQueue held = replicas_.wait_replied(are_enough, options_.wait_deadline(now));

    if (!are_enough) {
        if (is_error || !held.empty()) {
            events_.error_reply("WAIT", is_error ? reply.code : "NOREPLICAS", nullptr,
                                advice_for_error(is_error ? reply.text : "NOREPLICAS"));
        }

        pool_.end_unknown(held, is_error ? cause_of_code(reply.code) : Cause::replicas);
        return;
    }

    while (!held.empty()) {
        RedisCommand *done = held.pop();
        Reply result;

        result.verdict = done->kind == Kind::claim ? Verdict::claimed : Verdict::done;
        result.token = done->kind == Kind::claim ? done->token : 0;
        pool_.end(done, result);
    }
}

// True where the command is sent again, with the text of its script, or is
// dropped.
bool RedisReplyHandler::handle_no_script(RedisCommand *command, const ServerReply &reply) noexcept
{
    if (std::strcmp(reply.code, "NOSCRIPT") != 0 || (command->as_eval && !command->timed_out)) {
        return false;
    }

    if (command->timed_out) {
        pool_.recycle(command);
        return true;
    }

    // The command goes to the end of the queue.  The commands that overtake it
    // were in flight at the same time, and no call has the outcome of either: the
    // two may run in any order.
    command->as_eval = true;
    sender_.send(command);
    return true;
}

// True where the command was sent to the wrong node, which has not run it.
bool RedisReplyHandler::handle_redirect(RedisCommand *command, const ServerReply &reply) noexcept
{
    RedisRedirect redirect;

    if (!parse_redis_redirect(reply.text, redirect)) {
        return false;
    }

    Call *call = command->call;
    Millis deadline = command->deadline;
    RedisCommandQueue followers = RedisCommandPool::take_followers(*command);

    pool_.recycle(command);

    if (call != nullptr) {
        events_.redirected(*call, deadline, redirect);
    }

    while (!followers.empty()) {
        RedisCommand *follower = followers.pop();
        Call &shared = *follower->call;

        deadline = follower->deadline;
        pool_.recycle(follower);
        events_.redirected(shared, deadline, redirect);
    }

    return true;
}

// A claim has found a value above the limit.  The value is fetched over another
// connection, and only if the call wants a value of this size: a very large value
// costs Redis and the network something even where it is thrown away here.  The
// memory is taken when the value arrives, because many calls may wait for theirs.
void RedisReplyHandler::handle_too_large(RedisCommand *command, std::size_t size,
                                         Millis now) noexcept
{
    Call *call = command->call;
    Millis deadline = command->deadline;
    Millis remaining = 0;

    if (call == nullptr || !value_.has_buffer || !parse_pttl(value_.bytes, remaining)
        || (size > call->fetch_limit && call->allocate_value(*call, size) == nullptr))
    {
        pool_.end(command, failed_reply(Cause::corrupt));
        return;
    }

    call->large = size;
    call->large_until = now + remaining;
    pool_.recycle(command);
    events_.rerouted(*call, deadline);
}

// A large value is fetched by a plain GET: a script would copy it twice more,
// and Redis runs no other command meanwhile.  Where the key has a value of
// another size by now the key is claimed once more.
void RedisReplyHandler::handle_fetch(RedisCommand *command, const ServerReply &reply,
                                     Millis now) noexcept
{
    Call *call = command->call;
    Millis deadline = command->deadline;
    Reply result;

    if (reply.kind != ServerReply::Kind::string && reply.kind != ServerReply::Kind::nil) {
        end_with_fault(command);
        return;
    }

    bool is_there =
        reply.kind == ServerReply::Kind::string && call != nullptr && value_.size == call->large;

    if (call != nullptr && !is_there) {
        RedisCommandQueue followers = RedisCommandPool::take_followers(*command);

        call->large = 0;
        pool_.recycle(command);
        events_.rerouted(*call, deadline);

        while (!followers.empty()) {
            RedisCommand *follower = followers.pop();
            Call &shared = *follower->call;

            deadline = follower->deadline;
            shared.large = 0;
            pool_.recycle(follower);
            events_.rerouted(shared, deadline);
        }
        return;
    }

    if (is_there && value_.has_buffer) {
        result = found_result(value_, call->large_until > now ? call->large_until - now : 0);
    }

    pool_.end(command, result);
}

// The reply of a script, or an error.
void RedisReplyHandler::handle_result(RedisCommand *command, const ServerReply &reply) noexcept
{
    Reply result;

    if (!interpret_reply(*command, reply, value_, result)) {
        end_with_fault(command);
        return;
    }

    if (reply.kind == ServerReply::Kind::error) {
        events_.error_reply(command->name(), reply.code, &command->id,
                            advice_for_error(reply.text));
    }

    if (is_bulk_length_error(*command, reply)) {
        sender_.set_value_refused();
    }

    if (!hold_for_replicas(command, result)) {
        pool_.end(command, result);
    }
}

// True where the call ends only when the replicas have the change.
bool RedisReplyHandler::hold_for_replicas(RedisCommand *command, const Reply &result) noexcept
{
    bool changed = result.verdict == Verdict::claimed
                   || (result.verdict == Verdict::done && command->changes_key());

    if (!changed || options_.replicas == 0 || command->call == nullptr) {
        return false;
    }

    if (command->kind == Kind::claim) {
        command->token = result.token;
    }

    replicas_.hold(command);
    return true;
}

}  // namespace idempotency
