// The commands of one connection to Redis, from a call to its end: what is to
// be written, what is waited for, what an answer means.
//
// It does no input or output and has no clock: bytes and the time (milliseconds
// of any clock that never goes back) come from its owner.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include <sys/uio.h>

#include "core/free_list.h"
#include "redis/protocol/command.h"
#include "redis/protocol/encoder.h"
#include "redis/protocol/meaning.h"
#include "redis/protocol/output.h"
#include "redis/protocol/reader.h"
#include "redis/protocol/redirect.h"
#include "redis/protocol/replicas.h"
#include "redis/protocol/script.h"
#include "core/store.h"

namespace idempotency {

// Who logs in, and to which database.  An empty password: nobody does.
struct RedisLogin {
    std::string_view user;
    std::string_view password;
    std::uint32_t database = 0;
    bool master_only = false;  // who is none is not greeted
};

// How many claims one command renews: a script blocks Redis while it runs.
constexpr std::size_t kRenewedAtOnce = 512;

class RedisPipeline : private RedisReader::Sink {
public:
    // What the owner is told.  It may start calls from within, and nothing else.
    class Events {
    public:
        // Redis has greeted back: the calls that waited are on their way.
        virtual void greeted() = 0;

        // A command came back with an error, which `code` names.  `id` is the
        // key's, or null where a command has none or many; `what` is the command.
        // Too few replicas are "WAIT" and "NOREPLICAS".
        virtual void error_answer(const char *what, const char *code, const KeyId *id) = 0;

        // Another node has the key of this call, which is the owner's again and
        // has not ended: it was not carried out.  `redirect` is gone afterwards.
        virtual void redirected(Call &call, Millis deadline, const RedisRedirect &redirect) = 0;

        // The same of a renewal.
        virtual void lease_redirected(const Lease &lease, const RedisRedirect &redirect) = 0;

        // The claim found a value that is larger than is sent over this
        // connection, and has room for it: Call::large says so.  Or that value is
        // not there any more, and it is 0 again.  Either way the call goes on over
        // another connection: it is the owner's and has not ended.
        virtual void rerouted(Call &call, Millis deadline) = 0;

    protected:
        ~Events() = default;
    };

    // `scripts` and `events` outlive this object.
    RedisPipeline(const RedisScripts &scripts, const RedisManner &manner, Events &events) noexcept;
    ~RedisPipeline();

    // A fresh connection: greets Redis before anything else is sent.  `login`
    // is read at once.
    void open(const RedisLogin &login, Millis now) noexcept;

    // The connection is gone.  What was in flight ends as `unavailable`, since
    // nobody knows whether Redis ran it; what was never sent goes on waiting.
    // A claim that is known to be granted, and that nobody has got, is released
    // over the next connection, whenever that comes.
    void close() noexcept;

    // There won't be another connection soon: ends what waits.
    void give_up() noexcept;

    // True where the call has ended at once, as `unavailable`.  Before Redis
    // has greeted back it waits.  `asking`: a node of a cluster has sent it here
    // though the key's slot has not moved yet.
    bool start(Call &call, Millis deadline, bool asking = false) noexcept;

    // Best effort; nothing happens where answers are late.
    void renew(const Lease *leases, std::size_t count, Millis now) noexcept;

    // Sends no further calls over this connection: they wait for the next one.
    void pause() noexcept { paused_ = true; }

    // All that was sent has been answered, or its time is up.
    bool drained() const noexcept;

    // The next bytes to write, and how many of them were written.  It is called
    // before each writing: what has been started before shares a WAIT.  An
    // answer may bring one, too.
    std::size_t output(iovec *out, std::size_t most) noexcept;
    void wrote(std::size_t size) noexcept { output_.wrote(size); }

    // Bytes that were read.
    void input(std::string_view bytes, Millis now) noexcept;

    // Ends the calls whose deadline has come.  There may be something to write
    // afterwards.
    void expire(Millis now) noexcept;

    // When `expire` has something to do next, or kNever.
    Millis next_deadline() const noexcept;

    // Why the connection is of no use any more, or null: it is to be closed.
    const char *fault() const { return fault_; }

    bool ready() const { return state_ == State::ready && fault_ == nullptr; }

    // Answers are late: further calls would only wait in vain.
    bool stalled() const { return late_ > 0; }

    // Nothing is waited for.
    bool idle() const { return in_flight_.empty() && waiting_.empty() && replicas_.holds_none(); }

private:
    enum class State { closed, greeting, ready };
    using Kind = RedisCommand::Kind;

    RedisCommand *take_command(Kind kind, Millis deadline) noexcept;
    void recycle(RedisCommand *command) noexcept;
    void send(RedisCommand *command) noexcept;
    void send_waiting() noexcept;
    void send_wait() noexcept;
    bool has_room() const noexcept;
    Millis own_deadline(Millis now) const noexcept;

    bool greet(Kind kind, std::string_view first, std::string_view second, Millis now) noexcept;
    bool renew_batch(const Lease *leases, std::size_t count, Millis now) noexcept;
    void release_late(const RedisCommand &claim, Token token, Millis now) noexcept;

    char *value(std::size_t size) override;
    void take_answer(const RedisAnswer &answer, Millis now) noexcept;
    void take_greeting(const RedisCommand &command, const RedisAnswer &answer, Millis now) noexcept;
    bool take_asking(RedisCommand &command, const RedisAnswer &answer) noexcept;
    void take_too_large(RedisCommand *command, std::size_t size, Millis now) noexcept;
    void take_fetched(RedisCommand *command, const RedisAnswer &answer, Millis now) noexcept;
    bool take_redirect(RedisCommand *command, const RedisAnswer &answer) noexcept;
    bool take_no_script(RedisCommand *command, const RedisAnswer &answer) noexcept;
    void take_wait(RedisCommand *command, const RedisAnswer &answer, Millis now) noexcept;
    bool hold(RedisCommand *command, const Reply &reply) noexcept;
    void end(RedisCommand *command, const Reply &reply) noexcept;
    void end_all(RedisCommandQueue queue) noexcept;
    void end_unconfirmed(RedisCommandQueue held) noexcept;
    void owe(RedisCommand *release) noexcept;
    void send_owed(Millis now) noexcept;
    void end_in_vain(RedisCommandQueue queue, Millis now) noexcept;

    RedisManner manner_;
    Events &events_;

    State state_ = State::closed;
    const char *fault_ = nullptr;
    bool paused_ = false;
    RedisReader reader_;
    RedisOutput output_;

    RedisEncoder encoder_;
    RedisReplicas replicas_;

    RedisCommandQueue in_flight_;  // sent, in the order of the answers
    RedisCommandQueue waiting_;    // until Redis has greeted back, or has room
    RedisCommandQueue owed_;       // releases for which there was no connection
    FreeList<RedisCommand> unused_;
    std::size_t late_ = 0;  // how many in flight are past their deadline
    std::size_t room_taken_ = 0;

    RedisValue value_;  // of the answer that is being read
};

}  // namespace idempotency
