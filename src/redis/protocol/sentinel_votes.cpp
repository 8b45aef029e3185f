#include "redis/protocol/sentinel_votes.h"

#include <algorithm>
#include <cstring>

#include <strings.h>

namespace idempotency {

void RedisSentinelVotes::restart() noexcept
{
    vote_count_ = 0;
    std::fill_n(candidates_, kMaxCandidates, Candidate());
}

// Null where all places are taken.
RedisSentinelVotes::Candidate *RedisSentinelVotes::find_or_add(const RedisEndpoint &named) noexcept
{
    for (Candidate &each : candidates_) {
        if (each.votes == 0) {
            each.endpoint = named;
            return &each;
        }

        if (each.endpoint.port == named.port && std::strcmp(each.endpoint.host, named.host) == 0) {
            return &each;
        }
    }

    return nullptr;
}

RedisSentinelVotes::Decision RedisSentinelVotes::add_vote(const RedisEndpoint &named,
                                                          bool is_master,
                                                          bool master_available) noexcept
{
    Candidate *candidate = find_or_add(named);

    vote_count_++;

    if (candidate == nullptr) {
        return {Step::query_next, nullptr, "the sentinels name too many servers"};
    }

    candidate->votes++;

    bool has_majority = 2 * candidate->votes > sentinel_count_;

    if (is_master && !master_available) {
        return {Step::query_next, nullptr, "it names the server that is unavailable"};
    }

    if (candidate->is_rejected) {
        return {Step::query_next, nullptr, "it names a server that is not a master"};
    }

    if (!has_majority) {
        return {Step::query_next, nullptr, "too few sentinels name the same server"};
    }

    return is_master ? Decision{Step::keep_master}
                     : Decision{Step::check_role, &candidate->endpoint};
}

void RedisSentinelVotes::reject(std::string_view host, std::uint16_t port) noexcept
{
    for (Candidate &each : candidates_) {
        bool is_same = each.votes > 0 && each.endpoint.port == port
                       && std::strlen(each.endpoint.host) == host.size()
                       && strncasecmp(each.endpoint.host, host.data(), host.size()) == 0;

        each.is_rejected = each.is_rejected || is_same;
    }
}

RedisSentinelVotes::Decision RedisSentinelVotes::decide(bool master_known,
                                                        bool master_available) const noexcept
{
    if (master_available) {
        return {Step::keep_master};
    }

    // the first candidate has all votes, or the sentinels disagree
    const Candidate &first = candidates_[0];
    bool all_agree = first.votes > 0 && first.votes == vote_count_;

    return !master_known && all_agree && !first.is_rejected
               ? Decision{Step::check_role, &first.endpoint}
               : Decision{Step::no_master};
}

}  // namespace idempotency
