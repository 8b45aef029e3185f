// Which master the sentinels agree on, in one round of queries to them.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "redis/protocol/slots.h"

namespace idempotency {

// One sentinel may have outdated information, or lie.  So only a server that more than
// half of the sentinels name becomes the master.  There is one exception: where no master
// is known yet and too few sentinels reply, a server that all of them name is enough.
//
// Every candidate is asked for its role before it is used; one that turns out not
// to be a master, or cannot be reached, is rejected for the rest of the round.
class RedisSentinelVotes {
public:
    // Further servers that are named in the same round get no votes.
    static constexpr std::size_t kMaxCandidates = 8;

    enum class Step {
        keep_master,  // the round is over: the present master stays
        query_next,   // query the next sentinel, or call `decide` where there is none
        check_role,   // ask the candidate for its role
        no_master,    // the round is over: no server to try is left
    };

    struct Decision {
        Step step;
        const RedisEndpoint *candidate = nullptr;  // with check_role; valid until `restart`
        const char *reason = nullptr;              // with query_next: why the reply does not decide
    };

    explicit RedisSentinelVotes(std::size_t sentinel_count) noexcept
        : sentinel_count_(sentinel_count)
    {}

    // A new round: no votes, and no candidate is rejected.
    void restart() noexcept;

    // A sentinel names a server, whose host is not empty.  `is_master`: it is the
    // present master.  `master_available`: there is a master, and it is available.
    Decision add_vote(const RedisEndpoint &named, bool is_master, bool master_available) noexcept;

    // The candidate is not a master, or cannot be reached.  Case does not count in
    // `host`.
    void reject(std::string_view host, std::uint16_t port) noexcept;

    // All sentinels have been queried, and no candidate with a majority has become
    // the master.  `master_known`: there is one, available or not.
    Decision decide(bool master_known, bool master_available) const noexcept;

private:
    struct Candidate {
        RedisEndpoint endpoint;
        std::size_t votes = 0;  // 0: this place is free
        bool is_rejected = false;
    };

    Candidate *find_or_add(const RedisEndpoint &named) noexcept;

    std::size_t sentinel_count_;
    std::size_t vote_count_ = 0;
    Candidate candidates_[kMaxCandidates];
};

}  // namespace idempotency
