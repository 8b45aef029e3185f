// What the pipeline to Redis holds until replicas have it.

#include "pipeline_harness.h"

#include <cstring>
#include <string>

using namespace idempotency;

namespace {

RedisPipelineOptions options_with_replicas()
{
    RedisPipelineOptions options = Harness::options_of_tests();

    options.replicas = 2;
    options.replica_wait = 50;
    return options;
}

const std::string kWait = "*3\r\n$4\r\nWAIT\r\n$1\r\n2\r\n$2\r\n50\r\n";

bool ends_with(const std::string &text, const std::string &end)
{
    return text.size() >= end.size()
           && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// A connection on which there have been replicas enough.
void greet_with_replicas(Harness &redis)
{
    TestCall claim(Call::Kind::claim, 'z');

    redis.greet();

    // as long as that is not known
    assert_int_equal(count_of(redis.send(claim), "WAIT"), 0);
    redis.reply(":1\r\n");
    assert_int_equal(claim.ends, 0);
    assert_true(redis.written() == kWait);
    redis.reply(":2\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
}

UNIT_TEST(changes_of_a_key_wait_for_the_replicas)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'),
        found(Call::Kind::claim, 'c'), lost(Call::Kind::settle, 'd'),
        release(Call::Kind::release, 'e');
    Lease lease;

    greet_with_replicas(redis);

    // nobody waits for what these come to
    redis.pipeline.renew(&lease, 1, redis.now);
    redis.start(release);
    assert_int_equal(count_of(redis.written(), "WAIT"), 0);
    redis.reply(":1\r\n:1\r\n");
    assert_true(release.ended_as(Verdict::done));

    // one for all
    for (TestCall *call : {&claim, &settle, &found, &lost}) {
        assert_false(redis.start(*call));
    }

    std::string bytes = redis.written();

    assert_true(ends_with(bytes, kWait));
    assert_int_equal(count_of(bytes, "WAIT"), 1);

    redis.reply(":7\r\n:1\r\n" + found_reply("value", 9) + ":0\r\n");
    assert_true(found.ended_as(Verdict::found));
    assert_true(lost.ended_as(Verdict::lost));
    assert_int_equal(claim.ends + settle.ends, 0);
    assert_false(redis.pipeline.idle());

    redis.reply(":2\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_true(claim.reply.token == 7);
    assert_true(settle.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
    assert_true(redis.written().empty());
    assert_string_equal(redis.errors.c_str(), "");
}

// With too few replicas each one blocks the connection: they must not add up.
UNIT_TEST(one_wait_is_in_flight_at_a_time)
{
    Harness redis(options_with_replicas());
    TestCall first(Call::Kind::claim, 'a'), second(Call::Kind::claim, 'b'),
        third(Call::Kind::settle, 'c');

    greet_with_replicas(redis);
    assert_int_equal(count_of(redis.send(first), "WAIT"), 1);
    assert_int_equal(count_of(redis.send(second), "WAIT"), 0);
    assert_int_equal(count_of(redis.send(third), "WAIT"), 0);

    redis.reply(":5\r\n:3\r\n:6\r\n");
    assert_true(first.ended_as(Verdict::claimed));
    assert_int_equal(second.ends, 0);
    assert_true(redis.written() == kWait);

    redis.reply(":1\r\n");
    assert_int_equal(third.ends, 0);
    redis.reply(":2\r\n");
    assert_true(second.ended_as(Verdict::claimed));
    assert_true(second.reply.token == 6);
    assert_true(third.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
}

UNIT_TEST(a_claim_that_too_few_replicas_have_is_released)
{
    const struct {
        const char *answer;
        const char *error;
    } cases[] = {
        {":1\r\n", "WAIT NOREPLICAS;"},
        {":-1\r\n", "WAIT NOREPLICAS;"},
        {"-NOPERM this user has no permissions to run the 'wait' command\r\n", "WAIT NOPERM;"},
        {"-UNBLOCKED force unblock from blocking operation, instance state changed\r\n",
         "WAIT UNBLOCKED;"},
    };

    for (const auto &each : cases) {
        Harness redis(options_with_replicas());
        TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b');

        greet_with_replicas(redis);
        redis.start(claim);
        redis.start(settle);
        redis.written();
        redis.reply(":258\r\n:1\r\n");
        redis.reply(each.answer);
        assert_true(claim.ended_as(Verdict::unavailable));
        assert_true(claim.reply.token == 0);
        assert_true(settle.ended_as(Verdict::unavailable));
        assert_string_equal(redis.errors.c_str(), each.error);

        // its token, and nobody else's; no WAIT for that
        std::string bytes = redis.written();

        assert_int_equal(count_of(bytes, std::string(redis.scripts.sha(RedisScript::release))), 1);
        assert_true(ends_with(bytes, std::string("$8\r\n\0\0\0\0\0\0\1\2\r\n", 14)));
        redis.reply(":1\r\n");
        assert_true(redis.pipeline.idle());
        assert_null(redis.pipeline.fault());
    }
}

UNIT_TEST(too_few_replicas_are_not_reported_where_nothing_is_held)
{
    Harness redis(options_with_replicas());
    TestCall found(Call::Kind::claim, 'a'), claim(Call::Kind::claim, 'b');

    greet_with_replicas(redis);
    redis.start(found);
    redis.start(claim);
    redis.written();
    redis.reply(found_reply("value", 9) + kNoScript + ":0\r\n");
    assert_string_equal(redis.errors.c_str(), "");

    // the script was sent again: so is the WAIT, when there is something to wait for
    assert_int_equal(count_of(redis.written(), "WAIT"), 0);
    redis.reply(":7\r\n");
    assert_int_equal(claim.ends, 0);
    assert_true(redis.written() == kWait);
    redis.reply(":4\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
}

UNIT_TEST(a_held_call_ends_at_its_deadline)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'),
        later(Call::Kind::settle, 'c');

    greet_with_replicas(redis);
    redis.start(claim);
    redis.start(settle);
    redis.now += 30;
    redis.start(later);
    redis.written();
    redis.reply(":258\r\n:1\r\n:1\r\n");
    assert_true(redis.pipeline.next_deadline() == 1100);

    redis.pipeline.expire(1100);
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(settle.ended_as(Verdict::unavailable));
    assert_int_equal(later.ends, 0);
    assert_null(redis.pipeline.fault());

    std::string bytes = redis.written();

    assert_int_equal(count_of(bytes, std::string(redis.scripts.sha(RedisScript::release))), 1);
    assert_true(ends_with(bytes, std::string("$8\r\n\0\0\0\0\0\0\1\2\r\n", 14)));

    // now they have it, which is too late for the two
    redis.reply(":2\r\n:1\r\n");
    assert_true(later.ended_as(Verdict::done));
    assert_true(redis.pipeline.idle());
    assert_int_equal(claim.ends, 1);
}

void is_released_next(Harness &redis)
{
    redis.pipeline.open(RedisLogin(), redis.now);
    redis.written();
    redis.reply(kPong);

    std::string bytes = redis.written();

    assert_int_equal(count_of(bytes, "EVALSHA"), 1);
    assert_int_equal(count_of(bytes, std::string(redis.scripts.sha(RedisScript::release))), 1);
    assert_true(ends_with(bytes, std::string("$8\r\n\0\0\0\0\0\0\1\2\r\n", 14)));
}

// A release is owed to a claim whoever is on the other side by then.
UNIT_TEST(a_claim_that_is_held_when_the_connection_is_closed_is_released)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'b'),
        next(Call::Kind::claim, 'c');

    greet_with_replicas(redis);
    redis.start(claim);
    redis.start(settle);
    redis.written();
    redis.reply(":258\r\n:1\r\n");
    redis.pipeline.close();
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(settle.ended_as(Verdict::unavailable));
    assert_true(redis.pipeline.idle());
    redis.pipeline.end_waiting();

    is_released_next(redis);
    redis.reply(":1\r\n");
    assert_true(redis.pipeline.idle());

    // the new connection has a WAIT of its own
    redis.send(next);
    redis.reply(":9\r\n");
    assert_true(redis.written() == kWait);
    redis.pipeline.close();
    assert_true(next.ended_as(Verdict::unavailable));

    // by then its lease has ended
    redis.now += kTimeout + next.lifetime;
    redis.pipeline.open(RedisLogin(), redis.now);
    redis.written();
    redis.reply(kPong);
    assert_true(redis.written().empty());
}

UNIT_TEST(a_release_is_kept_until_it_is_done)
{
    Harness redis;
    TestCall claim(Call::Kind::claim, 'a');

    redis.greet();
    redis.send(claim);
    redis.now += kTimeout;
    redis.pipeline.expire(redis.now);
    redis.reply(":258\r\n");
    assert_int_equal(count_of(redis.written(), "EVALSHA"), 1);

    // the connection ends before the answer; the next one is to a replica
    redis.pipeline.close();
    redis.pipeline.end_waiting();
    is_released_next(redis);
    redis.reply("-READONLY You can't write against a read only replica.\r\n");
    redis.pipeline.close();
    is_released_next(redis);

    // late, and it has lost its scripts
    redis.pipeline.close();
    is_released_next(redis);
    redis.now += kTimeout;
    redis.pipeline.expire(redis.now);
    assert_true(redis.pipeline.stalled());
    redis.reply(kNoScript);
    assert_int_equal(count_of(redis.written(), "$4\r\nEVAL\r\n"), 1);

    // what Redis refuses for another reason it would refuse again
    redis.reply("-NOPERM no\r\n");
    redis.pipeline.close();
    redis.greet();
    assert_true(redis.written().empty());
    assert_string_equal(redis.errors.c_str(), "release READONLY key;release NOPERM key;");
}

UNIT_TEST(a_wait_without_a_reply_is_a_stall)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), refused(Call::Kind::claim, 'b');

    greet_with_replicas(redis);
    redis.send(claim);
    redis.reply(":258\r\n");
    redis.now = 1150;
    redis.pipeline.expire(redis.now);
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(redis.pipeline.stalled());
    assert_true(redis.start(refused));

    Millis end = redis.pipeline.next_deadline();

    // that of the release, behind a WAIT of whatever length
    assert_true(end == 1150 + kTimeout + 50);
    redis.written();
    redis.pipeline.expire(1450);
    assert_non_null(redis.pipeline.fault());
}

UNIT_TEST(the_reply_to_a_wait_is_a_number)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a');

    greet_with_replicas(redis);
    redis.send(claim);
    redis.reply(":258\r\n+OK\r\n");
    assert_non_null(redis.pipeline.fault());
    assert_int_equal(claim.ends, 0);
    redis.pipeline.close();
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_true(redis.pipeline.idle());
}

// The release of a claim that was granted off the slot's own node, too.
UNIT_TEST(a_claim_after_asking_is_released_with_asking)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a');

    greet_with_replicas(redis);
    assert_false(redis.pipeline.start(claim, redis.now + kTimeout, true));
    redis.written();
    redis.reply("+OK\r\n:7\r\n:0\r\n");
    assert_true(claim.ended_as(Verdict::unavailable));
    assert_int_equal(redis.written().rfind("*1\r\n$6\r\nASKING\r\n*5\r\n", 0), 0);
    redis.reply("+OK\r\n:1\r\n");
    assert_true(redis.pipeline.idle());
}

UNIT_TEST(a_call_may_start_another_one_when_the_replicas_have_it)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), settle(Call::Kind::settle, 'a');

    claim.then = [&](TestCall &ended) {
        settle.token = ended.reply.token;
        assert_false(redis.start(settle));
    };

    greet_with_replicas(redis);
    redis.send(claim);
    redis.reply(":9\r\n:2\r\n");
    assert_true(claim.ended_as(Verdict::claimed));
    assert_true(ends_with(redis.written(), kWait));
    redis.reply(":1\r\n:2\r\n");
    assert_true(settle.ended_as(Verdict::done));
}

// With too few replicas a WAIT takes all of its time: who changes nothing must not stand behind one.
UNIT_TEST(a_found_value_does_not_wait_for_replicas)
{
    Harness redis(options_with_replicas());
    TestCall claim(Call::Kind::claim, 'a'), found(Call::Kind::claim, 'b'),
        lost(Call::Kind::settle, 'c');

    greet_with_replicas(redis);
    redis.send(claim);
    redis.reply(":7\r\n:1\r\n");
    assert_true(claim.ended_as(Verdict::unavailable));
    redis.written();
    redis.reply(":1\r\n");

    assert_int_equal(count_of(redis.send(found), "WAIT"), 0);
    assert_int_equal(count_of(redis.send(lost), "WAIT"), 0);
    redis.reply(found_reply("value", 9) + ":0\r\n");
    assert_true(found.ended_as(Verdict::found));
    assert_true(lost.ended_as(Verdict::lost));
    assert_true(redis.written().empty());
}

}  // namespace
