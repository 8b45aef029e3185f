// The commands that the module has for Redis, from a call to its end.

#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "core/deadline_queue.h"
#include "core/store.h"

namespace idempotency {

// How the commands are to be.
struct RedisManner {
    std::string_view prefix;       // of every key; outlives the pipeline
    Millis timeout = 1000;         // of the answer to a command of the pipeline's own
    bool single_renewals = false;  // one key each, as a cluster wants it
    std::size_t inline_limit = 0;  // the largest value that is sent over it; 0: any

    // How many claims, results and large values may be under way at a time, the
    // others wait here: what Redis has to keep of its answers is bounded so.  0: any number.
    std::size_t most_in_flight = 0;

    // How many replicas are to have a claim or a result before the call ends,
    // and how long that may take: the deadlines of calls are to allow for it.
    // 0: none.
    unsigned replicas = 0;
    Millis replica_wait = 0;
};

struct RedisCommand {
    enum class Kind { auth, select, role, ping, claim, settle, release, renew, wait, fetch };

    RedisCommand *next = nullptr;
    Kind kind = Kind::ping;
    bool by_text = false;  // sent as EVAL, after NOSCRIPT
    bool late = false;     // past its deadline; its answer is only read
    bool asking = false;   // sent behind an ASKING
    bool asked = false;    // whose answer is still to come
    Call *call = nullptr;  // null: the pipeline's own, or the call has ended
    KeyId id{};
    Token token = 0;
    Millis deadline = 0;
    Millis lease = 0;       // of a claim
    Millis owed_until = 0;  // a release that nobody waits for: the claim ends by then
    std::uint64_t asking_end = 0;
    std::uint64_t end = 0;  // of its bytes, as RedisOutput counts
    std::unique_ptr<Lease[]> leases;
    std::size_t lease_count = 0;

    const char *name() const;

    bool greets() const { return kind <= Kind::ping; }
    bool changes() const { return kind == Kind::claim || kind == Kind::settle; }
    bool takes_room() const { return changes() || kind == Kind::fetch; }
    bool is_owed() const { return kind == Kind::release && call == nullptr && owed_until != 0; }
};

using RedisCommandQueue = DeadlineQueue<RedisCommand>;

}  // namespace idempotency
