#include "redis/protocol/sentinel_votes.h"

#include <algorithm>
#include <cstring>

#include <strings.h>

namespace idempotency {

void RedisSentinelVotes::restart() noexcept
{
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
    if (is_master) {
        return master_available
                   ? Decision{Step::keep_master}
                   : Decision{Step::query_next, nullptr, "it names the server that is unavailable"};
    }

    Candidate *candidate = find_or_add(named);

    if (candidate != nullptr) {
        candidate->votes++;
    }

    if (candidate == nullptr || candidate->is_rejected) {
        return {Step::query_next, nullptr, "it names a server that is not a master"};
    }

    if (2 * candidate->votes > sentinel_count_) {
        return {Step::check_role, &candidate->endpoint};
    }

    return {Step::query_next, nullptr, "too few sentinels name the same server"};
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

// Of several with the same number of votes, the one that was named first.
RedisSentinelVotes::Decision RedisSentinelVotes::decide(bool master_available) const noexcept
{
    const Candidate *best = nullptr;

    if (master_available) {
        return {Step::keep_master};
    }

    for (const Candidate &each : candidates_) {
        if (!each.is_rejected && each.votes > (best != nullptr ? best->votes : 0)) {
            best = &each;
        }
    }

    return best != nullptr ? Decision{Step::check_role, &best->endpoint}
                           : Decision{Step::no_master};
}

}  // namespace idempotency
