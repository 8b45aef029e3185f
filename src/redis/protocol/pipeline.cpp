#include "redis/protocol/pipeline.h"

#include <algorithm>
#include <charconv>

namespace idempotency {

namespace {

// A stalled connection is closed after so many timeouts without the reply.
// Until then Redis may reply, and calls can be sent again.
constexpr Millis kStalledTimeouts = 3;

constexpr const char *kNoReply = "it does not reply";

}  // namespace

RedisPipeline::RedisPipeline(const RedisScripts &scripts, const RedisPipelineOptions &options,
                             Events &events) noexcept
    : options_(options), sender_(scripts, options_, pool_, replicas_),
      replies_(options_, events, pool_, sender_, replicas_)
{}

RedisPipeline::~RedisPipeline()
{
    close();
    end_waiting(Cause::connection);
}

// The connection

void RedisPipeline::open(const RedisLogin &login, Millis now) noexcept
{
    using Kind = RedisCommand::Kind;

    char database[16];
    auto end = std::to_chars(database, database + sizeof(database), login.database).ptr;

    sender_.open();
    progress_at_ = 0;
    is_proven_ = false;

    bool sent = replies_.open()
                && (login.password.empty()
                    || sender_.send_greeting(Kind::auth, login.user, login.password, now))
                && (login.database == 0
                    || sender_.send_greeting(Kind::select, {},
                                             {database, std::size_t(end - database)}, now))
                && (!login.master_only || sender_.send_greeting(Kind::role, {}, {}, now))
                && sender_.send_greeting(Kind::ping, {}, {}, now);

    if (!sent) {
        sender_.set_out_of_memory();
    }
}

void RedisPipeline::close() noexcept
{
    // all of the state first: a call that ends may start another one
    RedisCommandQueue in_flight = sender_.close();
    RedisCommandQueue held = replicas_.close();

    replies_.close();

    pool_.end_unknown(in_flight, Cause::connection);
    pool_.end_unknown(held, Cause::connection);
}

void RedisPipeline::end_waiting(Cause cause) noexcept
{
    pool_.end_unsent(sender_.take_waiting(), cause);
}

// Calls

bool RedisPipeline::start(Call &call, Millis deadline, bool asking) noexcept
{
    using Kind = RedisCommand::Kind;

    // in the order of Call::Kind
    static constexpr Kind kinds[] = {Kind::claim, Kind::settle, Kind::release, Kind::renew,
                                     Kind::replace};

    bool fetches = call.kind == Call::Kind::claim && call.large > 0;
    Kind kind = fetches ? Kind::fetch : kinds[static_cast<std::size_t>(call.kind)];
    bool is_possible = fault() == nullptr && (!stalled() || call.behind_claim);
    RedisCommand *command = is_possible ? pool_.make(kind, deadline) : nullptr;

    call.reply = Reply();

    if (command == nullptr) {
        call.reply.cause = is_possible          ? Cause::no_memory
                           : fault() != nullptr ? Cause::connection
                                                : Cause::timeout;
        return true;
    }

    command->call = &call;
    command->id = call.id;
    command->token = call.token;
    command->asking = asking;
    command->as_eval = call.send_only || call.behind_claim;  // Redis may not have the script
    sender_.send_or_queue(command);
    return false;
}

void RedisPipeline::input(std::string_view bytes, Millis now) noexcept
{
    if (ready() && !bytes.empty()) {
        progress_at_ = now;
        is_proven_ = true;
    }

    replies_.input(bytes, now);
}

std::uint64_t RedisPipeline::large_value_end() const noexcept
{
    constexpr std::uint64_t min_large = 64 * 1024;
    const RedisCommand *first = sender_.first_in_flight();

    return ready() && first != nullptr && first->end - first->begin >= min_large ? first->end : 0;
}

// Deadlines

// As long as Redis replies, the calls that wait behind others are not late.
Millis RedisPipeline::quiet_until() const noexcept
{
    return ready() && progress_at_ != 0 ? options_.wait_deadline(progress_at_) : 0;
}

void RedisPipeline::expire(Millis now) noexcept
{
    if (now < quiet_until()) {
        return;
    }

    pool_.end_unsent(sender_.take_expired_waiting(now), Cause::timeout);

    if (fault() == nullptr) {
        pool_.end_unknown(replicas_.take_expired(now), Cause::replicas);
    }

    expire_in_flight(now);

    if (now >= stall_deadline()) {
        sender_.set_fault(kNoReply);
    }
}

void RedisPipeline::expire_in_flight(Millis now) noexcept
{
    RedisCommand *at = sender_.first_in_flight();

    for (/* void */; at != nullptr && fault() == nullptr; at = at->next) {
        if (at->timed_out || at->deadline > now) {
            continue;
        }

        // Bytes that are still to be written may be in memory of the caller, who
        // frees it when the call ends.  The rest of the command cannot be left
        // out, and a connection that has taken no bytes for so long is dead.
        if (!sender_.is_written(at->end) || at->is_greeting()) {
            sender_.set_fault(kNoReply);
            return;
        }

        Call *call = at->call;
        RedisCommandQueue followers = RedisCommandPool::take_followers(*at);

        at->call = nullptr;
        sender_.set_timed_out(*at);

        // a part of this reply may be in the call's buffer already
        if (at == sender_.first_in_flight()) {
            replies_.drop_value();
        }

        Reply result = at->unknown_result(Cause::timeout);

        pool_.end_followers(followers, result, 0);

        if (call != nullptr) {
            call->reply = result;
            call->ended(*call);
        }
    }
}

// When a stalled connection is closed, or kNever.
Millis RedisPipeline::stall_deadline() const noexcept
{
    const RedisCommand *first = sender_.first_in_flight();

    return first != nullptr && first->timed_out
               ? first->deadline + kStalledTimeouts * options_.timeout
               : kNever;
}

Millis RedisPipeline::next_deadline() const noexcept
{
    Millis next = std::min({sender_.next_deadline(), replicas_.next_deadline(), stall_deadline()});

    return std::max(next, quiet_until());
}

}  // namespace idempotency
