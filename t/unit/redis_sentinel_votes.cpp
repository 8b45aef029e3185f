// Which server is tried as the master, whatever the sentinels name.

#include "cmocka.h"

#include <cstring>
#include <string>

#include "redis/protocol/sentinel_votes.h"

using namespace idempotency;

namespace {

using Votes = RedisSentinelVotes;
using Step = RedisSentinelVotes::Step;

RedisEndpoint endpoint(const std::string &host, std::uint16_t port = 6379)
{
    RedisEndpoint out;

    assert_true(out.set(host, port));
    return out;
}

void assert_checks_role_of(const Votes::Decision &decision, const char *host,
                           std::uint16_t port = 6379)
{
    assert_int_equal(decision.step, Step::check_role);
    assert_non_null(decision.candidate);
    assert_string_equal(decision.candidate->host, host);
    assert_int_equal(decision.candidate->port, port);
}

void assert_queries_next(const Votes::Decision &decision, const char *reason)
{
    assert_int_equal(decision.step, Step::query_next);
    assert_null(decision.candidate);
    assert_non_null(decision.reason);
    assert_non_null(std::strstr(decision.reason, reason));
}

// Without a master.
Votes::Decision vote(Votes &votes, const std::string &host, std::uint16_t port = 6379)
{
    return votes.add_vote(endpoint(host, port), false, false);
}

UNIT_TEST(a_single_sentinel_is_a_majority)
{
    Votes votes(1);

    assert_checks_role_of(vote(votes, "a"), "a");
}

UNIT_TEST(a_majority_is_more_than_half)
{
    Votes three(3), four(4);

    assert_queries_next(vote(three, "a"), "too few");
    assert_checks_role_of(vote(three, "a"), "a");

    assert_queries_next(vote(four, "a"), "too few");
    assert_queries_next(vote(four, "a"), "too few");
    assert_checks_role_of(vote(four, "a"), "a");
}

UNIT_TEST(votes_are_for_host_and_port)
{
    Votes votes(3);

    assert_queries_next(vote(votes, "a", 1), "too few");
    assert_queries_next(vote(votes, "a", 2), "too few");
    assert_queries_next(vote(votes, "b", 1), "too few");
    assert_checks_role_of(vote(votes, "a", 2), "a", 2);
}

// One that is cut off may name it while the others have a new one.
UNIT_TEST(an_available_master_stays_where_a_majority_names_it)
{
    Votes votes(3);

    assert_queries_next(votes.add_vote(endpoint("new"), false, true), "too few");
    assert_queries_next(votes.add_vote(endpoint("master"), true, true), "too few");
    assert_int_equal(votes.add_vote(endpoint("master"), true, true).step, Step::keep_master);

    votes.restart();
    assert_queries_next(votes.add_vote(endpoint("master"), true, true), "too few");
    assert_queries_next(votes.add_vote(endpoint("new"), false, true), "too few");
    assert_checks_role_of(votes.add_vote(endpoint("new"), false, true), "new");
}

UNIT_TEST(an_available_master_stays_without_a_majority_for_another_server)
{
    Votes votes(3);

    assert_queries_next(votes.add_vote(endpoint("new"), false, true), "too few");
    assert_int_equal(votes.decide(true, true).step, Step::keep_master);
}

UNIT_TEST(an_available_master_is_replaced_by_a_majority)
{
    Votes votes(3);

    assert_queries_next(votes.add_vote(endpoint("new"), false, true), "too few");
    assert_checks_role_of(votes.add_vote(endpoint("new"), false, true), "new");
}

UNIT_TEST(a_vote_for_an_unavailable_master_does_not_count)
{
    Votes votes(1);

    assert_queries_next(votes.add_vote(endpoint("master"), true, false), "unavailable");
    assert_int_equal(votes.decide(true, false).step, Step::no_master);
}

UNIT_TEST(a_known_master_is_replaced_only_by_a_majority)
{
    Votes votes(5);

    assert_queries_next(vote(votes, "a"), "too few");
    assert_queries_next(vote(votes, "a"), "too few");
    assert_int_equal(votes.decide(true, false).step, Step::no_master);
    assert_checks_role_of(vote(votes, "a"), "a");
}

UNIT_TEST(at_the_start_all_sentinels_that_reply_must_agree)
{
    Votes votes(7);

    assert_int_equal(votes.decide(false, false).step, Step::no_master);
    vote(votes, "a");
    assert_checks_role_of(votes.decide(false, false), "a");
    vote(votes, "a");
    assert_checks_role_of(votes.decide(false, false), "a");
    vote(votes, "b");
    assert_int_equal(votes.decide(false, false).step, Step::no_master);
    vote(votes, "a");
    assert_int_equal(votes.decide(false, false).step, Step::no_master);

    // more than half
    assert_checks_role_of(vote(votes, "a"), "a");
}

UNIT_TEST(a_rejected_candidate_is_not_tried_again_in_the_round)
{
    Votes votes(3);

    vote(votes, "a.test");
    assert_checks_role_of(vote(votes, "a.test"), "a.test");
    votes.reject("A.test", 6379);
    assert_queries_next(vote(votes, "a.test"), "not a master");
    assert_int_equal(votes.decide(false, false).step, Step::no_master);

    votes.restart();
    vote(votes, "a.test");
    assert_checks_role_of(vote(votes, "a.test"), "a.test");
}

UNIT_TEST(after_a_rejection_no_other_server_is_tried_without_a_majority)
{
    Votes votes(5);

    vote(votes, "a");
    assert_checks_role_of(votes.decide(false, false), "a");
    votes.reject("a", 6379);
    assert_int_equal(votes.decide(false, false).step, Step::no_master);
    vote(votes, "b");
    assert_int_equal(votes.decide(false, false).step, Step::no_master);
}

UNIT_TEST(only_that_server_is_rejected)
{
    Votes votes(3);

    vote(votes, "a", 1);
    votes.reject("a", 2);
    votes.reject("aa", 1);
    votes.reject("", 1);
    assert_checks_role_of(vote(votes, "a", 1), "a", 1);
}

UNIT_TEST(a_restart_forgets_the_votes)
{
    Votes votes(3);

    vote(votes, "a");
    votes.restart();
    assert_int_equal(votes.decide(false, false).step, Step::no_master);
    assert_queries_next(vote(votes, "a"), "too few");
}

UNIT_TEST(servers_beyond_the_limit_get_no_votes)
{
    Votes votes(100);

    for (std::uint16_t port = 1; port <= Votes::kMaxCandidates; port++) {
        assert_queries_next(vote(votes, "a", port), "too few");
    }

    assert_queries_next(vote(votes, "a", 1000), "too many");
    assert_queries_next(vote(votes, "a", 2), "too few");
    assert_int_equal(votes.decide(false, false).step, Step::no_master);
}

}  // namespace
